"""`CondensedBuffer`: a replay memory of condensed images, usable as any Avalanche storage policy.

It never holds a class before its experience. Its rows are the stored images: uint8 pixels, or
float32 images. When a row is read, it is preprocessed and decoded, so that a replayed image has
gone through the same transform as the images of the stream, once. See docs/memories.md for what
the stream must look like, and for the traps of Avalanche 0.6.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from avalanche.benchmarks.utils import TransformGroups
from avalanche.models.utils import avalanche_forward
from avalanche.training.storage_policy import BalancedExemplarsBuffer
from torch import Tensor
from torch.utils.data import DataLoader

from condense.errors import UserError, unknown
from condense.sets.condensed import CondensedSet
from condense.words import counted
from continual import fit
from continual.kept import KeptSet
from continual.memories import Online
from continual.parts import OnlineParts, SetParts, task_of
from continual.plan import BYTES, FILLS
from continual.rows import ClassMemory, Part
from continual.stream import Augment


class CondensedBuffer(BalancedExemplarsBuffer[ClassMemory]):
    """A class-balanced memory of condensed images, with one group for each class seen.

    Parameters
    ----------
    source: a `CondensedSet` of all classes of the stream, or the path of one; or an `Online`, which
        condenses the classes of each experience when it has ended.
    max_size: images in total, at least one per class. None stands for the size of the set.
    max_bytes: the same in bytes of images, instead of `max_size`.
    storage: `uint8`, or `float32`, which keeps every bit of the images in four times the bytes.
    augment: applied to preprocessed images, in training only.
    class_mapping: the label of each class of the set, where the stream numbers classes anew and
        has lost its own `class_mapping`.
    order: the same as the class of each label. Give one of the two.
    fill: real images of the stream in the places that condensed ones leave free: while few classes
        are seen, while an online experience has not ended, and where the budget is larger than the
        set. They are the first to make room. `real` draws them by PyTorch's global generator, as
        Avalanche's memories do. `hard` takes those with the largest loss under the strategy's model
        when they come.
    adaptive_size, total_num_classes: as in Avalanche's `ClassBalancedBuffer`. By default, the
        classes seen share the memory; otherwise each has the share of `total_num_classes`.

    What the stream says and shows is compared with the set. If the labels of a set are soft, its
    images are replayed under the class of their largest entry, with a warning. A class that comes
    again adds nothing to the images of a set; an `Online` condenses its new images, and all parts
    of a class share its place. `update_from_dataset` takes a dataset instead of an experience.

    Raises `UserError` here, or when an experience comes, for: a budget below one image per class, a
    class that the set lacks, classes in another order, labels whose class cannot be known, and
    streams of another shape, type, transform or dataset.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> buffer = CondensedBuffer(memory, max_bytes=2000)  # 8 x 8 pixels an image
    >>> buffer  # nothing is held before its experience
    CondensedBuffer: 0 of 31 images, of 0 classes
    """

    max_size: int
    buffer_groups: dict[int, ClassMemory]

    def __init__(
        self,
        source: CondensedSet | str | Path | Online,
        max_size: int | None = None,
        *,
        max_bytes: int | None = None,
        storage: str = "uint8",
        augment: Augment | None = None,
        class_mapping: Sequence[int] | None = None,
        order: Sequence[int] | None = None,
        fill: str | None = None,
        adaptive_size: bool = True,
        total_num_classes: int | None = None,
    ) -> None:
        if storage not in BYTES:
            raise unknown("storage of a memory", storage, BYTES)
        if adaptive_size == (total_num_classes is not None):
            raise UserError("`total_num_classes` is for `adaptive_size=False`: give both or none")
        if fill is not None and fill not in FILLS:
            raise unknown("filling of a memory", str(fill), FILLS)
        self.storage, self.fill = storage, fill
        self.parts: SetParts | OnlineParts
        if isinstance(source, Online):
            self.parts = OnlineParts(source, storage)
        else:
            mapping = _mapping(class_mapping, order)
            self.parts = SetParts(KeptSet(source), storage=storage, mapping=mapping)
        super().__init__(self._budget(max_size, max_bytes), adaptive_size, total_num_classes)
        self._transforms = TransformGroups({"train": augment})
        self._transforms["eval"] = None  # else it would be that of training
        if isinstance(self.parts, SetParts):
            self._check_size(self.max_size, int((self.parts.source.counts() > 0).sum()))

    def __repr__(self) -> str:
        images = f"{self.sizes['images']} of {counted(self.max_size, 'image')}"
        seen = counted(len(self.seen_classes), "class", "classes")
        return f"{type(self).__name__}: {images}, of {seen}"

    @property
    def source(self) -> CondensedSet | Online:
        """What the images are taken from."""
        return self.parts.source

    @property
    def seen_classes(self) -> set[int]:
        """The labels that the memory has images of."""
        return set(self.buffer_groups)

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """The old name of `post_adapt`, which Avalanche's own plugins still call."""
        self.post_adapt(strategy, strategy.experience)

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Add the new classes of an experience; the other classes shrink to make room."""
        self._add(agent, exp.dataset, exp)

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Add the new classes of an Avalanche dataset; the other classes shrink to make room."""
        if len(new_data):
            self._add(strategy, new_data, None)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Have room for `new_size` images from now on: each class its share, the best images.

        A class that has less than its share takes what the set has more. What was condensed online
        and dropped does not come back.
        """
        self._check_size(new_size, len(self.buffer_groups))
        self.max_size = new_size
        shares = self.get_group_lengths(len(self.buffer_groups))
        for share, group in zip(shares, self.buffer_groups.values(), strict=True):
            self._grow(group, share)
            group.resize(strategy, share)

    @property
    def sizes(self) -> dict[str, int]:
        """The numbers of images, of bytes as stored, and of bytes as `uint8` and as `float32`."""
        groups = self.buffer_groups.values()
        values = sum(part.rows.numel() for group in groups for part in group.parts)
        images = sum(len(part.rows) for group in groups for part in group.parts)
        each = {name: values * size for name, size in BYTES.items()}
        return {"images": images, "bytes": each[self.storage], **each}

    def state_dict(self) -> dict[str, Any]:
        """The content of the memory, as tensors and numbers."""
        fields = [field.name for field in dataclasses.fields(Part)]
        groups = {
            label: [{name: getattr(part, name) for name in fields} for part in group.parts]
            for label, group in self.buffer_groups.items()
        }
        facts = {"max_size": self.max_size, "storage": self.storage}
        return {**facts, "source": self.parts.fingerprint, "groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the content of another buffer with the same source and storage.

        Raises `UserError` for another storage or source.
        """
        for what, mine, theirs in (
            ("stored as", self.storage, state["storage"]),
            ("made of source", self.parts.fingerprint, state.get("source")),
        ):
            if mine != theirs:
                raise UserError(
                    f"the state was {what} {theirs}, and this memory's is {mine}: use the same"
                )
        self.max_size = state["max_size"]
        self.buffer_groups = {
            label: self._group(label, [Part(**part) for part in parts])
            for label, parts in state["groups"].items()
        }

    def _add(self, agent: Any, dataset: Any, exp: Any) -> None:
        """Add what is new in a dataset, which is that of `exp` if there is one."""
        labels = {int(label) for label in dataset.targets.uniques}
        self._check_size(self.max_size, len(self.buffer_groups.keys() | labels))
        new = self.parts.new(dataset, exp, self._has)
        for label, part in new.items():
            self._extend(label, part)
        if self.fill:
            self._fill(agent, dataset, sorted(labels))
        if new or self.fill:
            self.resize(agent, self.max_size)

    def _extend(self, label: int, part: Part) -> None:
        """Add a part to a label, in place of the one with the same key."""
        if label in self.buffer_groups:
            group = self.buffer_groups[label]
            group.replace([*(one for one in group.parts if one.key != part.key), part])
        else:
            self.buffer_groups[label] = self._group(label, [part])

    def _fill(self, agent: Any, dataset: Any, labels: list[int]) -> None:
        """Take real images of some labels for the places that condensed ones leave free.

        Every image has a weight, and those with the largest weights stay. With random weights this
        is reservoir sampling for each label.
        """
        order = [*self.buffer_groups, *(one for one in labels if one not in self.buffer_groups)]
        shares = dict(zip(order, self.get_group_lengths(len(order)), strict=True))
        for label, rows in fit.rows_of(dataset, labels).items():
            group = self.buffer_groups.get(label)
            parts = group.parts if group else []
            room = shares[label] - sum(len(part.rows) for part in parts if part.weights is None)
            if room > 0:
                task = task_of(dataset, rows[0])
                old = next((part for part in parts if part.key == f"real {task}"), None)
                weights = self._losses(agent, dataset, rows) if self.fill == "hard" else None
                self._extend(label, self._taken(dataset, rows, weights, old, room, task))

    def _losses(self, agent: Any, dataset: Any, rows: list[int]) -> Tensor:
        """How hard some real images are for the agent's model as it is, float32 [I]."""
        if agent is None:
            raise UserError("a loss is that of a model: give `update_from_dataset` the strategy")
        samples = dataset.eval().subset(rows)
        logits = _logits_of(agent, samples)
        labels = torch.tensor([int(sample[1]) for sample in samples])
        # A unit that the model does not have yet knows nothing: the loss is infinite.
        missing = max(0, int(labels.max()) + 1 - logits.shape[1])
        return F.cross_entropy(_widened(logits, missing, -torch.inf), labels, reduction="none")

    def _taken(
        self,
        dataset: Any,
        rows: list[int],
        weights: Tensor | None,
        old: Part | None,
        room: int,
        task: int | None,
    ) -> Part:
        """At most `room` images, of the rows of a dataset and of those taken before."""
        weights, kept = torch.rand(len(rows)) if weights is None else weights, torch.empty(0)
        if old is not None and old.weights is not None:
            weights, kept = torch.cat([weights, old.weights]), old.rows
        weights, chosen = (one[:room] for one in weights.sort(descending=True))
        fresh = chosen < len(rows)
        read = self._stored(dataset, [rows[one] for one in chosen[fresh].tolist()])
        stored = torch.empty(len(chosen), *self.parts.shape, dtype=read.dtype)
        stored[fresh] = read
        if not fresh.all():
            stored[~fresh] = kept[chosen[~fresh] - len(rows)]
        return Part(rows=stored, key=f"real {task}", task=task, weights=weights)

    def _stored(self, dataset: Any, rows: list[int]) -> Tensor:
        """Real images as the memory stores them, [I, ch, H, W]."""
        if not rows:
            return torch.empty(0, *self.parts.shape, dtype=getattr(torch, self.storage))
        pixels = fit.pixels_of(dataset, rows, self.parts.preprocess)
        return pixels if self.storage == "uint8" else self.parts.preprocess.apply(pixels)

    def _has(self, label: int, key: str) -> bool:
        return label in self.buffer_groups and self.buffer_groups[label].has(key)

    def _group(self, label: int, parts: list[Part]) -> ClassMemory:
        return ClassMemory(label, parts, self.parts.preprocess, self._transforms)

    def _grow(self, group: ClassMemory, share: int) -> None:
        """Give a group all rows that the set has for it, if it could keep more than it has."""
        condensed = [part for part in group.parts if part.weights is None]
        if isinstance(self.parts, OnlineParts) or share <= sum(len(one.rows) for one in condensed):
            return
        counts = self.parts.counts
        if all(len(part.rows) == counts[int(part.key)] for part in condensed):
            return
        filling = [part for part in group.parts if part.weights is not None]
        whole = [self.parts.whole(int(part.key), part.task) for part in condensed]
        group.replace([*whole, *filling])

    def _budget(self, max_size: int | None, max_bytes: int | None) -> int:
        """The number of images that the user allows."""
        if max_size is not None and max_bytes is not None:
            raise UserError("a memory has `max_size` (images) or `max_bytes`: give one of them")
        if max_bytes is not None:
            return max_bytes // (torch.Size(self.parts.shape).numel() * BYTES[self.storage])
        if max_size is not None:
            return max_size
        if isinstance(self.source, Online):
            raise UserError(
                "an online memory needs a budget: give `max_size` (images in all) or `max_bytes`"
            )
        return len(self.source)

    def _check_size(self, images: int, classes: int) -> None:
        # The constructor of the base class has not always been called yet.
        classes = max(classes, getattr(self, "total_num_groups", None) or 0)
        if images < classes:
            raise UserError(
                f"a memory of {images} images is less than one for each of {classes} classes: "
                "raise its budget"
            )


