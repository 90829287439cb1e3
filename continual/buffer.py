"""`CondensedBuffer`: a replay memory of condensed images, usable as any Avalanche storage policy.

It never holds a class before its experience. Its rows are the stored images: uint8 pixels, or
float32 images. When a row is read, it is preprocessed and decoded, so that a replayed image has
gone through the same transform as the images of the stream, once. See docs/continual.md for what
the stream must look like, and for the traps of Avalanche 0.6.
"""

from pathlib import Path
from typing import Any

import torch
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    DataAttribute,
    TransformGroups,
    make_avalanche_dataset,
)
from avalanche.training.storage_policy import BalancedExemplarsBuffer, ExemplarsBuffer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from condense.data.images import Images
from condense.data.preprocess import Preprocess
from condense.errors import UserError, unknown
from condense.methods.selection import herd
from condense.sets.condensed import CondensedSet
from condense.sets.mosaics import decode
from continual.memories import Online
from continual.stream import Augment

BYTES = {"uint8": 1, "float32": 4}
"""Bytes of one value of an image, by storage."""
_RANGE = 0.01
"""How far outside [0, 1] the values of an image may lie after its preprocessing is undone.

This allows for rounding and interpolation."""


class ClassMemory(ExemplarsBuffer):
    """The rows of one class, the most representative first.

    A smaller memory is therefore the beginning of a larger one.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> rows = preprocess.quantise(memory.per_class(3))
    >>> transforms = TransformGroups({"train": None, "eval": None})
    >>> of_class = ClassMemory(rows, 3, None, preprocess, transforms)
    >>> of_class.resize(None, 2)
    >>> len(of_class.buffer)
    2
    """

    def __init__(
        self,
        rows: Tensor,
        label: int,
        task: int | None,
        preprocess: Preprocess,
        transforms: TransformGroups,
        *,
        formation: int = 1,
        logits: Tensor | None = None,
    ) -> None:
        """Make the memory of class `label`.

        rows: uint8 pixels or float32 images [I, ch, H, W].
        task: the task label that samples carry, if the stream's samples do.
        formation: the f of the f x f images in each row, which are as many samples.
        logits: those of the samples, float32 [I * f * f, C], for DER.
        """
        super().__init__(len(rows))
        self.rows, self.label, self.task = rows, label, task
        self.formation, self.logits = formation, logits
        self._preprocess, self._transforms = preprocess, transforms
        self._expose()

    def resize(self, strategy: Any, new_size: int) -> None:
        """Keep the first `new_size` rows and drop the others."""
        self.max_size = new_size
        if new_size < len(self.rows):
            self.rows = self.rows[:new_size].clone()
            if self.logits is not None:
                self.logits = self.logits[: new_size * self.formation**2].clone()
            self._expose()

    def keep_logits(self, logits: Tensor) -> None:
        """From now on each sample ends with its logits, float32 [I * f * f, C]."""
        self.logits = logits
        self._expose()

    def _expose(self) -> None:
        """Make `buffer` an Avalanche dataset of the samples in the rows."""
        samples = _Samples(self.rows, self.label, self._preprocess, self.formation)
        count = len(samples)
        attributes = [DataAttribute([self.label] * count, "targets")]
        if self.task is not None:
            attributes.append(
                DataAttribute([self.task] * count, "targets_task_labels", use_in_getitem=True)
            )
        if self.logits is not None:
            attributes.append(DataAttribute(list(self.logits), "logits", use_in_getitem=True))
        self.buffer = make_avalanche_dataset(
            samples, data_attributes=attributes, transform_groups=self._transforms
        )


