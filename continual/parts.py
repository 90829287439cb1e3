"""What an experience adds to a memory: parts of a set, or images condensed when they come."""

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from condense.data.images import Images
from condense.data.preprocess import Preprocess
from condense.errors import UserError
from condense.files import digest
from condense.methods.base import Recipe
from condense.methods.selection import herd
from condense.sets.condensed import CondensedSet
from continual import fit
from continual.kept import KeptSet
from continual.memories import Online, made_jointly
from continual.rows import Part

Has = Callable[[int, str], bool]
"""Whether a memory has, for a label, the part of some key."""


def best_first(images: Tensor, preprocess: Preprocess, storage: str) -> Tensor:
    """Rows of a class in the order of herding, as `uint8` or `float32`: [I, ch, H, W].

    >>> from condense.data.preprocess import Standardize
    >>> identity = Standardize(mean=torch.zeros(1), std=torch.ones(1))
    >>> best_first(torch.tensor([0.0, 0.4, 0.5, 0.9]).view(4, 1, 1, 1), identity, "uint8").flatten()
    tensor([102, 128,   0, 230], dtype=torch.uint8)
    """
    rows = preprocess.quantise(images) if storage == "uint8" else images
    return rows[herd(images.flatten(1), len(images))]


def task_of(dataset: Any, row: int) -> int | None:
    """The task label of a row; None if samples are (image, label) pairs.

    >>> from types import SimpleNamespace
    >>> task_of(SimpleNamespace(targets_task_labels=[0, 2]), 1)
    2
    """
    if not hasattr(dataset, "targets_task_labels"):
        return None
    return int(dataset.targets_task_labels[row])


class SetParts:
    """Parts of a condensed set: the images of each class, when the class comes.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> parts = SetParts(KeptSet(select("random", digits, 4, preprocess=preprocess, seed=0)))
    >>> len(parts.whole(3, None).rows)
    4
    """

    def __init__(
        self, kept: KeptSet, *, storage: str = "uint8", mapping: Sequence[int] | None = None
    ) -> None:
        """`mapping` is the label of each original class, if the stream does not keep it."""
        self.kept, self._storage, self._mapping = kept, storage, mapping
        self.preprocess, self.shape = kept.set.preprocess, kept.set.shape
        self.fingerprint = kept.fingerprint
        _warn(kept.set)

    @property
    def source(self) -> CondensedSet:
        """The set."""
        return self.kept.set

    @property
    def counts(self) -> dict[int, int]:
        """The number of stored images of each class that has any."""
        return self.kept.look.counts

    def new(self, dataset: Any, exp: Any, has: Has) -> dict[int, Part]:
        """What the memory lacks of the classes of a dataset, by label.

        `exp` is the experience of the dataset, or None. Raises `UserError` if the set and the
        stream do not fit.
        """
        labels = sorted(int(label) for label in dataset.targets.uniques)
        mapping = fit.originals(exp, labels, self._mapping)
        classes = self._one_each(mapping) if mapping else {label: label for label in labels}
        classes = {label: c for label, c in classes.items() if not has(label, str(c))}
        if not classes:
            return {}
        fit.check_shape(dataset, self.shape)
        self._check_names(exp)
        for c in classes.values():
            if c not in self.counts:
                brought = "the stream" if exp is None else f"experience {exp.current_experience}"
                raise UserError(
                    f"the set has no images of class {c}, which {brought} brings: use its own set"
                )
        common: dict[str, Any] = {"known": bool(mapping)}
        fit.check_images(dataset, classes, self.kept.look, self.preprocess, **common)
        rows = fit.rows_of(dataset, labels)
        return {
            label: self.whole(c, task_of(dataset, rows[label][0])) for label, c in classes.items()
        }

    def whole(self, c: int, task: int | None) -> Part:
        """All images of a class."""
        condensed = self.kept.set
        rows = best_first(condensed.per_class(c), self.preprocess, self._storage)
        return Part(rows=rows, key=str(c), task=task, formation=condensed.formation)

    def _one_each(self, mapping: dict[int, list[int]]) -> dict[int, int]:
        for label, classes in mapping.items():
            if len(classes) > 1:
                raise UserError(
                    "the stream gives several classes the same label, and the experience does not "
                    "say which of them it brings: use a stream that numbers classes once"
                )
            if not classes:
                raise UserError(
                    f"`class_mapping` gives no class the label {label}, which the stream brings"
                )
        return {label: classes[0] for label, classes in mapping.items()}

    def _check_names(self, exp: Any) -> None:
        names = fit.class_names(exp)
        if names is not None and names != self.kept.set.classes:
            raise UserError(
                "the set's classes are not those of the stream, or in another order: "
                "condense the stream's dataset"
            )


