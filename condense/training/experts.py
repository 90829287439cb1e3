"""Expert trajectories: the weights of networks during training on the real images, used by `mtt`.

A folder holds experts.json, which says on what and how the experts were trained, and one
safetensors file for each expert: its weights before the first pass and after every pass,
[passes + 1, P]. Training can be resumed, and experts added, at any time.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condense.data.augment import suited
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.device import pick_device
from condense.errors import UserError, unknown
from condense.files import load_tensors, save_tensors
from condense.networks import build as networks
from condense.networks.accelerate import accelerate
from condense.progress import Progress, progress
from condense.randomness import derive
from condense.settings import above, at_least, plain, read, require
from condense.study.record import differences, locked, read_record, write_record
from condense.training.passes import Passes
from condense.training.protocol import Protocol
from condense.training.train import train

_RECORD = "experts.json"
_STORAGES = {"float16": torch.float16, "float32": torch.float32}
_KEPT_BYTES = 4 * 2**30
"""The most memory for experts that were read. 100 of the default training take 3.3 GB on CIFAR."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How experts are trained: plain SGD with augmentation.

    This follows section 4 of Cazenavette et al. (2022) and their code. Raises `UserError` for a
    value out of range.

    >>> Training(network="convnet-d2-w8", passes=2).lr
    0.01
    """

    network: str = "convnet"
    """The network, by name."""
    preprocess: str = "zca"
    """The transform of the real images, `standard` or `zca`: that of the set to be condensed."""
    passes: int = 50
    """Passes over the real images."""
    lr: float = 0.01
    """The learning rate. Without momentum and decay, the weights determine how to continue."""
    batch: int = 256
    """Images per step."""
    augment: str = "dsa"
    """The augmentation of each batch."""
    seed: int = 0
    """Together with the number of an expert, it determines weights, order and augmentation."""
    storage: str = "float16"
    """`float32`, or `float16`: half the space, weights rounded to one part in 2,000."""

    def __post_init__(self) -> None:
        at_least(1, self, "passes", "batch")
        above(0, self, "lr")
        if self.storage not in _STORAGES:
            raise unknown("storage", self.storage, _STORAGES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What experts were trained on, and how: the content of experts.json.

    >>> Record(dataset="digits", fingerprint="3f2a", training=Training(passes=2)).training.passes
    2
    """

    dataset: str
    """The name of the dataset."""
    fingerprint: str
    """The fingerprint of its content."""
    training: Training
    """How they were trained."""

    @classmethod
    def load(cls, folder: Path) -> "Record":
        """The record in a folder; a `UserError` names the field that is not as it should be."""
        place = f"{folder / _RECORD} is not of this version of condensekit, choose another folder"
        return read(cls, read_record(folder / _RECORD), place)


def protocol(training: Training) -> Protocol:
    """How a network is trained to be an expert.

    >>> protocol(Training(passes=2)).momentum
    0.0
    """
    return Protocol(
        epochs=training.passes,
        batch=training.batch,
        lr=training.lr,
        momentum=0.0,
        weight_decay=0.0,
        augment=training.augment,
        schedule="constant",
    )


def train_experts(
    dataset: Dataset,
    training: Training,
    count: int,
    out: str | Path,
    *,
    device: str = "auto",
    quiet: bool = False,
) -> "Experts":
    """Train `count` experts on `dataset` and store them in the folder `out`.

    Experts that the folder already holds are kept. Raises `UserError` for invalid input, and for a
    folder that holds experts of another dataset or training.

    >>> from condense import load_dataset
    >>> training = Training(network="convnet-d2-w8", preprocess="standard", passes=1)
    >>> experts = train_experts(load_dataset("digits"), training, 2, "experts", quiet=True)
    >>> experts.count
    2
    """
    require("count", count, count >= 1, "1 or more")
    training = dataclasses.replace(
        training,
        network=networks.canonical(training.network, dataset.shape),
        augment=suited(training.augment, dataset.name),
    )
    folder, place = Path(out), pick_device(device)
    network = networks.build(training.network, dataset.shape, len(dataset.classes)).to(place)
    record = Record(dataset=dataset.called, fingerprint=dataset.fingerprint, training=training)
    with locked(folder):
        if (folder / _RECORD).exists():
            _check_same(Record.load(folder), record, folder)
        preprocess = make_preprocess(training.preprocess, dataset).to(place)
        write_record(folder / _RECORD, plain(record))
        images, labels = dataset.train.pixels.to(place), dataset.train.labels
        pixels = 3.0 * count * training.passes * images[:, 0].numel()
        fast = accelerate(network, pixels, place)
        sgd = protocol(training)
        with progress("experts", count * training.passes, quiet=quiet) as report:
            for number in range(count):
                if _path(folder, number).exists():
                    _kept(folder, number, record)
                    continue
                networks.initialise(network, derive(training.seed, "expert"), number)
                path = Passes(network, len(labels), _STORAGES[training.storage])
                watch = _telling(path, report, number, training.passes)
                seed = derive(training.seed, "expert training", number)
                train(fast, images, labels, sgd, seed, prepare=preprocess.apply, watch=watch)
                header = {"expert": number, **_facts(record)}
                save_tensors(_path(folder, number), {"weights": path.weights()}, header)
    return Experts(folder)