class CondensedBuffer(BalancedExemplarsBuffer[ClassMemory]):
    """A class-balanced memory of condensed images, with one group for each class seen.

    Parameters
    ----------
    source: a `CondensedSet` of all classes of the stream, or the path of one; or an `Online`, which
        condenses the classes of each experience when it comes.
    max_size: images in total, at least one per class. None stands for the size of the set.
    max_bytes: the same in bytes of images, instead of `max_size`.
    storage: `uint8`, or `float32`, which keeps every bit of the images in four times the bytes.
    augment: applied to preprocessed images, in training only.

    If the labels of a set are soft, its images are replayed under the class of their largest entry.
    A class that comes again in a later experience keeps the memory that it has.

    Raises `UserError` here, or when an experience comes, for: a budget below one image per class, a
    class that the set lacks, classes in another order, and streams of another shape or type.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> buffer = CondensedBuffer(memory, max_bytes=2000)  # 8 x 8 pixels an image
    >>> buffer.max_size, buffer.sizes["images"]  # nothing is held before its experience
    (31, 0)
    """

    def __init__(
        self,
        source: CondensedSet | str | Path | Online,
        max_size: int | None = None,
        *,
        max_bytes: int | None = None,
        storage: str = "uint8",
        augment: Augment | None = None,
    ) -> None:
        if storage not in BYTES:
            raise unknown("storage of a memory", storage, BYTES)
        self.source = CondensedSet.load(source) if isinstance(source, str | Path) else source
        self.storage = storage
        super().__init__(self._budget(max_size, max_bytes))
        self._transforms = TransformGroups({"train": augment})
        self._transforms["eval"] = None  # else it would be that of training
        if isinstance(self.source, CondensedSet):
            self._check_size(self.max_size, int((self.source.counts() > 0).sum()))

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """The old name of `post_adapt`, which Avalanche's own plugins still call."""
        self.post_adapt(strategy, strategy.experience)

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Add the new classes of an experience; the other classes shrink to make room."""
        originals = _original_classes(exp)
        new = {label: c for label, c in originals.items() if label not in self.buffer_groups}
        if not new:
            return
        _check_stream(exp, self.source.shape)
        task = _task_of(exp.dataset)
        self._check_size(self.max_size, len(self.buffer_groups) + len(new))
        images_of, formation = self._images(exp, new)
        for label, images in images_of.items():
            order = herd(images.flatten(1), len(images))
            rows = self.source.preprocess.quantise(images) if self.storage == "uint8" else images
            self.buffer_groups[label] = self._memory(rows[order], label, task, formation=formation)
        self.resize(agent, self.max_size)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Shrink to `new_size` images, each class to its share and to its best images."""
        self._check_size(new_size, len(self.buffer_groups))
        super().resize(strategy, new_size)

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers of images, of bytes as stored, and of bytes as `uint8` and as `float32`."""
        values = sum(group.rows.numel() for group in self.buffer_groups.values())
        images = sum(len(group.rows) for group in self.buffer_groups.values())
        each = {name: values * size for name, size in BYTES.items()}
        return {"images": images, "bytes": each[self.storage], **each}

    def state_dict(self) -> dict[str, Any]:
        """The content of the memory, as tensors and numbers."""
        kept = ("rows", "task", "formation", "logits")
        groups = {
            label: {name: getattr(group, name) for name in kept}
            for label, group in self.buffer_groups.items()
        }
        return {"max_size": self.max_size, "storage": self.storage, "groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the content of another buffer with the same source and storage.

        Raises `UserError` for another storage.
        """
        if state["storage"] != self.storage:
            raise UserError(
                f"the state was stored as {state['storage']}, this memory stores {self.storage}: "
                "use the same"
            )
        self.max_size = state["max_size"]
        self.buffer_groups = {
            label: self._memory(label=label, **group) for label, group in state["groups"].items()
        }

    def _memory(self, rows: Tensor, label: int, task: int | None, **rest: Any) -> ClassMemory:
        return ClassMemory(rows, label, task, self.source.preprocess, self._transforms, **rest)

    def _budget(self, max_size: int | None, max_bytes: int | None) -> int:
        """The number of images that the user allows."""
        if max_size is not None and max_bytes is not None:
            raise UserError("a memory has `max_size` (images) or `max_bytes`: give one of them")
        if max_bytes is not None:
            return max_bytes // (torch.Size(self.source.shape).numel() * BYTES[self.storage])
        if max_size is not None:
            return max_size
        if isinstance(self.source, Online):
            raise UserError(
                "an online memory needs a budget: give `max_size` (images in all) or `max_bytes`"
            )
        return len(self.source)

    def _check_size(self, images: int, classes: int) -> None:
        if images < classes:
            raise UserError(
                f"a memory of {images} images is less than one for each of {classes} classes: "
                "raise its budget"
            )

    def _images(self, exp: Any, new: dict[int, int]) -> tuple[dict[int, Tensor], int]:
        """The images of new classes, float32 [I, ch, H, W], by label, and their formation.

        `new` has the original class of each label.
        """
        if isinstance(self.source, CondensedSet):
            return {label: self._stored(c, exp) for label, c in new.items()}, self.source.formation
        condensed = self.source.condense(_training_images(exp.dataset, new, self.source))
        images = {label: condensed.per_class(index) for index, label in enumerate(new)}
        return images, condensed.formation

    def _stored(self, c: int, exp: Any) -> Tensor:
        """The set's images of class `c`."""
        assert isinstance(self.source, CondensedSet)
        names = getattr(getattr(exp, "benchmark", None), "class_names", None)
        if names is not None and tuple(names) != self.source.classes:
            raise UserError(
                "the set's classes are not those of the stream, or in another order: "
                "condense the stream's dataset"
            )
        images = self.source.per_class(c)
        if len(images) == 0:
            raise UserError(
                f"the set has no images of class {c}, which experience {exp.current_experience} "
                "brings: use its own set"
            )
        return images


