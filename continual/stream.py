"""Class-incremental streams of any of our datasets, as Avalanche benchmarks in memory.

A stream holds uint8 pixels, and its transform is the preprocessing. A condensed memory also holds
pixels and has its own transform, the same preprocessing. Replayed images and real ones therefore
go through it once each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from avalanche.benchmarks import NCScenario, nc_benchmark
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from condense.data.images import Dataset
from condense.data.own import Own, as_dataset, as_uint8
from condense.data.preprocess import Preprocess
from condense.errors import UserError
from continual.orders import split

Augment = Callable[[Tensor], Tensor]
"""A transform of one preprocessed image, float32 [ch, H, W], while training: a crop, a mirror."""


@dataclass(frozen=True)
class Prepare:
    """A transform of one image to a float32 one [ch, H, W]: preprocessed, then augmented.

    The image is a tensor [ch, H, W], uint8 or floats in [0, 1] as `ToTensor` gives them, or a PIL
    image, as torchvision's datasets give it. The transform can be pickled, so that worker processes
    of a data loader can use it.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> Prepare(preprocess)(digits.train.pixels[0]).dtype
    torch.float32
    """

    preprocess: Preprocess
    augment: Augment | None = None

    def __call__(self, picture: Tensor | Image) -> Tensor:
        pixels = as_uint8(picture) if isinstance(picture, Tensor) else pil_to_tensor(picture)
        image = self.preprocess.apply(pixels[None])[0]
        return self.augment(image) if self.augment else image


def class_stream(
    dataset: Dataset | Own,
    steps: int,
    order: Sequence[int],
    *,
    preprocess: Preprocess,
    augment: Augment | None = None,
    base: Sequence[int] = (),
) -> NCScenario:
    """A benchmark of `steps` experiences, each with the same number of new classes.

    `dataset` is what `load_dataset` gives, or any dataset that `as_dataset` takes, with its test
    images: `as_dataset(train, test)`. `base` has the numbers of classes of the first experiences,
    if they differ; the others divide the rest.
    The classes come in the given order (see `class_order`); labels stay those of `dataset`. Samples
    are `[image, label, task 0]`, which all of Avalanche's strategies accept. `augment` is for
    training images only. Raises `UserError` if `steps` does not divide the number of classes, or if
    `order` does not name every class once.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> stream = class_stream(digits, 5, range(10), preprocess=preprocess)
    >>> [experience.classes_in_this_experience for experience in stream.train_stream][:2]
    [[0, 1], [2, 3]]
    """
    dataset = as_dataset(dataset)
    if sorted(order) != list(range(len(dataset.classes))):
        raise UserError(
            f"`order` must name each of the {len(dataset.classes)} classes of {dataset.name} once"
        )
    split(order, steps, base)
    if not len(dataset.test):
        raise UserError(
            f"{dataset.name} has no test images: give both splits, `as_dataset(train, test)`"
        )
    benchmark = nc_benchmark(
        TensorDataset(dataset.train.pixels, dataset.train.labels),
        TensorDataset(dataset.test.pixels, dataset.test.labels),
        n_experiences=steps,
        task_labels=False,
        shuffle=False,
        fixed_class_order=list(order),
        per_exp_classes=dict(enumerate(base)) or None,
        train_transform=Prepare(preprocess, augment),
        eval_transform=Prepare(preprocess),
    )
    # With the names, a memory of classes in another order is noticed.
    benchmark.class_names = dataset.classes
    return benchmark