class CondensedBufferWithLogits(CondensedBuffer):
    """A memory for DER and DER++: each sample carries logits.

    They are the model's at the end of the experience that the sample came with. Where the model has
    grown since, they are filled up with NaN, which `continual.CondensedDER` leaves out.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    >>> CondensedBufferWithLogits(memory).max_size
    40
    """

    def resize(self, strategy: Any, new_size: int) -> None:
        """As in `CondensedBuffer`; rows that have no logits get those under `strategy.model`."""
        super().resize(strategy, new_size)
        parts = [part for group in self.buffer_groups.values() for part in group.parts]
        logits = {
            id(part): part.logits if part.logits is not None else self._logits(strategy, part)
            for part in parts
        }
        width = max((one.shape[1] for one in logits.values()), default=0)
        for group in self.buffer_groups.values():
            own = [logits[id(part)] for part in group.parts]
            group.keep_logits([_widened(one, width - one.shape[1], torch.nan) for one in own])

    def _logits(self, agent: Any, part: Part) -> Tensor:
        if agent is None:
            raise UserError("logits are those of a model: give `update_from_dataset` the strategy")
        return _logits_of(agent, self._group(0, [dataclasses.replace(part, logits=None)]).buffer)


@torch.no_grad()
def _logits_of(agent: Any, rows: Any) -> Tensor:
    """The agent's logits of a dataset in evaluation mode, float32 [I, C], on the CPU."""
    training = agent.model.training
    agent.model.eval()
    logits = []
    for x, _, *tasks in DataLoader(rows.eval(), batch_size=agent.eval_mb_size):
        given = tasks[0].to(agent.device) if tasks else None
        logits.append(avalanche_forward(agent.model, x.to(agent.device), given).cpu())
    agent.model.train(training)
    return torch.cat(logits)


def _widened(logits: Tensor, units: int, value: float) -> Tensor:
    """Logits [I, C] with so many more units of one value."""
    return F.pad(logits, (0, units), value=value)


def _mapping(class_mapping: Sequence[int] | None, order: Sequence[int] | None) -> list[int] | None:
    """The label of each class, by one of the two ways of saying it."""
    if class_mapping is not None and order is not None:
        raise UserError("`class_mapping` and `order` say the same: give one of them")
    if order is None:
        return None if class_mapping is None else [int(label) for label in class_mapping]
    if len(set(order)) < len(order) or min(order) < 0:
        raise UserError("`order` must name the class of each label, each class once")
    mapping = [-1] * (max(order) + 1)
    for label, c in enumerate(order):
        mapping[c] = label
    return mapping
