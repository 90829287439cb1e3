"""The loop: one step is a fresh network, real and synthetic images under the same augmentation, and a move of the pixels.

Legend: N images, C classes of a chunk, B real images a class, I synthetic images a class (as stored; matched decoded).

The loss of a class depends on that class alone (given the network, and with statistics taken per image), so the
classes are treated in chunks, each moved as soon as its gradient is known: memory does not grow with their number but
for the images themselves, and ranks may share the classes without a word to each other. BatchNorm joins the classes
in its statistics, so such networks see all classes in one chunk.

Real images need no gradient. They are described in blocks of a few, in a lower precision where the hardware is
made for it, and their descriptors averaged in float32.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from condense.data.augment import make_augment
from condense.data.batches import RealImages
from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.device import fast_bfloat16
from condense.errors import UserError
from condense.methods.base import Described, Learner, Matching, Recipe
from condense.networks import build as networks
from condense.networks.accelerate import LAYOUT, Compiled, block_size, joins_images, worth_compiling
from condense.networks.graph import Graphed
from condense.sets.mosaics import decode
from condense.training.pool import Pool

_CHUNK_PIXELS = {"cpu": 50 * 1024, "cuda": 512 * 1024}
"""Pixels of synthetic images that a chunk aims at: what stays in a CPU's cache, what keeps a GPU busy in little memory."""


