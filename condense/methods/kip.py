"""KIP: images from which kernel ridge regression predicts the labels of the real images.

Nguyen, Chen and Lee, "Dataset Meta-Learning from Kernel Ridge-Regression", ICLR 2021, equation 7.
The kernel K is that of an infinitely wide network, the neural tangent kernel. With S the support
(the learned images, labels y_s) and T a batch of real images (labels y_t):

    loss   = 1/2 || y_t - K_TS (K_SS + lambda I)^-1 y_s ||^2 / |T|
    lambda = ridge * trace(K_SS) / |S|

The division by |T| is not in the paper; it makes no difference to Adam. Labels are one-hot minus
1 / C. The kernel is exact for ReLU networks with `depth` hidden layers (Jacot, Gabriel and Hongler,
2018). They are fully connected, or convolutional with 3x3 filters and without pooling (Novak et
al., 2019; Arora et al., 2019). With k and t the covariances of outputs and of gradients, a layer
computes k, t = relu(k, t), then k = weights * k + biases, t = k + weights * t.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from condense.methods.adam import adam, state_of
from condense.methods.base import Learner, Loop, Looping, Problem
from condense.methods.shares import share
from condense.settings import above, at_least, check_literals

_WEIGHTS, _BIASES = 2.0, 0.01
"""The variances of the weights (times the number of inputs) and of the biases.

The authors' code states them as standard deviations, of which that of the biases is 0.1."""
_LARGEST_COSINE = 1 - 1e-6
"""The largest cosine between two different images.

Above it, the slope of the arc cosine is too steep for float32; at 1 it is infinite. The cosine
between an image and itself is 1, and its part of the kernel is computed without a cosine."""
_BLOCK_VALUES = 1 << 22
"""The entries of a kernel, times its positions, that are computed at once.

They make up some 30 tensors of 16 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KIP(Looping):
    """The loss of the paper.

    The recipe's `lr` and `momentum` are the learning rate and beta_1 of Adam. Its `network` is not
    used.

    >>> from condense import Recipe, condense, load_dataset
    >>> recipe = Recipe(name="mine", method=KIP(learn_labels=True), real_batch=8, steps=1, lr=0.01)
    >>> condensed = condense(load_dataset("digits"), ipc=1, recipe=recipe, quiet=True)
    >>> condensed.soft
    True
    """

    name: ClassVar[str] = "kip"

    kernel: Literal["fc", "conv"] = "fc"
    """The kernel of a fully connected or of a convolutional network."""
    depth: int = 1
    """The number of hidden layers."""
    ridge: float = 1e-6
    """The regularisation, relative to the mean of the kernel's diagonal."""
    learn_labels: bool = False
    """Whether to learn y_s, too.

    Such labels are regression targets; networks are trained on them by the protocol `kip`."""

    def __post_init__(self) -> None:
        check_literals(self)
        at_least(1, self, "depth")
        above(0, self, "ridge")

    @classmethod
    def published(cls, dataset_name: str, shape: tuple[int, int, int], ipc: int) -> dict[str, Any]:
        """Adam with rate 0.04 (0.01 for digits), standardised images, balanced batches.

        The 5,000 real images per batch are not from the paper.
        """
        digits = dataset_name in ("digits", "mnist")
        return {
            "lr": 0.01 if digits else 0.04,
            "momentum": 0.9,
            "real_batch": share(5000, dataset_name),
            "augment": "none",
            "steps": 10_000,
        }

    def learner(self, problem: Problem) -> Learner:
        """The learner of a run."""
        return _Learner(self, problem)


def ntk(x: Tensor, y: Tensor | None, depth: int, window: int) -> Tensor:
    """The neural tangent kernel of images [N, ch, H, W] and [M, ch, H, W]: [N, M].

    If `y` is None, it is that of the images and themselves, [N, N], with an exact diagonal.

    The network has `depth` hidden ReLU layers, with filters of `window` x `window` positions, and
    its output depends on all positions. It is fully connected if `window` is 1 and the images have
    one position, [N, ch * H * W, 1, 1].

    >>> images = torch.rand(3, 1, 8, 8)
    >>> kernel = ntk(images, None, depth=1, window=3)
    >>> kernel.shape, torch.allclose(kernel, kernel.T, rtol=1e-3)
    (torch.Size([3, 3]), True)
    """
    equal = None if y is not None else torch.eye(len(x), dtype=torch.bool, device=x.device)
    y = x if y is None else y
    # For a pair of equal images, k is one number per image and position: k_x and k_y.
    k_x, k_y = x.square().mean(dim=1), y.square().mean(dim=1)  # [N, H, W], [M, H, W]
    k = (x.flatten(2).permute(2, 0, 1) @ y.flatten(2).permute(2, 1, 0)).permute(1, 2, 0).unflatten(
        2, x.shape[2:]
    ) / x.shape[1]
    t = torch.zeros_like(k)  # [N, M, H, W]
    for _ in range(depth):
        k_x, k_y, k, t = (_WEIGHTS * _spread(values, window) for values in (k_x, k_y, k, t))
        k_x, k_y, k = k_x + _BIASES, k_y + _BIASES, k + _BIASES
        k, t = _relu(k_x[:, None], k_y[None], k, k + t, equal)
        k_x, k_y = k_x / 2, k_y / 2
    k, t = (_WEIGHTS * values.mean(dim=(2, 3)) for values in (k, t))
    return k + _BIASES + t


