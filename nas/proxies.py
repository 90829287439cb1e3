"""The proxies of a search by name: condensed sets, random real images, the whole set stopped early.

`random`, `random:IPC`, `early-stop`, `early-stop:STEPS`, `whole`, `whole:IMAGES`, or the path of a condensed set (a run folder or
a file). What has no number takes its size from the first condensed set named, so that all cost the same: as many images
per class, as many steps. Where none is named, that is 50 images per class.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.errors import UserError
from condense.methods.selection import select
from condense.sets.condensed import CondensedSet
from condense.training.train import Protocol

KINDS = ("random", "early-stop", "whole")
_IPC = 50


FREE = "free"
"""The task that computes `nas.baselines` of an untrained network, in place of the name of a proxy."""


@dataclass(frozen=True, eq=False)
class Proxy:
    """Images that candidates are trained on, and under which transform."""

    name: str
    images: Tensor
    """float32 [N, ch, H, W] as `preprocess` makes them, or uint8 pixels still to be preprocessed."""
    labels: Tensor
    """int64 [N], or float32 [N, C] for soft labels."""
    preprocess: Preprocess
    """The held-out images go through the same."""
    fingerprint: str
    steps: int | None = None
    """Steps after which training is stopped; None: after the regime's epochs."""

    def __len__(self) -> int:
        return len(self.images)

    def prepare(self) -> Callable[[Tensor], Tensor] | None:
        """What turns a batch of `images` into float32, if anything has to."""
        return self.preprocess.apply if self.images.dtype == torch.uint8 else None

    def protocol(self, protocol: Protocol) -> Protocol:
        """The regime's protocol for this proxy: with early stopping, as many passes as its steps need."""
        if self.steps is None:
            return protocol
        epochs = math.ceil(self.steps / math.ceil(len(self) / protocol.batch))
        return replace(protocol, epochs=epochs, steps=self.steps)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        return replace(
            self,
            **{name: getattr(self, name).to(device) for name in ("images", "labels", "preprocess")},
        )


def make_proxies(
    names: Sequence[str], whole: Dataset, rest: Dataset, preprocess: Preprocess, protocol: Protocol
) -> dict[str, Proxy]:
    """The proxies called `names`, by the names they are shown under.

    whole: the dataset; `rest`: its training images without those held out to score by, which no proxy draws on. A
    condensed set may have been made from either.
    preprocess: of all but the condensed sets, which bring their own.
    protocol: of the search; it gives early stopping its steps.
    """
    condensed = {name: _load(name, whole, rest) for name in names if not _is_kind(name)}
    first = next(iter(condensed.values()), None)
    ipc, parts = (first.ipc, first.formation**2) if first else (_IPC, 1)
    proxies: dict[str, Proxy] = {}
    for name in names:
        shown = name if _is_kind(name) else _shown(name)
        if shown in proxies or shown == FREE:
            raise UserError(
                f"two proxies are called `{shown}`: name each once, and rename one of two folders of one name"
            )
        if name in condensed:
            found = condensed[name].decoded()
            proxies[shown] = Proxy(
                shown, found.images, found.labels, found.preprocess, found.fingerprint
            )
        else:
            proxies[shown] = _real(name, rest, preprocess, protocol, ipc, parts)
    if not proxies:
        raise UserError(f"no proxy to train on: name a condensed set, or one of {', '.join(KINDS)}")
    return proxies


def seen_held_out(names: Sequence[str], rest: Dataset) -> tuple[str, ...]:
    """The condensed sets among `names` that were made from images now held out to score by, as far as they say."""
    found = [
        (name, CondensedSet.load(name).provenance.get("dataset"))
        for name in names
        if not _is_kind(name)
    ]
    return tuple(
        _shown(name)
        for name, origin in found
        if isinstance(origin, dict) and origin["fingerprint"] != rest.fingerprint
    )


def _is_kind(name: str) -> bool:
    return name.split(":")[0] in KINDS


def _shown(path: str) -> str:
    """The folder's name for a run's set, the file's own name for another file."""
    resolved = Path(path).resolve()
    return (
        resolved.parent.name
        if resolved.name == "set.safetensors"
        else resolved.stem
        if resolved.is_file()
        else resolved.name
    )


def _load(name: str, whole: Dataset, rest: Dataset) -> CondensedSet:
    """A condensed set, once it is known to belong to the dataset."""
    if not Path(name).exists():
        raise UserError(
            f"unknown proxy `{name}`: no such file or folder, and none of {', '.join(KINDS)}"
        )
    found = CondensedSet.load(name)
    for what, theirs, ours in (
        ("images of shape", found.shape, whole.shape),
        ("classes", len(found.classes), len(whole.classes)),
    ):
        if theirs != ours:
            raise UserError(
                f"proxy {name} has {what} {theirs}, {whole.name} has {ours}: name a proxy made from {whole.name}"
            )
    if found.classes != whole.classes:
        raise UserError(
            f"proxy {name} has other classes than {whole.name}: name a proxy made from {whole.name}"
        )
    origin = found.provenance.get("dataset")
    if isinstance(origin, dict) and origin["fingerprint"] not in (
        whole.fingerprint,
        rest.fingerprint,
    ):
        raise UserError(
            f"proxy {name} was made from {origin['name']} with content {origin['fingerprint']}, and {whole.name} here has "
            f"content {whole.fingerprint} ({rest.fingerprint} without the held-out images): search where it was made"
        )
    return found


def _real(
    name: str, rest: Dataset, preprocess: Preprocess, protocol: Protocol, ipc: int, parts: int
) -> Proxy:
    """A proxy of real images: as many as `ipc` images a class take room, or steps as training on `parts` times that takes."""
    kind, number = name.partition(":")[0], _number(name)
    classes = len(rest.classes)
    if kind == "random":
        chosen = select("random", rest, number or ipc, preprocess=preprocess, seed=0)
        return Proxy(name, chosen.images, chosen.labels, preprocess, chosen.fingerprint)
    images, steps = rest.train, None
    if kind == "early-stop":
        steps = number or protocol.epochs * math.ceil(ipc * parts * classes / protocol.batch)
    elif number and number < len(images):
        if number < classes:
            raise UserError(f"proxy `{name}`: {classes} classes need at least {classes} images")
        images = rest.hold_out(number, seed=1).test  # stratified
    identity = f"{images.fingerprint} {preprocess.fingerprint}"
    return Proxy(
        name,
        images.pixels,
        images.labels,
        preprocess,
        hashlib.blake2b(identity.encode(), digest_size=8).hexdigest(),
        steps,
    )


def _number(name: str) -> int | None:
    kind, colon, number = name.partition(":")
    if colon and not (number.isdecimal() and int(number)):
        raise UserError(f"proxy `{name}`: what follows `{kind}:` must be a number, 1 or more")
    return int(number) if colon else None
