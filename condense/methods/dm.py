"""DM: match the mean of the last features under random networks.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, equation 4:

    loss_k = scale * || mean_real e - mean_syn e ||^2        with e the embedding
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from condense.methods.base import Described, Matching
from condense.methods.discrepancy import DISCREPANCIES
from condense.networks.base import Network, widen
from condense.settings import above, check_literals


@dataclass(frozen=True, kw_only=True, slots=True)
class DM(Matching):
    """The loss of the paper, with other distances between embeddings as an option.

    >>> import torch
    >>> from condense.networks.build import build
    >>> method, network = DM(), build("convnet-d2-w8", (1, 8, 8), num_classes=10)
    >>> (embeddings,) = method.describe(network, torch.rand(6, 1, 8, 8))
    >>> embeddings.shape
    torch.Size([6, 32])
    >>> terms = method.parts([embeddings[None]], [embeddings[None] + 1])
    >>> round(terms["mmd"].item(), 3)
    32.0
    """

    name: ClassVar[str] = "dm"
    matches_embedding: ClassVar[bool] = True

    loss_scale: float = 1.0
    """Factor of the loss. At a fixed learning rate it scales the steps of the pixels."""
    discrepancy: Literal["mean", "rbf", "cf", "moments"] = "mean"
    """The distance between real and synthetic embeddings; see `condense.methods.discrepancy`."""

    def __post_init__(self) -> None:
        above(0, self, "loss_scale")
        check_literals(self)

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """20,000 steps, without ZCA, on networks with InstanceNorm."""
        return {"steps": 20_000, "lr": 1.0 if ipc <= 50 else 10.0}

    def describe(self, network: Network, images: Tensor) -> Described:
        """The embedding, [N, D]."""
        return [widen(network.embed(images))]

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The only term of each class, [C]."""
        return {"mmd": self.loss_scale * DISCREPANCIES[self.discrepancy](real[0], synthetic[0])}