def _spread(values: Tensor, window: int) -> Tensor:
    """The mean of [..., H, W] over a window at each position, with zeros outside.

    This is what a convolution does to a covariance.
    """
    if window == 1:
        return values
    flat = values.flatten(0, -3)[:, None]
    return functional.avg_pool2d(flat, window, stride=1, padding=window // 2).view(values.shape)


def _relu(
    k_x: Tensor, k_y: Tensor, k: Tensor, t: Tensor, equal: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The covariances of outputs and of gradients after a ReLU (Cho and Saul, 2009).

    The inputs of the ReLU have covariance k and variances k_x and k_y. `equal`, bool [N, M], says
    which pairs are of an image and itself: half of each input covariance passes.
    """
    scale = (k_x * k_y).sqrt()
    cosine = (k / scale).clamp(-_LARGEST_COSINE, _LARGEST_COSINE)
    away = torch.pi - cosine.acos()  # pi minus the angle
    slope = away / (2 * torch.pi)
    outputs = scale * ((1 - cosine.square()).sqrt() / (2 * torch.pi) + slope * cosine)
    if equal is None:
        return outputs, slope * t
    equal = equal[:, :, None, None]
    return torch.where(equal, k_x / 2, outputs), torch.where(equal, t / 2, slope * t)


def loss_of(k_ts: Tensor, k_ss: Tensor, y_t: Tensor, y_s: Tensor, ridge: float) -> Tensor:
    """The loss of the regression, averaged over targets: a scalar.

    `y_t` [T, C] are the labels of the targets, `y_s` [S, C] those of the support.

    >>> kernel, labels = torch.eye(2), torch.tensor([[0.5, -0.5], [-0.5, 0.5]])
    >>> loss_of(kernel, kernel, labels, labels, ridge=1e-9).item() < 1e-6
    True
    """
    damped = k_ss + ridge * k_ss.diagonal().mean() * torch.eye(
        len(k_ss), dtype=k_ss.dtype, device=k_ss.device
    )
    weights = torch.linalg.solve(damped, y_s.to(k_ss.dtype))
    return 0.5 * (y_t - k_ts @ weights.to(k_ts.dtype)).square().sum() / len(y_t)


class _Learner(Loop):
    method: KIP

    def __init__(self, method: KIP, problem: Problem) -> None:
        super().__init__(method, problem)
        self._real, count = problem.real(), len(self.classes)
        targets = torch.eye(count, device=self.device) - 1 / count
        self._support = targets.repeat_interleave(self.per_class, dim=0)
        self._real_labels = targets.repeat_interleave(self.recipe.real_batch, dim=0)
        self.labels = self._support if method.learn_labels else None
        moved = [self.images, self._support] if method.learn_labels else [self.images]
        self._adam = adam(moved, self.recipe.lr, self.recipe.momentum)

    def step(self, step: int) -> dict[str, Tensor]:
        """One step of Adam on a batch of real images."""
        images = self.images.detach().requires_grad_()
        labels = self._support.detach().requires_grad_()
        support = self.augment.matching(images, self.classes, self.seed, step)
        real = self._real.batch(self.classes, step)
        targets = self.augment.matching(real, self.classes, self.seed, step)
        # Solving is ill-conditioned and needs double precision. The kernel between targets and
        # support is large, and single precision suffices.
        k_ss = self._kernel(support.double())
        places = targets[0, 0].numel() if self.method.kernel == "conv" else 1
        block = max(1, _BLOCK_VALUES // (len(support) * places))
        # The backward pass computes each block again, so that memory does not grow with the number
        # of targets.
        parts = targets.split(block)
        k_ts = torch.cat(
            [checkpoint(self._kernel, part, support, use_reentrant=False) for part in parts]
        )
        loss = loss_of(k_ts, k_ss, self._real_labels, labels, self.method.ridge)
        self.images.grad, self._support.grad = torch.autograd.grad(loss, [images, labels])
        self._adam.step()
        return {"regression": loss.detach()}

    def tensors(self) -> dict[str, Tensor]:
        """Images, labels and the optimiser."""
        return {"images": self.images, "labels": self._support, **state_of("adam", self._adam)}

    def _kernel(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if self.method.kernel == "conv":
            return ntk(x, y, self.method.depth, 3)
        y = None if y is None else y.flatten(1)[..., None, None]
        return ntk(x.flatten(1)[..., None, None], y, self.method.depth, 1)