class CondensedBufferWithLogits(CondensedBuffer):
    """A memory for DER and DER++: each sample carries logits.

    They are the model's at the end of the experience that the sample came with.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> CondensedBufferWithLogits(memory).max_size
    40
    """

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Add the new classes, with their logits under `agent.model`."""
        old = set(self.buffer_groups)
        super().post_adapt(agent, exp)
        for label in self.buffer_groups.keys() - old:
            self.buffer_groups[label].keep_logits(_logits(agent, self.buffer_groups[label].buffer))


class _Samples(Dataset):
    """The samples in the rows of one class: (float32 image, label), preprocessed and decoded."""

    def __init__(self, rows: Tensor, label: int, preprocess: Preprocess, formation: int) -> None:
        self._rows, self._label = rows, label
        self._preprocess, self._formation = preprocess, formation

    def __len__(self) -> int:
        return len(self._rows) * self._formation**2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row, part = divmod(index, self._formation**2)
        image = self._rows[row][None]
        image = self._preprocess.apply(image) if image.dtype == torch.uint8 else image
        return decode(image, self._formation)[part], self._label


@torch.no_grad()
def _logits(agent: Any, rows: AvalancheDataset) -> Tensor:
    """The agent's logits of `rows` in evaluation mode, float32 [I, C], on the CPU."""
    training = agent.model.training
    agent.model.eval()
    logits = [
        agent.model(batch[0].to(agent.device)).cpu()
        for batch in DataLoader(rows.eval(), batch_size=agent.eval_mb_size)
    ]
    agent.model.train(training)
    return torch.cat(logits)


def _original_classes(exp: Any) -> dict[int, int]:
    """The original class of each label in an experience.

    A stream may number its classes in the order in which they come.
    """
    labels = sorted(int(label) for label in exp.dataset.targets.uniques)
    mapping = getattr(getattr(exp, "benchmark", None), "class_mapping", None)
    if mapping is None:
        return {label: label for label in labels}
    originals = {
        label: [c for c, mapped in enumerate(mapping) if mapped == label] for label in labels
    }
    if any(len(classes) > 1 for classes in originals.values()):
        raise UserError(
            "the stream gives several classes the same label: "
            "use one without `class_ids_from_zero_in_each_exp`"
        )
    return {label: classes[0] for label, classes in originals.items()}


def _task_of(dataset: Any) -> int | None:
    """The task label that samples carry; None if they are (image, label) pairs."""
    if not hasattr(dataset, "targets_task_labels"):
        return None
    return min(int(task) for task in dataset.targets_task_labels.uniques)


def _check_stream(exp: Any, shape: tuple[int, int, int]) -> None:
    """Raise `UserError` unless the stream's samples can be stacked with ours."""
    image = exp.dataset.eval()[0][0]
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or tuple(image.shape) != shape:
        tensor = isinstance(image, Tensor)
        kind = f"{image.dtype} {tuple(image.shape)}" if tensor else type(image).__name__
        raise UserError(
            f"the stream's images are {kind}, the memory's float32 {shape}: "
            "they must be the same to be replayed"
        )


def _training_images(dataset: Any, new: dict[int, int], source: Online) -> Images:
    """The pixels of an experience's images of some classes, without augmentation.

    Class i of the result is the i-th of `new`.
    """
    index_of = {label: index for index, label in enumerate(new)}
    kept = [i for i, label in enumerate(dataset.targets) if int(label) in index_of]
    rows = dataset.subset(kept).eval()
    images = torch.cat([batch[0] for batch in DataLoader(rows, batch_size=256)])
    restored = source.preprocess.unapply(images)
    if restored.min() < -_RANGE or restored.max() > 1 + _RANGE:
        raise UserError(
            "the stream's images are not under the preprocessing of the online source: "
            "give it the stream's"
        )
    labels = torch.tensor([index_of[int(dataset.targets[i])] for i in kept])
    return Images(source.preprocess.quantise(images), labels, tuple(str(c) for c in new.values()))