def _warn(condensed: CondensedSet) -> None:
    """Warn of what a set loses or knows as a memory."""
    if condensed.soft:
        warnings.warn(
            "the set's labels are soft: its images are replayed under the class of their largest "
            "entry",
            stacklevel=4,
        )
    if made_jointly(condensed):
        warnings.warn(
            "the set was made of all its classes at once: as a memory, its images of early classes "
            "depend on those that come later",
            stacklevel=4,
        )


@dataclass
class OnlineParts:
    """Parts that are condensed when an experience has ended, from its training images alone.

    An online stream brings an experience in pieces. Their images are gathered until it has ended.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> preprocess = make_preprocess("standard", load_dataset("digits"))
    >>> parts = OnlineParts(Online(shape=(1, 8, 8), preprocess=preprocess, folder="online"))
    >>> parts.shape
    (1, 8, 8)
    """

    source: Online
    storage: str = "uint8"
    _gathered: dict[int, list[Tensor]] = field(init=False, default_factory=dict)
    """The pixels of an experience that has not ended, by label, uint8 [I, ch, H, W]."""
    _pieces: set[int] = field(init=False, default_factory=set)
    """The numbers of the pieces that they come from."""

    @property
    def preprocess(self) -> Preprocess:
        """The transform of the stream."""
        return self.source.preprocess

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the stream's images."""
        return self.source.shape

    @property
    def fingerprint(self) -> str:
        """What the condensed images depend on, apart from the stream."""
        one = self.source
        recipe = one.recipe.to_json() if isinstance(one.recipe, Recipe) else one.recipe
        facts = [one.shape, one.ipc, recipe, one.dataset_name, one.steps, one.seconds, one.seed]
        return digest({}, json.dumps([*facts, one.preprocess.fingerprint]))[:16]

    def new(self, dataset: Any, exp: Any, has: Has) -> dict[int, Part]:
        """The condensed images of an experience's classes, by label; none while it has not ended.

        A class that was met before, with other images, gets a part of its own.
        """
        labels = sorted(int(label) for label in dataset.targets.uniques)
        fit.check_shape(dataset, self.shape)
        rows = fit.rows_of(dataset, labels)
        pixels = {label: fit.pixels_of(dataset, rows[label], self.preprocess) for label in labels}
        if exp is not None and "origin_experience" in vars(exp):
            pixels = self._ended(pixels, exp)
        keys = {label: digest({"pixels": of_label})[:16] for label, of_label in pixels.items()}
        new = [label for label in pixels if not has(label, keys[label])]
        if not new:
            return {}
        originals = fit.originals(exp, new, None)
        names = tuple(str((originals.get(label) or [label])[0]) for label in new)
        counts = torch.tensor([len(pixels[label]) for label in new])
        condensed = self.source.condense(
            Images(
                torch.cat([pixels[label] for label in new]),
                torch.arange(len(new)).repeat_interleave(counts),
                names,
            )
        )
        task = task_of(dataset, 0)
        return {
            label: Part(
                rows=best_first(condensed.per_class(index), self.preprocess, self.storage),
                key=keys[label],
                task=task,
                formation=condensed.formation,
            )
            for index, label in enumerate(new)
        }

    def _ended(self, pixels: dict[int, Tensor], exp: Any) -> dict[int, Tensor]:
        """Gather the pixels of a piece; all that is gathered, if the experience ends with it."""
        if exp.origin_experience is None or not exp.access_task_boundaries:
            raise UserError(
                "an online memory condenses an experience when it has ended, and this stream does "
                "not say when: split it with `access_task_boundaries=True`, or give a condensed set"
            )
        if exp.is_first_subexp:
            self._gathered, self._pieces = {}, set()
        if exp.current_experience not in self._pieces:
            self._pieces.add(exp.current_experience)
            for label, of_label in pixels.items():
                self._gathered.setdefault(label, []).append(of_label)
        # Avalanche does not mark the last piece of an experience that divides evenly.
        if not exp.is_last_subexp and len(self._pieces) < exp.sub_stream_length:
            return {}
        gathered, self._gathered = self._gathered, {}
        return {label: torch.cat(gathered[label]) for label in sorted(gathered)}
