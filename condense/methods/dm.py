"""DM: match the mean of the last features under random networks.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, equation 4.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from condense.methods.base import Described, Matching, widen
from condense.methods.discrepancy import DISCREPANCIES
from condense.networks.base import Network
from condense.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class DM(Matching):
    """loss_k = scale * || mean_real e - mean_syn e ||^2, e the embedding. See `Matching` for the two functions."""

    name: ClassVar[str] = "dm"
    matches_embedding: ClassVar[bool] = True

    loss_scale: float = 1.0
    """Factor on the loss. With a fixed learning rate it sets the step size of the pixels."""
    discrepancy: Literal["mean", "rbf", "cf"] = "mean"
    """How far real and synthetic embeddings are apart; see `condense.methods.discrepancy`."""

    def __post_init__(self) -> None:
        require("loss_scale", self.loss_scale, self.loss_scale > 0, "above 0")
        require(
            "discrepancy", self.discrepancy, self.discrepancy in DISCREPANCIES, "mean, rbf or cf"
        )

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """InstanceNorm, no ZCA, 20,000 steps."""
        return {"steps": 20_000, "lr": 1.0 if ipc <= 50 else 10.0}

    def describe(self, network: Network, images: Tensor) -> Described:
        """The embedding alone, [N, D]."""
        return [widen(network.embed(images))]

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The one term of each class, [C]."""
        return {"mmd": self.loss_scale * DISCREPANCIES[self.discrepancy](real[0], synthetic[0])}
