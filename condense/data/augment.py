"""Augmentation of batches: DSA for matching and training, torchvision's policies for training.

DSA (Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021)
draws exactly one of its operations at a time. The operation that was drawn is data, not control
flow: every operation runs on the whole batch, and leaves the images that did not draw it unchanged
bit for bit. There is therefore no loop over classes or images, no waiting for the device and no
shape that depends on a draw, and a step can be captured as a CUDA graph. All draws follow from a
seed and the step.

Shapes: N images, C classes, ch channels of H x W pixels; `u` [N, 3] holds each image's uniform
numbers in [0, 1).
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
    """Uniform integers in 0..count-1, made from uniform numbers."""
    # The product can round up to `count`.
    return (u * count).long().clamp(max=count - 1)


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    """One value per image, as [N, 1, 1, 1] in the type of the images."""
    return values.to(images.dtype)[:, None, None, None]


def _color(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Change brightness, saturation and contrast, in this order, each by its own uniform number."""
    # The steps are x + b, then (x - m) s + m, then (x - M) c + M, where m is the mean over the
    # channels and M the mean over the whole image. A step does not change the mean that it uses,
    # so the three are one affine map: c s x + c (1 - s) m + (1 - c) M + b.
    brightness = _per_image(torch.where(chosen, u[:, 0] - 0.5, 0.0), images)
    saturation = _per_image(torch.where(chosen, u[:, 1] * 2, 1.0), images)
    contrast = _per_image(torch.where(chosen, u[:, 2] + 0.5, 1.0), images)
    grey = images.mean(dim=1, keepdim=True)
    offset = (1 - contrast) * grey.mean(dim=(2, 3), keepdim=True) + brightness
    return contrast * saturation * images + (contrast * (1 - saturation) * grey + offset)


