"""MMD: match the mean of the pixels, the baseline that needs no network.

Gretton, Borgwardt, Rasch, Schölkopf and Smola, "A Kernel Two-Sample Test", JMLR 2012, in pixel
space and with a linear kernel, as in the comparison of the DataDAM paper (section 6.2.1 of its
supplement). With this kernel the squared maximum mean discrepancy is the squared distance between
the means, so that one image per class becomes the mean of its class:

    loss_k = scale * || mean_real x - mean_syn x ||^2        with x the augmented pixels
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from condense.methods.base import Described, Matching
from condense.methods.discrepancy import mean_error
from condense.networks.base import Network
from condense.settings import above


@dataclass(frozen=True, kw_only=True, slots=True)
class MMD(Matching):
    """The squared distance between the mean real and the mean synthetic image of a class.

    >>> import torch
    >>> real, synthetic = torch.ones(1, 8, 3), torch.zeros(1, 2, 3)  # one class, three pixels
    >>> MMD(loss_scale=2.0).parts([real], [synthetic])
    {'mmd': tensor([6.])}
    """

    name: ClassVar[str] = "mmd"

    loss_scale: float = 1.0
    """Factor of the loss. At a fixed learning rate it scales the steps of the pixels."""

    def __post_init__(self) -> None:
        above(0, self, "loss_scale")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """Settings of our own, since none are published.

        The curvature of the loss is 2 / ipc, times the square of the factor by which augmentation
        enlarges differences (contrast and saturation: up to 3). With momentum 0.5 this learning
        rate is safe, whereas the rate of DM, 1, is not.
        """
        return {"steps": 20_000, "lr": 0.1 * ipc}

    def describe(self, network: Network, images: Tensor) -> Described:
        """The pixels, [N, ch * H * W]. The network is not used."""
        return [images.flatten(1)]

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The only term of each class, [C]."""
        return {"mmd": self.loss_scale * mean_error(real[0], synthetic[0], "mse")}
