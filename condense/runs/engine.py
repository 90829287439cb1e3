"""The engine of the matching methods: what happens in one step of a condensation.

A step draws a fresh network, or one from a pool. It augments real and synthetic images alike, and
moves the pixels of the synthetic images along the gradient of the matching loss.

Shapes: C classes of a chunk; B real images per class; I synthetic images per class, as stored. In a
formation f, each stored image is decoded to f * f images for matching.

Given the network, and if it takes its statistics per image, the loss of a class depends on that
class alone. The classes are therefore treated in chunks, and each chunk is moved as soon as its
gradient is known. Apart from the images themselves, memory does not grow with the number of
classes, and ranks can share the classes without communicating. BatchNorm joins the classes in its
statistics, so a network with BatchNorm sees all classes in one chunk.

On a GPU, giving the network its weights is one CUDA graph, and moving a chunk is another, which
serves all chunks of its size. Draws and augmentation are hundreds of operations on few numbers, so
they are compiled there, together with the network.

Real images need no gradient. They are described in blocks of a few images, and their descriptors
are averaged in float32. Where the hardware is fast at bfloat16, a compiled network multiplies in
it, for real and synthetic images alike; pixels, weights and losses stay float32.
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
from condense.networks.accelerate import (
    LAYOUT,
    Accelerated,
    Compiled,
    block_size,
    joins_images,
    worth_compiling,
)
from condense.networks.graph import Graphed, has_graphs
from condense.runs.chunks import chunks_of
from condense.sets.mosaics import decode
from condense.training.pool import Pool

Moved = tuple[dict[str, Tensor], Tensor, Tensor]
"""The parts of a chunk's loss, each a scalar, and its images and their momentum after the step."""


