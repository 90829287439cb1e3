"""Class-incremental streams of any of our datasets, as Avalanche benchmarks in memory.

The stream holds uint8 pixels and its transform is the preprocessing. A condensed memory holds uint8 pixels too, and
brings the same preprocessing as its own transform: what is replayed goes through it once, as real images do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avalanche.benchmarks import NCScenario, nc_benchmark
from torch import Tensor
from torch.utils.data import TensorDataset

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.errors import UserError
from continual.orders import split

Augment = Callable[[Tensor], Tensor]
"""A transform of one preprocessed image, float32 [ch, H, W], while training: a crop, a mirror."""


@dataclass(frozen=True)
class Prepare:
    """A transform of one image: uint8 [ch, H, W] to float32, preprocessed, then augmented. Worker processes can have it."""

    preprocess: Preprocess
    augment: Augment | None = None

    def __call__(self, pixels: Tensor) -> Tensor:
        image = self.preprocess.apply(pixels[None])[0]
        return self.augment(image) if self.augment else image


def class_stream(
    dataset: Dataset,
    steps: int,
    order: Sequence[int],
    *,
    preprocess: Preprocess,
    augment: Augment | None = None,
) -> NCScenario:
    """A benchmark of `steps` experiences with as many new classes each, in the given order (see `class_order`).

    Labels stay those of `dataset`. Experiences carry `[image, label, task 0]`, which all of Avalanche's strategies take.
    `augment` is for training images alone. Raises `UserError` where steps do not divide the classes, or `order` is not
    one of all classes.
    """
    if sorted(order) != list(range(len(dataset.classes))):
        raise UserError(
            f"`order` must name each of the {len(dataset.classes)} classes of {dataset.name} once"
        )
    split(order, steps)
    benchmark = nc_benchmark(
        TensorDataset(dataset.train.pixels, dataset.train.labels),
        TensorDataset(dataset.test.pixels, dataset.test.labels),
        n_experiences=steps,
        task_labels=False,
        shuffle=False,
        fixed_class_order=list(order),
        train_transform=Prepare(preprocess, augment),
        eval_transform=Prepare(preprocess),
    )
    benchmark.class_names = (
        dataset.classes
    )  # so that a memory of classes in another order is noticed
    return benchmark