def _telling(
    path: Passes, report: Progress, number: int, passes: int
) -> Callable[[Tensor, Tensor], None]:
    """`path` as the `watch` of expert number `number`, which also reports the passes so far."""

    def watch(chosen: Tensor, logits: Tensor) -> None:
        path(chosen, logits)
        report(number * passes + path.done, f"expert {number + 1}")

    return watch


class Experts:
    """The experts in a folder.

    Raises `UserError` if the folder holds none.

    >>> Experts("empty")
    Traceback (most recent call last):
    condense.errors.UserError: empty holds no experts: ...
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.count = 0
        while _path(self.folder, self.count).exists():
            self.count += 1
        if not (self.count and (self.folder / _RECORD).exists()):
            raise UserError(
                f"{self.folder} holds no experts: "
                f"train some with `condensekit experts --out {self.folder}`"
            )
        self.record = Record.load(self.folder)
        self.passes = self.record.training.passes

    def check_fit(self, dataset: Dataset, network: str, preprocess: str) -> None:
        """Raise `UserError` unless dataset, network and preprocessing are those of the experts."""
        training, content = self.record.training, f"{self.record.dataset} {self.record.fingerprint}"
        for what, theirs, ours in (
            ("dataset", content, f"{dataset.name} {dataset.fingerprint}"),
            ("network", training.network, networks.canonical(network, dataset.shape)),
            ("preprocess", training.preprocess, preprocess),
        ):
            if theirs != ours:
                raise UserError(
                    f"the experts in {self.folder} have {what} {theirs}, the run has {ours}: "
                    "both must be the same"
                )

    def weights(self, number: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The weights of an expert after `first` and `last` passes: float32 [P], on the CPU."""
        path = self._read(number)
        return path[first].float(), path[last].float()

    @cached_property
    def _read(self) -> Callable[[int], Tensor]:
        """Reads all weights of an expert, [passes + 1, P], and keeps as many experts as it may."""

        def read(number: int) -> Tensor:
            return _kept(self.folder, number, self.record)

        size = _path(self.folder, 0).stat().st_size
        return lru_cache(maxsize=max(1, _KEPT_BYTES // size))(read)


def _path(folder: Path, number: int) -> Path:
    return folder / f"expert-{number:04d}.safetensors"


def _kept(folder: Path, number: int, record: Record) -> Tensor:
    """The weights in the file of an expert. Raises a `UserError` unless they are of this `record`.

    Files of older versions do not say of what they are: only their number and passes are compared.
    """
    path = _path(folder, number)
    tensors, header = load_tensors(path)
    weights = tensors.get("weights")
    passes = -1 if weights is None or weights.ndim != 2 else len(weights) - 1
    here = {"expert": number, **_facts(record)}
    if "fingerprint" not in header:
        header = {**here, "expert": header.get("expert")}
    if changed := differences(here, {**header, "passes": passes}):
        raise UserError(
            f"{path} is no expert of this folder ({changed}): remove it, or put back the right one"
        )
    assert weights is not None
    return weights


def _facts(record: Record) -> dict[str, Any]:
    """What a record says, to be compared with another."""
    training = plain(record.training)
    return {"dataset": record.dataset, "fingerprint": record.fingerprint, **training}


def _check_same(theirs: Record, ours: Record, folder: Path) -> None:
    """Raise a `UserError` unless two records are of the same dataset and training."""
    if changed := differences(_facts(ours), _facts(theirs)):
        raise UserError(
            f"{folder} holds experts of another training ({changed}): choose another --out"
        )
