"""The loop: one step is a fresh network, real and synthetic images under the same augmentation, and a move of the pixels.

Legend of the shape suffixes: N images, C classes of a chunk, B real images a class, I synthetic images a class.

The loss of a class depends on that class alone (given the network, and with statistics taken per image), so the
classes are treated in chunks: memory does not grow with their number, and on a CPU the working set stays in cache.
BatchNorm joins the classes in its statistics, so such networks see all classes in one chunk.

Real images need no gradient. They are described in blocks of a few, in a lower precision where the hardware is
made for it, and their descriptors averaged in float32.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from condense import networks
from condense.accelerate import Compiled, block_size, joins_images, worth_compiling
from condense.augment import make_augment
from condense.data import Dataset
from condense.device import fast_bfloat16
from condense.errors import UserError
from condense.methods import Method
from condense.methods.base import Described
from condense.preprocess import Preprocess
from condense.randomness import uniforms
from condense.recipes import Recipe

_CPU_CHUNK = 50
"""Synthetic images a chunk aims at on a CPU, so that their maps stay in cache."""
_EXPLODED = 1e4
"""Pixels this far from 0, in preprocessed units, come of a diverged run: real ones are within 10."""


class Diverged(Exception):
    """The loss or the pixels are no longer finite or within reason."""


class Engine:
    """Synthetic images and the step that moves them.

    Parameters
    ----------
    dataset: the real images; only its training half is read.
    recipe: every hyperparameter.
    preprocess: fitted to the dataset; the synthetic images live in its space.
    start: the starting images, float32 [C * I, ch, H, W], class-major.
    seed: with the step and the class it determines every draw.
    device: where everything lives; the real images stay uint8 until used.
    chunk: classes treated at once; None chooses. Raises `UserError` where the network's statistics join the classes.
    compiled: whether to compile what lies between the convolutions; None decides by the length of the run.
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
    ) -> None:
        num_classes = len(dataset.classes)
        self.recipe, self.seed, self.device = recipe, seed, device
        self.per_class = len(start) // num_classes
        self.network = networks.build(recipe.network, dataset.shape, num_classes).to(device).train()
        self.network.requires_grad_(False)
        self.chunk = _chunk(chunk, num_classes, self.per_class, joins_images(self.network), device)
        self.augment = make_augment(recipe.augment)
        self.real = RealImages(dataset, preprocess, recipe.real_batch, seed, device)
        self.images = start.to(device, torch.float32, copy=True).requires_grad_()
        self.optimizer = torch.optim.SGD([self.images], lr=recipe.lr, momentum=recipe.momentum)
        if compiled is None:
            images_a_step = num_classes * (recipe.real_batch + 2 * self.per_class)
            compiled = worth_compiling(recipe.steps * images_a_step * dataset.shape[1] * dataset.shape[2])
        self.describe = Describer(self.network, recipe.method, device, compiled=compiled)

    def step(self, step: int) -> dict[str, float]:
        """Carry out one step; returns each part of the loss, summed over the classes. Raises `Diverged`."""
        networks.initialise(self.network, self.seed, step)
        self.optimizer.zero_grad()
        totals: dict[str, Tensor] = {}
        for classes in self._chunks():
            parts = self.parts(classes, step)
            torch.stack(list(parts.values())).sum().backward()
            for name, losses_C in parts.items():
                totals[name] = totals.get(name, 0) + losses_C.detach().sum()
        self.optimizer.step()
        losses = {name: float(total) for name, total in totals.items()}
        if not (torch.tensor(list(losses.values())).isfinite().all() and self.images.detach().abs().amax() < _EXPLODED):
            raise Diverged
        return losses

    def parts(self, classes: Tensor, step: int) -> dict[str, Tensor]:
        """The parts of the loss of each of `classes` (int64 [C], on the device) under the network as it stands, each [C]."""
        drawn = self.augment.matching(self.real.batch(classes, step), classes, self.seed, step)
        real = self.describe.real(drawn, len(classes))
        rows = (classes[:, None] * self.per_class + torch.arange(self.per_class, device=self.device)).flatten()
        synthetic = self.augment.matching(self.images[rows], classes, self.seed, step)
        return self.recipe.method.parts(real, self.describe.synthetic(synthetic, len(classes)))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold beside the step: the images and the optimiser's momentum, copied."""
        momentum = self.optimizer.state[self.images].get("momentum_buffer")
        images = self.images.detach().clone()
        return {"images": images, "momentum": torch.zeros_like(images) if momentum is None else momentum.clone()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()`."""
        with torch.no_grad():
            self.images.copy_(state["images"])
        # SGD starts its momentum at the first gradient; zeros, decayed and added to, give the same bits.
        self.optimizer.state[self.images]["momentum_buffer"] = state["momentum"].to(self.device, copy=True)

    def _chunks(self) -> Iterator[Tensor]:
        return iter(torch.arange(self.real.num_classes, device=self.device).split(self.chunk))


class Describer:
    """What a method matches of each image, under a network: the part of a step where the time goes.

    `compiled` fuses all between two convolutions: normalise, activate, attend, pool.
    """

    def __init__(self, network: networks.Network, method: Method, device: torch.device, *, compiled: bool) -> None:
        self._network, self._method, self._device = network, method, device
        self._half = compiled and fast_bfloat16(device)
        self._describe: Callable[[Tensor], Described] = self._plain
        if compiled:
            network.to(memory_format=torch.channels_last)
            self._describe = Compiled(self._plain)

    def real(self, images: Tensor, num_classes: int) -> Described:
        """Describe class-major real images [C * B, ch, H, W], without gradient: tensors [C, B, D_l]."""
        whole = self._device.type != "cpu" or joins_images(self._network)
        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            described = [self._describe(block) for block in images.split(len(images) if whole else block_size(len(images)))]
        return _by_class([torch.cat(parts) for parts in zip(*described, strict=True)], num_classes)

    def synthetic(self, images: Tensor, num_classes: int) -> Described:
        """Describe class-major synthetic images [C * I, ch, H, W], in float32 and with gradient: tensors [C, I, D_l]."""
        return _by_class(self._describe(images), num_classes)

    def _plain(self, images: Tensor) -> Described:
        return self._method.describe(*self._network.observe(images))


def _by_class(described: Described, num_classes: int) -> Described:
    return [tensor.unflatten(0, (num_classes, -1)) for tensor in described]


class RealImages:
    """The real training images on the device, and the batches drawn of them."""

    def __init__(self, dataset: Dataset, preprocess: Preprocess, per_class: int, seed: int, device: torch.device) -> None:
        train = dataset.train
        self.num_classes, self._per_class, self._seed = len(train.classes), per_class, seed
        self._preprocess = preprocess.to(device)
        self._pixels = train.pixels.to(device)
        self._counts = train.counts().to(device)
        # Row c lists the images of class c; short rows are filled up with an index that is never drawn.
        self._table = torch.zeros(self.num_classes, int(train.counts().max()), dtype=torch.int64)
        for label in range(self.num_classes):
            indices = train.of_class(label)
            self._table[label, : len(indices)] = indices
        self._table = self._table.to(device)

    def batch(self, classes: Tensor, step: int) -> Tensor:
        """A batch of each class, preprocessed, class-major: float32 [C * B, ch, H, W].

        Drawn without replacement; of a class with fewer than B images, all are taken equally often, to within one.
        """
        table, counts = self._table[classes], self._counts[classes]
        keys = uniforms(self._seed, "real", step, classes, table.shape[1])
        keys = keys.masked_fill(torch.arange(table.shape[1], device=keys.device) >= counts[:, None], 2.0)
        order = keys.topk(min(self._per_class, table.shape[1]), dim=1, largest=False).indices
        places = torch.arange(self._per_class, device=keys.device) % counts[:, None]
        chosen = table.gather(1, order.gather(1, places)).flatten()
        return self._preprocess.apply(self._pixels[chosen])


def _chunk(chunk: int | None, num_classes: int, per_class: int, joint: bool, device: torch.device) -> int:
    if joint:
        if chunk is not None and chunk < num_classes:
            raise UserError(
                f"--chunk {chunk}: BatchNorm joins all {num_classes} classes in its statistics; "
                "leave --chunk out, or use an instance norm"
            )
        return num_classes
    if chunk is None:
        most = max(1, _CPU_CHUNK // per_class) if device.type == "cpu" else 10
        # Equal chunks are equal shapes, and each shape is compiled anew.
        return max(size for size in range(1, min(most, num_classes) + 1) if num_classes % size == 0)
    if chunk < 1:
        raise UserError(f"--chunk {chunk}: it must be 1 or more")
    return min(chunk, num_classes)
