"""Whether a stream and a memory belong together: what its labels stand for, and what it shows.

Only some of Avalanche's streams say which class a label stands for, and none says how its images
were transformed. Both are therefore compared with the images of the memory. To compare classes, an
experience's images of a label give the direction in which they differ from the memory as a whole,
and the classes of the memory are ordered along it. The class of the label should come first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from condense.data.preprocess import Preprocess
from condense.errors import UserError
from condense.sets.condensed import CondensedSet

_RANGE = 0.01
"""How far outside [0, 1] the values of an image may lie after its preprocessing is undone.

This allows for rounding and interpolation."""
_SPAN = 0.6
"""The least span of grey levels of a stream, as a part of the memory's.

Images scaled to [-1, 1] reach 0.55 of it in the space of CIFAR's standardisation, those scaled to
[0, 1] 0.3."""
_CLIPPED = 0.15
"""Images of which more values than this are black, and as many white, are no longer pictures.

Few condensed images after large steps are such."""
_SIZE = 8
"""Classes are compared at no more than 8 x 8 pixels."""
_COMPARED = 100
"""As many images of a label are compared at most."""
_ENOUGH = 10
"""A set of fewer images of a class is not held to look like it.

Of ten real images of CIFAR-10, whose classes differ least, the mean place is 0.07, and 0.5 of those
of other classes."""

GIVE_MAPPING = (
    "give CondensedBuffer the stream's `class_mapping`, or the `order` in which classes were "
    "renumbered"
)


@dataclass(frozen=True)
class Look:
    """What a set's images look like, as far as they are compared with a stream's.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> look = Look.of(select("random", digits, 4, preprocess=preprocess, seed=0))
    >>> look.counts[3], look.means.shape, look.span
    (4, torch.Size([10, 64]), 1.0)
    """

    counts: dict[int, int]
    """The number of stored images of each class that has any."""
    means: Tensor
    """The mean image of each of these classes at a low resolution, float32 [C, D]."""
    span: float
    """The distance of the 1 % and 99 % quantiles of all values in [0, 1]."""
    pictures: bool
    """Whether the images look like pictures at all, so that they can be compared with some."""

    @classmethod
    def of(cls, condensed: CondensedSet) -> Self:
        """The look of a set, whose values are clipped to those of pictures."""
        decoded = condensed.decoded()
        images, labels = decoded.preprocess.invert(decoded.images), decoded.class_of()
        counts = {c: count for c, count in enumerate(condensed.counts().tolist()) if count}
        means = torch.stack([_small(images[labels == c]).mean(dim=0) for c in counts])
        ends = [float(one.float().mean()) for one in (images < 1e-4, images > 1 - 1e-4)]
        return cls(counts, means, _span(images), pictures=min(ends) < _CLIPPED)


def originals(exp: Any, labels: Sequence[int], given: Sequence[int] | None) -> dict[int, list[int]]:
    """The original classes of each label, by the mapping that is given or that the stream keeps.

    It is empty if there is no mapping. There are several classes of a label in streams that number
    each experience's classes from zero, if the experience does not say which of them it brings.

    >>> originals(None, [0, 1], given=[1, -1, 0])
    {0: [2], 1: [0]}
    >>> originals(None, [0, 1], given=None)
    {}
    """
    for benchmark in _benchmarks(exp):
        mapping = getattr(benchmark, "class_mapping", None) if given is None else given
        if mapping is None:
            continue
        brings = getattr(benchmark, "original_classes_in_exp", None)
        own = brings[_position(exp)] if given is None and brings else range(len(mapping))
        return {label: [c for c in sorted(own) if int(mapping[c]) == label] for label in labels}
    if given is None:
        return {}
    return {label: [c for c, to in enumerate(given) if int(to) == label] for label in labels}


def class_names(exp: Any) -> tuple[str, ...] | None:
    """The names of the stream's original classes, if it was made by `continual.class_stream`.

    >>> from types import SimpleNamespace
    >>> class_names(SimpleNamespace(benchmark=SimpleNamespace(class_names=["cat", "dog"])))
    ('cat', 'dog')
    """
    for benchmark in _benchmarks(exp):
        names = getattr(benchmark, "class_names", None)
        if names is not None:
            return tuple(names)
    return None


def check_shape(dataset: Any, shape: tuple[int, int, int]) -> None:
    """Raise `UserError` unless the stream's samples can be stacked with the memory's.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from continual import class_stream
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> stream = class_stream(digits, 5, range(10), preprocess=preprocess)
    >>> check_shape(stream.train_stream[0].dataset, (1, 8, 8))
    """
    image = dataset.eval()[0][0]
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or tuple(image.shape) != shape:
        tensor = isinstance(image, Tensor)
        kind = f"{image.dtype} {tuple(image.shape)}" if tensor else type(image).__name__
        raise UserError(
            f"the stream's images are {kind}, the memory's float32 {shape}: "
            "they must be the same to be replayed"
        )


def restored(dataset: Any, rows: Sequence[int], preprocess: Preprocess) -> Tensor:
    """Some of a dataset's images without augmentation, `preprocess` undone: float32 in [0, 1].

    Raises `UserError` if they are not in the space of `preprocess`.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from continual import class_stream
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> stream = class_stream(digits, 5, range(10), preprocess=preprocess)
    >>> restored(stream.train_stream[0].dataset, [3, 4], preprocess).shape
    torch.Size([2, 1, 8, 8])
    """
    # With a generator of its own the loader does not move the global one, which shuffles streams.
    part = dataset.subset(list(rows)).eval()
    loader = DataLoader(part, batch_size=256, generator=torch.Generator())
    images = preprocess.unapply(torch.cat([batch[0] for batch in loader]))
    if images.min() < -_RANGE or images.max() > 1 + _RANGE:
        raise UserError(
            "the stream's images are not under the preprocessing of the memory: end its transforms "
            "with the memory's `preprocess`, as `continual.stream.Prepare` does"
        )
    return images.clamp(0, 1)


def pixels_of(dataset: Any, rows: Sequence[int], preprocess: Preprocess) -> Tensor:
    """The same images as uint8 pixels [I, ch, H, W]; arguments and errors as of `restored`.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from continual import class_stream
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> stream = class_stream(digits, 5, range(10), preprocess=preprocess)
    >>> pixels_of(stream.train_stream[0].dataset, [3, 4], preprocess).dtype
    torch.uint8
    """
    return (restored(dataset, rows, preprocess) * 255).round().to(torch.uint8)


def rows_of(dataset: Any, labels: Sequence[int]) -> dict[int, list[int]]:
    """The rows of a dataset that have each of some labels.

    >>> from types import SimpleNamespace
    >>> rows_of(SimpleNamespace(targets=[5, 3, 5]), [5])
    {5: [0, 2]}
    """
    rows: dict[int, list[int]] = {label: [] for label in labels}
    for row, label in enumerate(dataset.targets):
        if int(label) in rows:
            rows[int(label)].append(row)
    return rows


def check_images(
    dataset: Any,
    classes: dict[int, int],
    memory: Look,
    preprocess: Preprocess,
    *,
    known: bool,
) -> None:
    """Raise `UserError` if a dataset's images cannot be those that the memory stands for.

    Parameters
    ----------
    classes: the original class of each label that is compared.
    known: whether `classes` is certain. If it is not, the images have to show that it is right.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from continual import class_stream
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> stream = class_stream(digits, 5, range(10), preprocess=preprocess)
    >>> from condense.methods.selection import select
    >>> look = Look.of(select("random", digits, 4, preprocess=preprocess, seed=0))
    >>> dataset = stream.train_stream[0].dataset
    >>> check_images(dataset, {0: 0, 1: 1}, look, preprocess, known=False)
    >>> check_images(dataset, {0: 7, 1: 8}, look, preprocess, known=False)
    Traceback (most recent call last):
    condense.errors.UserError: the stream does not say which class a label stands for, and its ...
    """
    of_label = {
        label: restored(dataset, _spread(rows), preprocess)
        for label, rows in rows_of(dataset, list(classes)).items()
    }
    if memory.pictures:
        _check_span(torch.cat(list(of_label.values())), memory)
    if len(memory.counts) < 2:
        return
    places = _places(of_label, classes, memory)
    enough = min(memory.counts[c] for c in classes.values()) >= _ENOUGH
    strange = memory.pictures and enough and float(places.mean()) > 0.4
    shown = memory.pictures and float(places.mean()) <= 0.1 and float(places.max()) <= 0.3
    if known and strange:
        raise UserError(
            "the memory's images do not look like the stream's classes: use the set of the "
            "stream's own dataset, or " + GIVE_MAPPING
        )
    if not known and not shown:
        raise UserError(
            "the stream does not say which class a label stands for, and its images do not show "
            f"that labels are the set's own classes: {GIVE_MAPPING}"
        )


def _check_span(images: Tensor, memory: Look) -> None:
    span = _span(images)
    if span < _SPAN * memory.span:
        raise UserError(
            f"the stream's images span {span:.2f} of the grey levels and the memory's "
            f"{memory.span:.2f}: end the stream's transforms with the memory's `preprocess`"
        )


def _places(of_label: dict[int, Tensor], classes: dict[int, int], memory: Look) -> Tensor:
    """Where each label's class stands among those of the memory, from 0 (first) to 1 (last)."""
    small = [_small(images) for images in of_label.values()]
    means = torch.stack([images.mean(dim=0) for images in small])
    spread = torch.cat([images - images.mean(dim=0) for images in small])
    covariance = spread.T @ spread / len(spread)
    size = len(covariance)
    covariance += torch.eye(size) * (0.1 * covariance.trace() / size + 1e-6)
    directions = torch.linalg.solve(covariance, (means - memory.means.mean(dim=0)).T).T
    scores = directions @ memory.means.T
    order = list(memory.counts)
    own = scores[range(len(small)), [order.index(classes[label]) for label in of_label]]
    return (scores > own[:, None]).sum(dim=1) / (len(order) - 1)


