"""DataDAM: match spatial attention in every layer, and the mean of the last features.

Sajedi, Khaki, Amjadian, Liu, Lawryshyn and Plataniotis, "DataDAM: Efficient Dataset Distillation
with Attention Matching", ICCV 2023. For class k, with z_l the normalised attention map of layer l
and e the embedding:

    A_l(x)  = sum over channels c of |f_lc(x)|^p                                      (equation 1)
    L_SAM_k = sum over layers l < L of || mean_real z_l - mean_syn z_l ||^2           (equation 2)
    L_MMD_k = || mean_real e - mean_syn e ||^2                                        (equation 3)
    loss_k  = scale * (L_SAM_k + lambda * L_MMD_k)                                    (equation 4)

Later work also matches attention over channels, A_lc(x) = sum over positions of |f_lc(x)|^p (Khaki
et al., "ATOM", CVPR workshops 2024), and measures the last term in other ways (see
`condense.methods.discrepancy`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from condense.methods.base import Described, Matching
from condense.methods.discrepancy import DISCREPANCIES, mean_error
from condense.networks.base import Network, chosen, widen
from condense.settings import above, at_least, check_literals

_SUMMED: dict[str, list[tuple[int, ...]]] = {"channel": [(2, 3)], "both": [(1,), (2, 3)]}
"""The dimensions of a map [N, ch, H, W] over which each attention map sums."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataDAM(Matching):
    """The loss of the paper, with the options of its ablations.

    >>> import torch
    >>> from condense.networks.build import build
    >>> method, network = DataDAM(loss_scale=100.0), build("convnet-d2-w8", (1, 8, 8), 10)
    >>> images = torch.rand(6, 1, 8, 8)
    >>> described = method.describe(network, images)  # the attention of layer 0, and the embedding
    >>> [tuple(part.shape) for part in described]
    [(6, 64), (6, 32)]
    >>> one_class = [part[None] for part in described]
    >>> {name: term.item() for name, term in method.parts(one_class, one_class).items()}
    {'attention': 0.0, 'mmd': 0.0}
    """

    name: ClassVar[str] = "datadam"
    matches_embedding: ClassVar[bool] = True

    power: float = 4.0
    """The exponent p of the attention map, above 0."""
    attention: Literal["spatial", "channel", "both"] = "spatial"
    """Attention over positions, over channels, or both, each in a map of its own."""
    normalise: Literal["l2", "l1", "none"] = "l2"
    """The norm by which each image's attention map is divided."""
    error: Literal["mse", "mae", "cosine"] = "mse"
    """The distance between mean attention maps.

    It is a sum of squares, a sum of absolute values, or 1 - cosine."""
    layers: tuple[int, ...] | None = None
    """The layers whose attention is matched, counted from 0. None means all but the last."""
    task_balance: float = 0.01
    """lambda, the weight of the term that matches embeddings."""
    discrepancy: Literal["mean", "rbf", "cf", "moments"] = "mean"
    """The distance between real and synthetic embeddings; see `condense.methods.discrepancy`."""
    loss_scale: float = 1.0
    """Factor of the whole loss. At a fixed learning rate it scales the steps of the pixels."""

    def __post_init__(self) -> None:
        above(0, self, "power", "loss_scale")
        at_least(0, self, "task_balance")
        check_literals(self)

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The settings of the DataDAM paper, including its loss scale of 1.

        Its code has others; see `official-code` in `condense.methods.recipes`.
        """
        return {
            "task_balance": 0.01 if shape[-1] < 64 else 0.02,
            "lr": 1.0 if ipc <= 50 else 10.0,
            "preprocess": "zca" if dataset_name in ("cifar10", "cifar100") else "standard",
        }

    def describe(self, network: Network, images: Tensor) -> Described:
        """The attention of each matched layer, normalised, and the embedding.

        Attention is [N, H_l * W_l] over positions and [N, ch_l] over channels. The embedding is
        [N, D].
        """
        if self.attention == "spatial":
            sums, embedding = network.attend(images, self.power, self.layers)
        else:
            maps, embedding = network.observe(images)
            layers = chosen(self.layers, len(maps))
            powers = [widen(maps[layer]).abs().pow(self.power) for layer in layers]
            sums = [each.sum(dim=over) for each in powers for over in _SUMMED[self.attention]]
        return [*(self._normalised(each.flatten(1)) for each in sums), widen(embedding)]

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The two terms of each class, [C], with their weights; their sum is the loss."""
        *real_maps, real_embedding = real
        *synthetic_maps, synthetic_embedding = synthetic
        mmd = DISCREPANCIES[self.discrepancy](real_embedding, synthetic_embedding)
        attention = sum(
            (mean_error(r, s, self.error) for r, s in zip(real_maps, synthetic_maps, strict=True)),
            start=mmd.new_zeros(mmd.shape),
        )
        return {
            "attention": self.loss_scale * attention,
            "mmd": self.loss_scale * self.task_balance * mmd,
        }

    def _normalised(self, attention: Tensor) -> Tensor:
        if self.normalise == "none":
            return attention
        return functional.normalize(attention, p=2.0 if self.normalise == "l2" else 1.0, dim=1)
