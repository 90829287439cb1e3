"""DataDAM: match spatial attention in every layer, and the mean of the last features.

Sajedi, Khaki, Amjadian, Liu, Lawryshyn and Plataniotis, "DataDAM: Efficient Dataset Distillation with Attention
Matching", ICCV 2023. For class k, with z_l the normalised attention map of layer l and e the embedding:

    A_l(x)  = sum over channels c of |f_lc(x)|^p                                                     (equation 1)
    L_SAM_k = sum over layers l < L of || mean_real z_l - mean_syn z_l ||^2                          (equation 2)
    L_MMD_k = || mean_real e - mean_syn e ||^2                                                       (equation 3)
    loss_k  = scale * (L_SAM_k + lambda * L_MMD_k)                                                   (equation 4)
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from condense.errors import UserError
from condense.methods.base import Described, mean_error, require, widen
from condense.zoo import Network


@dataclass(frozen=True, kw_only=True, slots=True)
class DataDAM:
    """The paper's loss, with what its ablations vary. See `Method` for the two functions."""

    power: float = 4.0
    """p of the attention map, above 0."""
    normalise: Literal["l2", "l1", "none"] = "l2"
    """Norm by which each image's attention map is divided."""
    error: Literal["mse", "mae", "cosine"] = "mse"
    """Distance between mean attention maps: sum of squares, sum of absolute values, or 1 - cosine."""
    layers: tuple[int, ...] | None = None
    """Layers whose attention is matched, from 0; None: all but the last."""
    task_balance: float = 0.01
    """lambda, the weight of the mean matching of the embeddings."""
    loss_scale: float = 1.0
    """Factor on the whole loss. With a fixed learning rate it sets the step size of the pixels."""

    def __post_init__(self) -> None:
        require("power", self.power, self.power > 0, "above 0")
        require("normalise", self.normalise, self.normalise in ("l2", "l1", "none"), "l2, l1 or none")
        require("error", self.error, self.error in ("mse", "mae", "cosine"), "mse, mae or cosine")
        require("task_balance", self.task_balance, self.task_balance >= 0, "0 or more")
        require("loss_scale", self.loss_scale, self.loss_scale > 0, "above 0")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """The DataDAM paper, taken literally: loss scale 1. See `condense.recipes` for what its code does instead."""
        return {
            "task_balance": 0.01 if shape[-1] < 64 else 0.02,
            "lr": 1.0 if ipc <= 50 else 10.0,
            "preprocess": "zca" if dataset_name in ("cifar10", "cifar100") else "standard",
        }

    def describe(self, network: Network, images: Tensor) -> Described:
        """The normalised attention map of each matched layer, [N, H_l * W_l], and last the embedding [N, D]."""
        maps, embedding = network.observe(images)
        layers = range(len(maps) - 1) if self.layers is None else self.layers
        if self.layers and not all(0 <= layer < len(maps) for layer in self.layers):
            raise UserError(f"`layers` is {self.layers}: this network has layers 0 to {len(maps) - 1}")
        return [*(self._attention(maps[layer]) for layer in layers), widen(embedding)]

    def parts(self, real: Described, synthetic: Described) -> dict[str, Tensor]:
        """The two terms of each class, [C], weighted so that their sum is the loss."""
        *real_maps, real_embedding = real
        *synthetic_maps, synthetic_embedding = synthetic
        mmd = mean_error(real_embedding, synthetic_embedding, "mse")
        attention = sum(
            (mean_error(r, s, self.error) for r, s in zip(real_maps, synthetic_maps, strict=True)), start=mmd.new_zeros(mmd.shape)
        )
        return {"attention": self.loss_scale * attention, "mmd": self.loss_scale * self.task_balance * mmd}

    def _attention(self, map_NCHW: Tensor) -> Tensor:
        attention = widen(map_NCHW).abs().pow(self.power).sum(dim=1).flatten(1)
        if self.normalise == "none":
            return attention
        return functional.normalize(attention, p=2.0 if self.normalise == "l2" else 1.0, dim=1)