def _crop(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the size in each direction; fill with zeros."""
    height, width = images.shape[2:]

    def source(size: int, u: Tensor) -> tuple[Tensor, Tensor]:
        """The source index of each of `size` pixels, int64 [N, size], and whether it is inside."""
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
    """Fill a rectangle of half the height and half the width with zeros.

    Its centre is uniform over the image, so that part of it may lie outside.
    """

    def covered(size: int, u: Tensor) -> Tensor:
        """Which of `size` pixels the rectangle covers, bool [N, size]."""
        length = int(size * _CUTOUT_RATIO + 0.5)
        # A rectangle of even length is centred between two pixels. There are size + 1 such places,
        # and they are symmetric about the middle of the image.
        first = _integers(u, size + (1 - length % 2)) - length // 2
        index = torch.arange(size, device=u.device)
        return (index >= first[:, None]) & (index < first[:, None] + length)

    rows, columns = covered(images.shape[2], u[:, 0]), covered(images.shape[3], u[:, 1])
    hole = rows[:, None, :, None] & columns[:, None, None, :] & chosen[:, None, None, None]
    return images * ~hole


def _flip(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Mirror the image from left to right with probability one half."""
    return torch.where((chosen & (u[:, 0] < 0.5))[:, None, None, None], images.flip(3), images)


def _scale(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Zoom each axis in or out by its own factor, uniform in [1 / 1.2, 1.2]."""
    factor = 1 / _SCALE_RATIO + u * (_SCALE_RATIO - 1 / _SCALE_RATIO)
    x, y, zero = factor[:, 0], factor[:, 1], torch.zeros_like(u[:, 0])
    return _warp(images, chosen, torch.stack([x, zero], dim=1), torch.stack([zero, y], dim=1))


def _rotate(images: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
    """Rotate about the centre by an angle that is uniform in [-15, 15] degrees."""
    angle = (u[:, 0] * 2 - 1) * math.radians(_ROTATE_DEGREES)
    cos, sin = angle.cos(), angle.sin()
    return _warp(images, chosen, torch.stack([cos, sin], dim=1), torch.stack([-sin, cos], dim=1))


def _warp(images: Tensor, chosen: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Take the pixel at (x, y) from `x * along_x + y * along_y`; coordinates run over [-1, 1].

    `along_x` and `along_y` are [N, 2]. Sampling is bilinear, with zeros outside of the image. The
    result is that of `affine_grid` and `grid_sample` with align_corners=False, but computing the
    grid takes a third of the time.
    """

    def centres(size: int) -> Tensor:
        return (torch.arange(size, device=images.device, dtype=images.dtype) * 2 + 1) / size - 1

    along_x = along_x.to(images.dtype)[:, None, None]
    along_y = along_y.to(images.dtype)[:, None, None]
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
"""The operations of DSA, by name.

Each maps (images [N, ch, H, W], chosen bool [N], u [N, 3]) to images, and leaves the images that
are not chosen unchanged."""


@dataclass(frozen=True)
class DSA:
    """Differentiable siamese augmentation with some of the `OPERATIONS`; without any, the identity.

    >>> augment = DSA(("crop", "flip"))
    >>> augment.name
    'crop_flip'
    >>> images = torch.rand(4, 1, 8, 8)
    >>> augment.training(images, seed=0, step=0).shape
    torch.Size([4, 1, 8, 8])

    While matching, real and synthetic images of a class are augmented alike:

    >>> synthetic = augment.matching(images, torch.tensor([3, 7]), seed=0, step=5)
    >>> alone = augment.matching(images[2:], torch.tensor([7]), seed=0, step=5)
    >>> torch.equal(synthetic[2:], alone)
    True
    """

    operations: tuple[str, ...] = tuple(OPERATIONS)
    """Names of operations, each drawn with the same probability."""

    @property
    def name(self) -> str:
        """The names of the operations, joined by underscores; `none` without any."""
        return "_".join(self.operations) or "none"

    def matching(self, images: Tensor, classes: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Apply one operation per class, with the same parameters for all images of the class.

        The result is differentiable. The draw of a class depends only on (seed, step, class
        index). Calls for real and for synthetic images therefore agree, and so do calls for all
        classes and for a few.

        Parameters
        ----------
        images: float [C * per, ch, H, W], ordered by class, equally many of each, in any memory
            format.
        classes: int64 [C], global class indices, on the same device.
        step: an integer, or an int64 scalar tensor on the same device.

        Raises `UserError` if the images cannot be divided evenly among the classes.
        """
        if not self.operations:
            return images
        if len(classes) == 0 or len(images) % len(classes):
            raise UserError(
                f"{len(images)} images cannot be {len(classes)} classes of equal size: order them "
                "by class, as many of each"
            )
        u = uniforms(seed, "augment matching", step, classes, 4).repeat_interleave(
            len(images) // len(classes), dim=0
        )
        drawn = _integers(u[:, 0], len(self.operations))
        # On a CPU the draw can be read at no cost, so that only the drawn operations need to run.
        each = _one_each if isinstance(step, Tensor) or drawn.device.type != "cpu" else _grouped
        return each(images, self.operations, drawn, u[:, 1:])

    def training(self, images: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Apply one operation to the whole minibatch, with separate parameters for each image.

        `images` is float [N, ch, H, W]. `step` is an integer, or an int64 scalar tensor on the same
        device.
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
        # The draw is known here, so that only the drawn operation needs to run.
        return _one_each(images, (self.operations[int(drawn)],), torch.zeros_like(lanes), u)


def _one_each(images: Tensor, operations: tuple[str, ...], drawn: Tensor, u: Tensor) -> Tensor:
    """Apply `operations[drawn[n]]` with parameters from u[n] to image n, for all n."""
    for number, operation in enumerate(operations):
        images = OPERATIONS[operation](images, drawn == number, u)
    return images


def _grouped(images: Tensor, operations: tuple[str, ...], drawn: Tensor, u: Tensor) -> Tensor:
    """The same result, but each operation runs only on the images that drew it.

    Its shapes depend on the draw, so the draw must be known on the CPU.
    """
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
    """torchvision's AutoAugment (CIFAR-10 policy) or RandAugment (2 operations, magnitude 9).

    These policies are for training only, since they are not differentiable. They work on uint8
    pixels, one image at a time, on the CPU. The images are therefore converted back to pixels and
    preprocessed again: values outside of the pixel range are clipped, the others are rounded to
    1/255.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> images = preprocess.apply(digits.train.pixels[:2])
    >>> Policy("randaugment", preprocess).training(images, seed=0, step=0).shape
    torch.Size([2, 1, 8, 8])
    """

    name: str
    """`autoaugment` or `randaugment`."""
    preprocess: Preprocess | None
    """The preprocessing of the images; training needs it."""

    def matching(self, images: Tensor, classes: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Always raises `UserError`, because matching needs gradients."""
        raise UserError(
            f"augmentation `{self.name}` has no gradient and cannot be used for matching: "
            "use `dsa` or `none`"
        )

    def training(self, images: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Augment each of `images`, float [N, 1 or 3, H, W], preprocessed, by a draw of its own."""
        if self.preprocess is None:
            raise UserError(
                f"augmentation `{self.name}` works on pixels: "
                "make it with the `preprocess` of the images"
            )
        if images.shape[1] not in (1, 3):
            raise UserError(
                f"augmentation `{self.name}` takes 1 or 3 channels, and the images have "
                f"{images.shape[1]}: use `dsa`"
            )
        from torchvision.transforms import AutoAugment, AutoAugmentPolicy, RandAugment

        transform = (
            AutoAugment(AutoAugmentPolicy.CIFAR10) if self.name == "autoaugment" else RandAugment()
        )
        pixels = self.preprocess.quantise(images).cpu()
        # torchvision draws from torch's global generator, which is seeded for this call and then
        # restored.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive(seed, "augment policy", int(step)))
            pixels = torch.stack([transform(image) for image in pixels])
        return self.preprocess.apply(pixels).to(images.device)


Augment = DSA | Policy

AUGMENTS = ("dsa", "dsa-noflip", "none", "autoaugment", "randaugment")
"""The names that `make_augment` accepts, in addition to combinations such as `color_crop_flip`."""


def dsa_for(dataset_name: str) -> str:
    """The name of the DSA that suits a dataset; digits are not mirrored.

    >>> dsa_for("mnist"), dsa_for("cifar10")
    ('dsa-noflip', 'dsa')
    """
    return "dsa-noflip" if dataset_name in ("digits", "mnist", "svhn") else "dsa"


def make_augment(name: str, preprocess: Preprocess | None = None) -> Augment:
    """The augmentation called `name`: one of `AUGMENTS`, or `OPERATIONS` joined by underscores.

    `dsa` has all six operations. `dsa-noflip` has all but mirroring, for digits and letters. The
    order in which operations are named does not matter. `preprocess` is the preprocessing of the
    images; only training with `autoaugment` or `randaugment` needs it.

    Raises `UserError` for an unknown name, and for an operation that is named twice.

    >>> make_augment("flip_crop")
    DSA(operations=('crop', 'flip'))
    >>> make_augment("none")
    DSA(operations=())
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
            f"augmentation `{name}` names an operation twice: every one is as likely as the "
            "others, name each once"
        )
    return DSA(tuple(op for op in OPERATIONS if op in wanted))