class Engine(Learner):
    """The learner of every matching method: synthetic images and the step that moves them.

    Parameters
    ----------
    dataset: the real images; only its training half is read.
    recipe: every hyperparameter.
    preprocess: fitted to the dataset; the synthetic images live in its space.
    start: the starting images, float32 [classes * I, ch, H, W], class-major.
    seed: with the step and the class it determines every draw.
    device: where everything lives; the real images stay uint8 until used.
    chunk: classes treated at once; None chooses. Raises `UserError` where the network's statistics join the classes.
    compiled: whether to compile what lies between the convolutions; None decides by the length of the run.
    rank, ranks: of that many engines that share the classes, which one this is; it holds the images of its own chunks alone.
    pool: the trained networks to match under, where the recipe has any; without it no step can be made.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        preprocess: Preprocess,
        start: Tensor,
        *,
        seed: int,
        device: torch.device,
        chunk: int | None = None,
        compiled: bool | None = None,
        rank: int = 0,
        ranks: int = 1,
        pool: Pool | None = None,
    ) -> None:
        num_classes, pixels = len(dataset.classes), dataset.shape[1] * dataset.shape[2]
        self.recipe, self.seed, self.device = recipe, seed, device
        self.per_class = len(start) // num_classes
        self.network = (
            networks.build(recipe.network, dataset.shape, num_classes)
            .to(device)
            .train()
            .requires_grad_(False)
        )
        joint = joins_images(self.network)
        if joint and ranks > 1:
            raise UserError(
                f"`{recipe.network}`: BatchNorm joins all classes in its statistics, so ranks cannot share them"
            )
        matched = self.per_class * recipe.formation**2  # synthetic images of a class
        self.chunks = _chunks(chunk, num_classes, matched * pixels, joint, device)[rank::ranks]
        if not self.chunks:
            raise UserError(
                f"{ranks} ranks are more than there are chunks of classes: start fewer, or give a smaller --chunk"
            )
        self.classes = torch.cat(self.chunks)
        self.augment, self.pool = make_augment(recipe.augment), pool
        self._preprocess = preprocess.to(device)
        self.real = RealImages(dataset, preprocess, recipe.real_batch, seed, device)
        own = start.unflatten(0, (num_classes, self.per_class))[self.classes.cpu()]
        self.images = own.flatten(0, 1).to(device, torch.float32)
        self.momentum = torch.zeros_like(self.images)
        if compiled is None:
            images_a_step = num_classes * (recipe.real_batch + 2 * matched)
            compiled = worth_compiling(recipe.steps * images_a_step * pixels)
        assert isinstance(recipe.method, Matching)  # as `learner_of` in condense.run sees to
        self.describe = Describer(self.network, recipe.method, device, compiled=compiled)
        self.last = (
            Calibrator(recipe, dataset, device, compiled=compiled)
            if recipe.calibration and recipe.calibrate_under == "last"
            else None
        )
        self._graphed = (
            Graphed(self._step, [self.images, self.momentum]) if device.type == "cuda" else None
        )

    def step(self, step: int) -> dict[str, Tensor]:
        """Carry out one step; returns each part of the loss, summed over this engine's classes, still on the device.

        The result is good until the next step.
        """
        return self._graphed(step) if self._graphed else self._step(step)

    def _step(self, step: int | Tensor) -> dict[str, Tensor]:
        if self.recipe.pool:
            assert self.pool
            self.pool.draw(self.network, step)
            if self.last:
                self.pool.draw_last(self.last.network, step)
        else:
            networks.initialise(self.network, self.seed, step)
        totals: dict[str, Tensor] = {}
        first = 0
        waiting = list(self.chunks)
        while waiting:
            classes = waiting.pop(0)
            rows = slice(first, first + len(classes) * self.per_class)
            try:
                parts, gradient = self.gradient(classes, self.images[rows], step)
            except torch.OutOfMemoryError:
                if len(classes) == 1 or joins_images(self.network):
                    raise
                waiting = self._halve(classes, waiting)
                continue
            self._move(rows, gradient)
            if self.last:
                # It needs less memory than the gradient before, which fitted.
                parts["calibration"], gradient = self.calibration(classes, self.images[rows], step)
                self._move(rows, gradient)
            for name, losses_C in parts.items():
                totals[name] = totals.get(name, 0) + losses_C.sum()
            first = rows.stop
        return totals

    def _move(self, rows: slice, gradient: Tensor) -> None:
        """Move the images `rows` by SGD with momentum; an optimiser would want all gradients."""
        self.momentum[rows] = self.recipe.momentum * self.momentum[rows] + gradient
        self.images[rows] -= self.recipe.lr * self.momentum[rows]
        if self.recipe.clamp:
            self.images[rows] = self._preprocess.clamp(self.images[rows])

    def gradient(
        self, classes: Tensor, images: Tensor, step: int | Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The parts of the loss of each of `classes` (int64 [C], on the device), each [C], under the network as it stands,
        and the gradient of their sum with respect to `images`, those of the classes, [C * I, ch, H, W]."""
        drawn = self.augment.matching(self.real.batch(classes, step), classes, self.seed, step)
        real = self.describe.real(drawn, len(classes))
        leaf = images.detach().requires_grad_()
        synthetic = self.describe.synthetic(self._shown(leaf, classes, step), len(classes))
        parts = self.describe.method.parts(real, synthetic)
        if self.recipe.calibration and not self.last:
            logits = self.network.classifier(synthetic[-1].flatten(0, 1))
            parts["calibration"] = self.recipe.calibration * _cross_entropy(logits, classes)
        (gradient,) = torch.autograd.grad(torch.stack(list(parts.values())).sum(), leaf)
        return {name: losses_C.detach() for name, losses_C in parts.items()}, gradient

    def calibration(
        self, classes: Tensor, images: Tensor, step: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The calibration of each of `classes` under the fully trained network, [C].

        And the gradient of the sum with respect to their `images`, which are augmented as they are
        matched.
        """
        assert self.last
        leaf = images.detach().requires_grad_()
        logits = self.last.logits(self._shown(leaf, classes, step))
        losses_C = self.recipe.calibration * _cross_entropy(logits, classes)
        (gradient,) = torch.autograd.grad(losses_C.sum(), leaf)
        return losses_C.detach(), gradient

    def _shown(self, images: Tensor, classes: Tensor, step: int | Tensor) -> Tensor:
        """The images of `classes` as networks see them: decoded, augmented as the real ones."""
        decoded = decode(images, self.recipe.formation)
        return self.augment.matching(decoded, classes, self.seed, step)

    def tensors(self) -> dict[str, Tensor]:
        """The images and their momentum."""
        return {"images": self.images, "momentum": self.momentum}

    def _halve(self, classes: Tensor, waiting: Sequence[Tensor]) -> list[Tensor]:
        """What is left of this step in chunks of half the size of `classes`, which was too much; later steps follow suit."""
        torch.cuda.empty_cache()
        half = len(classes) // 2
        print(
            f"out of GPU memory with {len(classes)} classes at once: going on with {half}",
            file=sys.stderr,
        )
        self.chunks = list(self.classes.split(half))
        return [piece for chunk in (classes, *waiting) for piece in chunk.split(half)]


class Describer:
    """What a method matches of each image, under a network: the part of a step where the time goes.

    `compiled` fuses all between two convolutions: normalise, activate, attend, pool.
    """

    def __init__(
        self, network: networks.Network, method: Matching, device: torch.device, *, compiled: bool
    ) -> None:
        self._network, self.method, self._device = network, method, device
        self._half = compiled and fast_bfloat16(device)
        self._describe: Callable[[Tensor], Described] = self._plain
        if compiled:
            network.to(memory_format=LAYOUT[device.type])
            self._describe = Compiled(self._plain)

    def real(self, images: Tensor, num_classes: int) -> Described:
        """Describe class-major real images [C * B, ch, H, W], without gradient: tensors [C, B, D_l]."""
        block = len(images) if joins_images(self._network) else block_size(images, self._device)
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            described = [self._describe(part) for part in images.split(block)]
        return _by_class([torch.cat(parts) for parts in zip(*described, strict=True)], num_classes)

    def synthetic(self, images: Tensor, num_classes: int) -> Described:
        """Describe class-major synthetic images [C * I, ch, H, W], in float32 and with gradient: tensors [C, I, D_l]."""
        return _by_class(self._describe(images), num_classes)

    def _plain(self, images: Tensor) -> Described:
        return self.method.describe(self._network, images)


class Calibrator:
    """The fully trained network to calibrate under; each step gives it its weights."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset, device: torch.device, *, compiled: bool
    ) -> None:
        self.network = (
            networks.build(recipe.network, dataset.shape, len(dataset.classes))
            .to(device)
            .train()
            .requires_grad_(False)
        )
        self.logits: Callable[[Tensor], Tensor] = self.network
        if compiled:
            self.network.to(memory_format=LAYOUT[device.type])
            self.logits = Compiled(self.network)


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """The mean cross-entropy of each class, [C], by logits [C * I, classes], ordered by class."""
    truth = classes.repeat_interleave(len(logits) // len(classes))
    losses = functional.cross_entropy(logits, truth, reduction="none")
    return losses.unflatten(0, (len(classes), -1)).mean(dim=1)


def _by_class(described: Described, num_classes: int) -> Described:
    return [tensor.unflatten(0, (num_classes, -1)) for tensor in described]


def _chunks(
    chunk: int | None, num_classes: int, pixels_a_class: int, joint: bool, device: torch.device
) -> list[Tensor]:
    """All classes, int64, in chunks of `chunk`, or of as many as suit the device: an even share, since every shape is
    compiled anew."""
    if joint:
        if chunk is not None and chunk < num_classes:
            raise UserError(
                f"--chunk {chunk}: BatchNorm joins all {num_classes} classes in its statistics; "
                "leave --chunk out, or use an instance norm"
            )
        chunk = num_classes
    elif chunk is None:
        most = max(1, min(num_classes, _CHUNK_PIXELS[device.type] // pixels_a_class))
        chunk = max(size for size in range(1, most + 1) if num_classes % size == 0)
    if chunk < 1:
        raise UserError(f"--chunk {chunk}: it must be 1 or more")
    return list(torch.arange(num_classes, device=device).split(chunk))