class Engine(Learner):
    """The learner of every matching method: the synthetic images, and the step that moves them.

    Parameters
    ----------
    dataset: the real images; only its training images are read.
    recipe: every hyperparameter; its method must be a `Matching`.
    preprocess: the transform, fitted to the dataset; the synthetic images are preprocessed by it.
    start: the starting images, float32 [classes * I, ch, H, W], ordered by class.
    seed: determines every draw, together with the step and the class.
    device: where all tensors are; the real images stay uint8 until they are used.
    chunk: the number of classes that are treated at once; None chooses it.
    compiled: whether to compile what lies between the convolutions; None decides by the length of
        the run.
    rank, ranks: the number of this engine, and how many share the classes. An engine holds only the
        images of its own chunks.
    pool: the trained networks to match under. A recipe that asks for a pool needs it for a step.

    Raises `UserError` if `chunk` or `ranks` would divide classes that the network's statistics
    join, if there are more ranks than chunks, and for a `chunk` below 1.

    >>> from condense import load_dataset, recipe_for
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> tiny = {"network": "convnet-d1-w8", "real_batch": 4}
    >>> engine = Engine(
    ...     digits,
    ...     recipe_for("dm", "digits", digits.shape, 1).override(tiny),
    ...     make_preprocess("standard", digits),
    ...     start=torch.zeros(10, 1, 8, 8),
    ...     seed=0,
    ...     device=torch.device("cpu"),
    ...     compiled=False,
    ... )
    >>> losses = engine.step(0)
    >>> list(losses), bool(engine.images.any())
    (['mmd'], True)
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
                f"`{recipe.network}`: BatchNorm joins all classes in its statistics, "
                "so ranks cannot share them"
            )
        matched = self.per_class * recipe.formation**2  # decoded synthetic images per class
        loads = matched * pixels, recipe.real_batch * pixels
        chunks = chunks_of(num_classes, *loads, chunk, joint=joint, device=device, ranks=ranks)
        self.chunks = chunks[rank::ranks]
        if not self.chunks:
            raise UserError(
                f"{ranks} ranks are more than there are chunks of classes ({len(chunks)}): "
                "start fewer, or give a smaller --chunk"
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
        assert isinstance(recipe.method, Matching)  # `condense.runs.setup` makes sure of this
        self.describe = Describer(self.network, recipe.method, device, compiled=compiled)
        self.last = (
            Calibrator(recipe, dataset, device, compiled=compiled)
            if recipe.calibration and recipe.calibrate_under == "last"
            else None
        )
        self._begin: Callable[..., None] = self._initialise
        self._drawn: Callable[..., Tensor] = self._draw
        self._shown: Callable[..., Tensor] = self._show
        self._advance: Callable[..., Moved] = self._move
        if compiled and device.type == "cuda":
            self._begin = Compiled(self._begin, draws=True)
            self._drawn = Compiled(self._drawn, draws=True)
            self._shown = Compiled(self._shown, draws=True)
        if has_graphs(device):
            # Nothing that they change outlives the next call, so that no state has to be put back.
            self._begin = Graphed(self._begin, [self.classes])
            self._advance = Graphed(self._advance, [self.classes])

    def step(self, step: int) -> dict[str, Tensor]:
        """Carry out one step; returns each part of the loss, summed over this engine's classes.

        The sums are scalar tensors on the device.
        """
        self._begin(step)
        totals: dict[str, Tensor] = {}
        rate = self.recipe.rate(step)
        first = 0
        waiting = list(self.chunks)
        while waiting:
            classes = waiting.pop(0)
            rows = slice(first, first + len(classes) * self.per_class)
            before = self.images[rows], self.momentum[rows]
            try:
                parts, *after = self._advance(classes, *before, step, rate)
            except torch.OutOfMemoryError:
                if len(classes) == 1 or joins_images(self.network):
                    raise
                waiting = self._halve(classes, waiting)
                continue
            self.images[rows], self.momentum[rows] = after
            totals = {name: totals.get(name, 0) + part for name, part in parts.items()}
            first = rows.stop
        return totals

    def _initialise(self, step: int | Tensor) -> None:
        """Give the network the weights of a step."""
        if self.recipe.pool:
            assert self.pool
            self.pool.draw(self.network, step)
            if self.last:
                self.pool.draw_last(self.last.network, step)
        else:
            networks.initialise(self.network, self.seed, step)

    def _move(
        self,
        classes: Tensor,
        images: Tensor,
        momentum: Tensor,
        step: int | Tensor,
        rate: float | Tensor,
    ) -> Moved:
        """What a step makes of the images of `classes`, float32 [C * I, ch, H, W], at this rate.

        They move by SGD with momentum.
        """
        parts, gradient = self.gradient(classes, images, step)
        images, momentum = self._descended(images, momentum, gradient, rate)
        if self.last:
            # It needs less memory than the gradient before, which fitted.
            parts["calibration"], gradient = self.calibration(classes, images, step)
            images, momentum = self._descended(images, momentum, gradient, rate)
        return {name: losses_C.sum() for name, losses_C in parts.items()}, images, momentum

    def _descended(
        self, images: Tensor, momentum: Tensor, gradient: Tensor, rate: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Images and momentum after a move along a gradient.

        An optimiser of torch would need the gradients of all chunks at once.
        """
        momentum = self.recipe.momentum * momentum + gradient
        images = images - rate * momentum
        return self._preprocess.clamp(images) if self.recipe.clamp else images, momentum

    def gradient(
        self, classes: Tensor, images: Tensor, step: int | Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The parts of the loss, under the present weights of the network, and their gradient.

        `classes` is int64 [C], on the device; `images` are the images of these classes, float32
        [C * I, ch, H, W], ordered by class. Each part is [C]. The gradient is that of the sum of
        all parts with respect to `images`.
        """
        real = self.describe.real(self._drawn(classes, step), len(classes))
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

    def _draw(self, classes: Tensor, step: int | Tensor) -> Tensor:
        """The real images of `classes` in a step, augmented: [C * B, ch, H, W]."""
        return self.augment.matching(self.real.batch(classes, step), classes, self.seed, step)

    def _show(self, images: Tensor, classes: Tensor, step: int | Tensor) -> Tensor:
        """The images of `classes` as networks see them: decoded, augmented as the real ones."""
        decoded = decode(images, self.recipe.formation)
        return self.augment.matching(decoded, classes, self.seed, step)

    def tensors(self) -> dict[str, Tensor]:
        """The images and their momentum, both float32 [classes * I, ch, H, W]."""
        return {"images": self.images, "momentum": self.momentum}

    def _halve(self, classes: Tensor, waiting: Sequence[Tensor]) -> list[Tensor]:
        """The chunks that are left of this step, in half the size of `classes`, which was too much.

        Later steps use chunks of this size too.
        """
        torch.cuda.empty_cache()
        half = len(classes) // 2
        print(
            f"out of GPU memory with {len(classes)} classes at once: continuing with {half}",
            file=sys.stderr,
        )
        self.chunks = list(self.classes.split(half))
        return [piece for chunk in (classes, *waiting) for piece in chunk.split(half)]


class Describer:
    """Computes the descriptors of images that a method matches: most of the time of a step.

    Parameters
    ----------
    network: its present weights are used.
    method: says what is matched of each image.
    device: the device of the network.
    compiled: whether to fuse the operations between two convolutions: normalisation, activation,
        attention and pooling.

    >>> from condense.methods import DM
    >>> network = networks.build("convnet-d1-w8", (1, 8, 8), num_classes=10)
    >>> describer = Describer(network, DM(), torch.device("cpu"), compiled=False)
    >>> [embedding] = describer.real(torch.zeros(12, 1, 8, 8), num_classes=3)
    >>> embedding.shape
    torch.Size([3, 4, 128])
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
        """Describe real images [C * B, ch, H, W], ordered by class, without a gradient.

        Returns one tensor [C, B, D_l] for each descriptor l of the method.
        """
        block = len(images) if joins_images(self._network) else block_size(images, self._device)
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            described = [self._describe(part) for part in images.split(block)]
        return _by_class([torch.cat(parts) for parts in zip(*described, strict=True)], num_classes)

    def synthetic(self, images: Tensor, num_classes: int) -> Described:
        """Describe synthetic images [C * I, ch, H, W], ordered by class, with a gradient.

        Returns one float32 tensor [C, I, D_l] for each descriptor l of the method.
        """
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            described = self._describe(images)
        return _by_class(described, num_classes)

    def _plain(self, images: Tensor) -> Described:
        return self.method.describe(self._network, images)


class Calibrator:
    """The fully trained network to calibrate under; each step gives it its weights.

    `compiled` says whether to fuse the operations between two convolutions. `logits` maps images
    [N, ch, H, W] to their logits [N, classes].

    >>> from condense import load_dataset, recipe_for
    >>> digits = load_dataset("digits")
    >>> recipe = recipe_for("dance", "digits", digits.shape, 1).override({"network": "mlp"})
    >>> last = Calibrator(recipe, digits, torch.device("cpu"), compiled=False)
    >>> last.logits(torch.zeros(3, 1, 8, 8)).shape
    torch.Size([3, 10])
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, device: torch.device, *, compiled: bool
    ) -> None:
        self.network = (
            networks.build(recipe.network, dataset.shape, len(dataset.classes))
            .to(device)
            .train()
            .requires_grad_(False)
        )
        self.logits: Callable[[Tensor], Tensor] = (
            Accelerated(self.network, device) if compiled else self.network
        )


def _cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """The mean cross-entropy of each class, [C], by logits [C * I, classes], ordered by class."""
    truth = classes.repeat_interleave(len(logits) // len(classes))
    losses = functional.cross_entropy(logits, truth, reduction="none")
    return losses.unflatten(0, (len(classes), -1)).mean(dim=1)


def _by_class(described: Described, num_classes: int) -> Described:
    return [tensor.unflatten(0, (num_classes, -1)) for tensor in described]
