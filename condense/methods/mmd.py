"""MMD: match the mean of the pixels themselves, the baseline that needs no network.

Gretton, Borgwardt, Rasch, Schölkopf and Smola, "A Kernel Two-Sample Test", JMLR 2012, in pixel space and with a linear
kernel, as the DataDAM paper compares with it (section 6.2.1 of its supplement). With the linear kernel, the squared
maximum mean discrepancy is the squared distance of the means, so one image per class becomes the mean of its class.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from condense.methods.base import Described, Matching, mean_error
from condense.networks.base import Network
from condense.settings import require


@dataclass(frozen=True, kw_only=True, slots=True)
class MMD(Matching):
    """loss_k = scale * || mean_real x - mean_syn x ||^2, x the augmented pixels. See `Matching` for the two functions."""

    name: ClassVar[str] = "mmd"

    loss_scale: float = 1.0
    """Factor on the loss. With a fixed learning rate it sets the step size of the pixels."""

    def __post_init__(self) -> None:
        require("loss_scale", self.loss_scale, self.loss_scale > 0, "above 0")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """No settings are published. The curvature of the loss is 2 / ipc, times the square of how much the augmentation
        enlarges differences (contrast and saturation: up to 3): this rate is safe with momentum 0.5, and DM's, 1, is not."""
        return {"steps": 20_000, "lr": 0.1 * ipc}

    def describe(self, network: Network, images: Tensor) -> Described:
        """The pixels, [N, ch * H * W]; the network is not looked at."""
        return [images.flatten(1)]

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The one term of each class, [C]."""
        return {"mmd": self.loss_scale * mean_error(real[0], synthetic[0], "mse")}
