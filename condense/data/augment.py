"""Augmentation of batches: DSA for matching and training, torchvision's policies for training.

DSA (Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021)
draws exactly one of its operations at a time. The operation that was drawn is data, not control
flow: every operation runs on the whole batch, and leaves the images that did not draw it unchanged
bit for bit. There is therefore no loop over classes or images, no waiting for the device and no
shape that depends on a draw, and a step can be captured as a CUDA graph. All draws follow from a
seed and the step.

IDC (Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022)
and its successors apply several operations at once: while matching always colour, crop and cutout,
while training colour, a mirror image in half of the cases, and one of crop, scale and rotate.

Shapes: N images, C classes, ch channels of H x W pixels; `u` [N, 3] holds each image's uniform
numbers in [0, 1).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from condense.data.operations import OPERATIONS, integers
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.randomness import derive, uniforms


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
        drawn = integers(u[:, 0], len(self.operations))
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
        lanes = torch.arange(len(images), device=images.device)
        u = uniforms(seed, "augment training images", step, lanes, 3)
        if isinstance(step, Tensor) and len(self.operations) > 1:
            return _one_each(
                images, self.operations, self._which(seed, step).expand(len(images)), u
            )
        # The draw is known here, so that only the drawn operation needs to run.
        only = self if isinstance(step, Tensor) else self.drawn(seed, step)
        return _one_each(images, only.operations, torch.zeros_like(lanes), u)

    def drawn(self, seed: int, step: int) -> "DSA":
        """Only what `training` draws in a step: in this step, it does the same.

        >>> DSA(("crop", "flip")).drawn(seed=0, step=1).name
        'crop'
        """
        if len(self.operations) < 2:
            return self
        return DSA((self.operations[int(self._which(seed, step))],))

    def _which(self, seed: int, step: int | Tensor) -> Tensor:
        """The number of the operation that `training` draws in a step, int64 [1]."""
        device = step.device if isinstance(step, Tensor) else "cpu"
        lane = torch.zeros(1, dtype=torch.int64, device=device)
        return integers(
            uniforms(seed, "augment training", step, lane, 1)[:, 0], len(self.operations)
        )


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
class Chain:
    """Several augmentations, one after the other, each with draws of its own.

    >>> images = torch.rand(4, 3, 8, 8)
    >>> chain = make_augment("color+crop")
    >>> chain.training(images, seed=0, step=0).shape
    torch.Size([4, 3, 8, 8])

    As with DSA, real and synthetic images of a class are augmented alike while matching:

    >>> synthetic = chain.matching(images, torch.tensor([3, 7]), seed=0, step=5)
    >>> alone = chain.matching(images[2:], torch.tensor([7]), seed=0, step=5)
    >>> torch.equal(synthetic[2:], alone)
    True
    """

    name: str
    """The name that `make_augment` knows it by."""
    when_matching: tuple[DSA, ...]
    """What is applied while matching."""
    when_training: tuple[DSA, ...]
    """What is applied while training."""

    def matching(self, images: Tensor, classes: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Apply all of `when_matching`; arguments and errors as of `DSA.matching`."""
        for place, link in enumerate(self.when_matching):
            images = link.matching(images, classes, derive(seed, "augment link", place), step)
        return images

    def training(self, images: Tensor, seed: int, step: int | Tensor) -> Tensor:
        """Apply all of `when_training`; arguments as of `DSA.training`."""
        for place, link in enumerate(self.when_training):
            images = link.training(images, derive(seed, "augment link", place), step)
        return images

    def drawn(self, seed: int, step: int) -> "Chain":
        """Only what `training` draws in a step, as `DSA.drawn`."""
        links = enumerate(self.when_training)
        drawn = (link.drawn(derive(seed, "augment link", place), step) for place, link in links)
        return replace(self, when_training=tuple(drawn))


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


Augment = DSA | Chain | Policy

AUGMENTS = ("dsa", "dsa-noflip", "idc", "idc-noflip", "none", "autoaugment", "randaugment")
"""The names that `make_augment` accepts, in addition to combinations such as `color_crop_flip`."""
_IDC = {"idc": "color+flip+crop_scale_rotate", "idc-noflip": "color+crop_scale_rotate"}
"""What IDC applies while training. While matching it applies `color+crop+cutout`."""


_UPRIGHT = ("digits", "mnist", "svhn")
"""The datasets whose images would change their class if they were mirrored."""


def suited(name: str, dataset_name: str) -> str:
    """The augmentation `name` as it suits a dataset: digits are not mirrored by `dsa` and `idc`.

    >>> suited("dsa", "mnist"), suited("dsa", "cifar10"), suited("none", "mnist")
    ('dsa-noflip', 'dsa', 'none')
    """
    return f"{name}-noflip" if name in ("dsa", "idc") and dataset_name in _UPRIGHT else name


def make_augment(name: str, preprocess: Preprocess | None = None) -> Augment:
    """The augmentation called `name`: one of `AUGMENTS`, or a combination of `OPERATIONS`.

    `color_crop` applies one of the two operations, `color+crop` both, one after the other, and
    `flip+crop_scale` mirrors in half of the cases and then applies crop or scale. The order of
    names joined by `_` does not matter.

    `dsa` is one of all six operations; `dsa-noflip` leaves out mirroring, for digits and letters.
    `idc` applies `color+crop+cutout` while matching, and `color+flip+crop_scale_rotate` while
    training; `idc-noflip` does not mirror. `preprocess` is the preprocessing of the images; only
    training with `autoaugment` or `randaugment` needs it.

    Raises `UserError` for an unknown name, and for an operation that is named twice.

    >>> make_augment("flip_crop")
    DSA(operations=('crop', 'flip'))
    >>> make_augment("none")
    DSA(operations=())
    >>> make_augment("color+flip_crop").when_training
    (DSA(operations=('color',)), DSA(operations=('crop', 'flip')))
    """
    if name in ("autoaugment", "randaugment"):
        return Policy(name, preprocess)
    if name in _IDC:
        return Chain(name, _links("color+crop+cutout"), _links(_IDC[name]))
    links = _links(name)
    return links[0] if len(links) == 1 else Chain(name, links, links)


def _links(name: str) -> tuple[DSA, ...]:
    """What is joined by `+` in a name."""
    return tuple(_one_of(part) for part in name.split("+"))


def _one_of(name: str) -> DSA:
    """The augmentation that applies one of the operations joined by `_` in a name."""
    if name == "none":
        return DSA(())
    if name == "dsa":
        return DSA()
    if name == "dsa-noflip":
        return DSA(tuple(op for op in OPERATIONS if op != "flip"))
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
