"""Augmentation: differentiable and siamese while matching, ordinary while training; batched and seeded.

DSA (Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021) draws exactly one of
its operations at a time. Which one was drawn is data, not control flow: every operation runs on the whole batch and
leaves the images that did not draw it bit for bit as they were. So there is no loop over classes or images, no host
synchronisation and no shape that depends on a draw, and a pass can be captured in a CUDA graph.

Shapes: N images, C classes, ch channels of H x W pixels; `u` [N, 3] are each image's uniform numbers in [0, 1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.randomness import derive, uniforms

_CROP_RATIO = 0.125
_CUTOUT_RATIO = 0.5
_SCALE_RATIO = 1.2
_ROTATE_DEGREES = 15.0


def _integers(u: Tensor, count: int | Tensor) -> Tensor:
    """Uniform integers 0..count-1 from uniform numbers."""
    # The product can round up to `count`.
    return (u * count).long().clamp(max=count - 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """One value an image, as [N, 1, 1, 1] of the images' type."""
    return values.to(images.dtype)[:, None, None, None]


def _color(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Brightness, saturation and contrast, in this order, each by its own uniform number."""
    # x + b; then (x - m) s + m, m the mean over channels; then (x - M) c + M, M the mean over everything. Neither mean
    # is changed by the step that uses it, so the three are one affine map: c s x + c (1 - s) m + (1 - c) M + b.
    brightness = _per_image(torch.where(chosen, u[:, 0] - 0.5, 0.0), images)
    saturation = _per_image(torch.where(chosen, u[:, 1] * 2, 1.0), images)
    contrast = _per_image(torch.where(chosen, u[:, 2] + 0.5, 1.0), images)
    grey = images.mean(dim=1, keepdim=True)
    offset = (1 - contrast) * grey.mean(dim=(2, 3), keepdim=True) + brightness
    return contrast * saturation * images + (contrast * (1 - saturation) * grey + offset)


def _crop(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the size each way, and fill with zeros."""
    height, width = images.shape[2:]

    def source(size: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """Where each of `size` pixels comes from, int64 [N, size], and whether that is inside the image."""
        most = int(size * _CROP_RATIO + 0.5)
        shift = torch.where(chosen, _integers(u, 2 * most + 1) - most, 0)
        index = torch.arange(size, device=u.device) + shift[:, None]
        return index.clamp(0, size - 1), (index >= 0) & (index < size)

    rows, rows_inside = source(height, u[:, 0])
    columns, columns_inside = source(width, u[:, 1])
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    moved = (
        images.flatten(2)
        .gather(2, index[:, None, :].expand(-1, images.shape[1], -1))
        .view(images.shape)
    )
    return moved * (rows_inside[:, None, :, None] & columns_inside[:, None, None, :])


def _cutout(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Fill a rectangle of half the height and width with zeros; its centre is uniform, its rim may lie outside."""

    def covered(size: int, u: Tensor) -> Tensor:
        """Which of `size` pixels the rectangle covers, bool [N, size]."""
        length = int(size * _CUTOUT_RATIO + 0.5)
        # An even length is centred between two pixels: size + 1 places, symmetric about the image's middle.
        first = _integers(u, size + (1 - length % 2)) - length // 2
        index = torch.arange(size, device=u.device)
        return (index >= first[:, None]) & (index < first[:, None] + length)

    rows, columns = covered(images.shape[2], u[:, 0]), covered(images.shape[3], u[:, 1])
    hole = rows[:, None, :, None] & columns[:, None, None, :] & chosen[:, None, None, None]
    return images * ~hole


def _flip(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Mirror left and right with probability one half."""
    return torch.where((chosen & (u[:, 0] < 0.5))[:, None, None, None], images.flip(3), images)


def _scale(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Zoom out of, or into, each axis by its own factor, uniform in [1 / 1.2, 1.2]."""
    factor = 1 / _SCALE_RATIO + u * (_SCALE_RATIO - 1 / _SCALE_RATIO)
    x, y, zero = factor[:, 0], factor[:, 1], torch.zeros_like(u[:, 0])
    return _warp(images, chosen, torch.stack([x, zero], dim=1), torch.stack([zero, y], dim=1))


def _rotate(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Turn about the centre by an angle uniform in [-15, 15] degrees."""
    angle = (u[:, 0] * 2 - 1) * math.radians(_ROTATE_DEGREES)
    cos, sin = angle.cos(), angle.sin()
    return _warp(images, chosen, torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1))


def _warp(images: Tensor, chosen: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Take the pixel at (x, y), in [-1, 1] over the image, from `x * along_x + y * along_y`, both [N, 2].

    Bilinear, zeros outside. This is `affine_grid` and `grid_sample` with align_corners=False, the grid at a third of the cost.
    """

    def centres(size: int) -> Tensor:
        return (torch.arange(size, device=images.device, dtype=images.dtype) * 2 + 1) / size - 1

    along_x, along_y = (
        along_x.to(images.dtype)[:, None, None],
        along_y.to(images.dtype)[:, None, None],
    )
    grid = (
        along_x * centres(images.shape[3])[:, None]
        + along_y * centres(images.shape[2])[:, None, None]
    )
    warped = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return torch.where(chosen[:, None, None, None], warped, images)


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
OPERATIONS: dict[str, Operation] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
"""The operations of DSA: `(images [N, ch, H, W], chosen bool [N], u [N, 3]) -> images`, those not chosen untouched."""


@dataclass(frozen=True)
class DSA:
    """Differentiable siamese augmentation with some of the `OPERATIONS`; with none of them, no augmentation."""

    operations: tuple[str, ...] = tuple(OPERATIONS)

    @property
    def name(self) -> str:
        return "_".join(self.operations) or "none"

    def matching(self, images: Tensor, classes: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """One operation for each class, with the same parameters for all images of the class; differentiable.

        images: float [C * per, ch, H, W], ordered by class, equally many of each; any memory format.
        classes: int64 [C], global class indices, on the same device. The draw of a class depends on (seed, step, its index)
        alone: calls for real and for synthetic images agree, and so do calls for all classes and for a few.
        step: an integer, or an int64 scalar tensor on the same device.
        """
        if not self.operations:
            return images
        if len(classes) == 0 or len(images) % len(classes):
            raise UserError(
                f"{len(images)} images cannot be {len(classes)} classes of equal size: order them by class, as many of each"
            )
        u = uniforms(seed, "augment matching", step, classes, 4).repeat_interleave(
            len(images) // len(classes), dim=0
        )
        drawn = _integers(u[:, 0], len(self.operations))
        # On a CPU the host may know what was drawn: run nothing else.
        each = _one_each if isinstance(step, Tensor) or drawn.device.type != "cpu" else _grouped
        return each(images, self.operations, drawn, u[:, 1:])

    def training(self, images: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """One operation for the whole minibatch, with parameters of its own for each image.

        images: float [N, ch, H, W]; step: an integer, or an int64 scalar tensor on the same device.
        """
        if not self.operations:
            return images
        lane = torch.zeros(
            1, dtype=torch.int64, device=step.device if isinstance(step, Tensor) else "cpu"
        )
        drawn = _integers(
            uniforms(seed, "augment training", step, lane, 1)[:, 0], len(self.operations)
        )
        lanes = torch.arange(len(images), device=images.device)
        u = uniforms(seed, "augment training images", step, lanes, 3)
        if isinstance(step, Tensor):
            return _one_each(images, self.operations, drawn.expand(len(images)), u)
        # The host knows what was drawn: run nothing else.
        return _one_each(images, (self.operations[int(drawn)],), torch.zeros_like(lanes), u)


def _one_each(images: Tensor, operations: tuple[str, ...], drawn: Tensor, u: Tensor) -> Tensor:
    """Image n after `operations[drawn[n]]` with parameters from u[n]."""
    for number, operation in enumerate(operations):
        images = OPERATIONS[operation](images, drawn == number, u)
    return images


def _grouped(images: Tensor, operations: tuple[str, ...], drawn: Tensor, u: Tensor) -> Tensor:
    """The same, each operation on the images that drew it alone: its shapes depend on the draw, and the host must know it."""
    order = drawn.argsort(stable=True)
    counts = drawn.bincount(minlength=len(operations)).tolist()
    groups = zip(
        operations, images.index_select(0, order).split(counts), u[order].split(counts), strict=True
    )
    done = [
        OPERATIONS[name](part, torch.ones(len(part), dtype=torch.bool), own)
        for name, part, own in groups
        if len(part)
    ]
    return torch.cat(done).index_select(0, order.argsort())


@dataclass(frozen=True)
class Policy:
    """torchvision's AutoAugment (CIFAR-10 policy) or RandAugment (2 operations, magnitude 9), for training alone.

    They work on uint8 pixels, so images go back through their preprocessing and forth again: values outside the
    pixel range are clipped and the rest is rounded to 1/255. Not differentiable, one image at a time, on the CPU.
    """

    name: str
    preprocess: Preprocess | None

    def matching(self, images: Tensor, classes: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Always a `UserError`: matching needs gradients."""
        raise UserError(
            f"augmentation `{self.name}` has no gradient and cannot be used for matching: use `dsa` or `none`"
        )

    def training(self, images: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Every image by its own draw. images: float [N, 1 or 3, H, W], preprocessed."""
        if self.preprocess is None:
            raise UserError(
                f"augmentation `{self.name}` works on pixels: make it with the `preprocess` of the images"
            )
        if images.shape[1] not in (1, 3):
            raise UserError(
                f"augmentation `{self.name}` takes 1 or 3 channels, and the images have {images.shape[1]}: use `dsa`"
            )
        from torchvision.transforms import AutoAugment, AutoAugmentPolicy, RandAugment

        transform = (
            AutoAugment(AutoAugmentPolicy.CIFAR10) if self.name == "autoaugment" else RandAugment()
        )
        pixels = self.preprocess.quantise(images).cpu()
        # torchvision draws from torch's global generator: lend it one state for this call and put the old one back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "augment policy", int(step)))
            pixels = torch.stack([transform(image) for image in pixels])
        return self.preprocess.apply(pixels).to(images.device)


Augment = DSA | Policy

AUGMENTS = ("dsa", "dsa-noflip", "none", "autoaugment", "randaugment")
"""The names `make_augment` knows, beside every strategy such as `color_crop_flip`."""


def dsa_for(dataset_name: str) -> str:
    """The name of the DSA that suits a dataset: a mirrored digit is no digit."""
    return "dsa-noflip" if dataset_name in ("digits", "mnist", "svhn") else "dsa"


def make_augment(name: str, preprocess: Preprocess | None = None) -> Augment:
    """The augmentation called `name`: one of `AUGMENTS` or some of the `OPERATIONS`, joined by underscores.

    `dsa` is all six operations, `dsa-noflip` all but the mirror image: for digits and letters. The order of a strategy
    does not matter. `preprocess`, that of the images, is needed only to train with `autoaugment` or `randaugment`.
    """
    if name == "none":
        return DSA(())
    if name == "dsa":
        return DSA()
    if name == "dsa-noflip":
        return DSA(tuple(op for op in OPERATIONS if op != "flip"))
    if name in ("autoaugment", "randaugment"):
        return Policy(name, preprocess)
    wanted = name.split("_")
    for op in wanted:
        if op not in OPERATIONS:
            raise unknown("augmentation", op, (*AUGMENTS, *OPERATIONS))
    if len(set(wanted)) < len(wanted):
        raise UserError(
            f"augmentation `{name}` names an operation twice: every one is as likely as the others, name each once"
        )
    return DSA(tuple(op for op in OPERATIONS if op in wanted))
