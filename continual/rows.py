"""The rows of one class in a memory, and how Avalanche reads them.

A class may consist of several parts: images of each task or domain in which it came, and real
images that fill what condensed ones leave free.
"""

from dataclasses import dataclass
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute, TransformGroups
from avalanche.benchmarks.utils.classification_dataset import (
    TaskAwareSupervisedClassificationDataset,
)
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor
from torch.utils.data import Dataset

from condense.data.preprocess import Preprocess
from condense.sets.mosaics import decode


@dataclass(kw_only=True)
class Part:
    """Rows of one origin, the best first: a smaller part is the beginning of a larger one.

    >>> part = Part(rows=torch.zeros(3, 1, 8, 8), key="3", formation=2)
    >>> part.samples, part.cut(2).samples
    (12, 8)
    """

    rows: Tensor
    """uint8 pixels or float32 images [I, ch, H, W]."""
    key: str
    """What the rows stand for, so that nothing is taken twice: a class of the set, images."""
    task: int | None = None
    """The task label that samples carry, if the stream's samples do."""
    formation: int = 1
    """The f of the f x f images in each row, which are as many samples."""
    logits: Tensor | None = None
    """Those of the samples, float32 [I * f * f, C], for DER."""
    weights: Tensor | None = None
    """Of real images that only fill a memory: what decides which of them stay, float32 [I].

    They are sorted from the largest. None for condensed images."""

    @property
    def samples(self) -> int:
        """The number of samples in the rows."""
        return len(self.rows) * self.formation**2

    def cut(self, size: int) -> "Part":
        """The first `size` rows; the others are not kept in memory."""
        if size >= len(self.rows):
            return self
        count = size * self.formation**2
        return Part(
            rows=self.rows[:size].clone(),
            key=self.key,
            task=self.task,
            formation=self.formation,
            logits=None if self.logits is None else self.logits[:count].clone(),
            weights=None if self.weights is None else self.weights[:size].clone(),
        )


class ClassMemory(ExemplarsBuffer):
    """The parts of one class, the most representative rows of each first.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> rows = preprocess.quantise(memory.per_class(3))
    >>> transforms = TransformGroups({"train": None, "eval": None})
    >>> of_class = ClassMemory(3, [Part(rows=rows, key="3")], preprocess, transforms)
    >>> of_class.resize(None, 2)
    >>> len(of_class.buffer)
    2
    """

    def __init__(
        self, label: int, parts: list[Part], preprocess: Preprocess, transforms: TransformGroups
    ) -> None:
        """Make the memory of class `label`."""
        super().__init__(sum(len(part.rows) for part in parts))
        self.label, self.parts = label, parts
        self._preprocess, self._transforms = preprocess, transforms
        self._expose()

    @property
    def rows(self) -> Tensor:
        """All rows, uint8 pixels or float32 images [I, ch, H, W]."""
        return torch.cat([part.rows for part in self.parts])

    def has(self, key: str) -> bool:
        """Whether the class has the part called `key`."""
        return any(part.key == key for part in self.parts)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep at most `new_size` rows: each part its share, and real ones what is left."""
        self.max_size = new_size
        condensed = [part for part in self.parts if part.weights is None]
        shares = _shares([len(part.rows) for part in condensed], new_size)
        parts = [part.cut(share) for part, share in zip(condensed, shares, strict=True)]
        real = [part for part in self.parts if part.weights is not None]
        left = _shares([len(part.rows) for part in real], new_size - sum(shares))
        parts += [part.cut(share) for part, share in zip(real, left, strict=True)]
        self.replace(parts)

    def replace(self, parts: list[Part]) -> None:
        """Have these parts from now on, without those that are empty."""
        parts = [part for part in parts if len(part.rows)]
        if [id(part) for part in parts] != [id(part) for part in self.parts]:
            self.parts = parts
            self._expose()

    def keep_logits(self, logits: list[Tensor]) -> None:
        """From now on each sample ends with its logits: float32 [I * f * f, C] for each part."""
        for part, of_part in zip(self.parts, logits, strict=True):
            part.logits = of_part
        self._expose()

    def _expose(self) -> None:
        """Make `buffer` an Avalanche dataset of the samples in the parts."""
        samples = _Samples(self.parts, self.label, self._preprocess)
        attributes = [DataAttribute([self.label] * len(samples), "targets")]
        kind: type[AvalancheDataset[Any]] = AvalancheDataset
        if self.parts and self.parts[0].task is not None:
            kind = TaskAwareSupervisedClassificationDataset
            tasks = [part.task for part in self.parts for _ in range(part.samples)]
            attributes.append(DataAttribute(tasks, "targets_task_labels", use_in_getitem=True))
        logits = [part.logits for part in self.parts if part.logits is not None]
        if logits and len(logits) == len(self.parts):
            rows = [row for of_part in logits for row in of_part]
            attributes.append(DataAttribute(rows, "logits", use_in_getitem=True))
        self.buffer = kind([samples], data_attributes=attributes, transform_groups=self._transforms)


class _Samples(Dataset[tuple[Tensor, int]]):
    """The samples in the rows of one class: (float32 image, label), preprocessed and decoded."""

    def __init__(self, parts: list[Part], label: int, preprocess: Preprocess) -> None:
        self._rows = [(part.rows, part.formation) for part in parts]
        self._label, self._preprocess = label, preprocess

    def __len__(self) -> int:
        return sum(len(rows) * formation**2 for rows, formation in self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        for rows, formation in self._rows:
            if index < len(rows) * formation**2:
                break
            index -= len(rows) * formation**2
        row, piece = divmod(index, formation**2)
        image = rows[row][None]
        image = self._preprocess.apply(image) if image.dtype == torch.uint8 else image
        return decode(image, formation)[piece], self._label


def _shares(available: list[int], size: int) -> list[int]:
    """How many rows each part keeps of `size`: equal shares, as far as there are so many rows.

    >>> _shares([4, 4], 5), _shares([1, 9], 6)
    ([3, 2], [1, 5])
    """
    shares = [0] * len(available)
    while sum(shares) < min(size, sum(available)):
        least = min(
            (number for number, count in enumerate(available) if shares[number] < count),
            key=lambda number: shares[number],
        )
        shares[least] += 1
    return shares