def _small(images: Tensor) -> Tensor:
    """Images [I, ch, H, W] at a low resolution, flattened: [I, D]."""
    height, width = (min(_SIZE, side) for side in images.shape[2:])
    return F.adaptive_avg_pool2d(images, (height, width)).flatten(1)


def _span(images: Tensor) -> float:
    """The distance of the 1 % and 99 % quantiles of all values."""
    values = images.flatten().sort().values
    low, high = values[len(values) // 100], values[-1 - len(values) // 100]
    return float(high - low)


def _spread(rows: list[int]) -> list[int]:
    """At most `_COMPARED` of the rows, evenly spread."""
    return rows[:: -(-len(rows) // _COMPARED)]


def _position(exp: Any) -> int:
    """The number of an experience in its stream, or of the one that it is a part of."""
    *_, first = _chain(exp)
    return int(first.current_experience)


def _chain(exp: Any) -> Iterator[Any]:
    """The experience, the one that it is a part of, and so on."""
    while exp is not None:
        yield exp
        attribute = vars(exp).get("origin_experience") if hasattr(exp, "__dict__") else None
        # Avalanche hides it from strategies that must not see where an experience ends.
        exp = getattr(attribute, "value", attribute)


def _benchmarks(exp: Any) -> Iterator[Any]:
    """The benchmarks that an experience comes from."""
    for one in _chain(exp):
        benchmark = getattr(one, "benchmark", None)
        if benchmark is not None:
            yield benchmark
