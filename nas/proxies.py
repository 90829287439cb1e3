"""The proxies of a search by name: condensed sets, random real images, the whole training set.

PATH                            a condensed set: a run folder or a file
random, random:IPC              random real images
early-stop, early-stop:STEPS    all real images, with training stopped early
whole, whole:IMAGES             all real images, or so many of them

`random` and `early-stop` without a number take their size from the first condensed set that is
named, so that all of them cost the same: as many images per class, or as many steps. If no
condensed set is named, this size is 50 images per class.
"""

import hashlib
import math
import re
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
"""The kinds of proxies of real images."""
_IPC = 50

FREE = "free"
"""Stands in place of the name of a proxy for the baselines of an untrained network (`nas.free`)."""


@dataclass(frozen=True, eq=False)
class Proxy:
    """Images that candidates are trained on, and their transform.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess, train = make_preprocess("standard", digits), digits.train
    >>> proxy = Proxy("whole", train.pixels, train.labels, preprocess, train.fingerprint)
    >>> proxy.prepare()(proxy.images[:5]).dtype
    torch.float32
    """

    name: str
    images: Tensor
    """float32 [N, ch, H, W], already preprocessed, or uint8 pixels that still have to be."""
    labels: Tensor
    """int64 [N], or float32 [N, C] for soft labels."""
    preprocess: Preprocess
    """The transform of the images, and of the held-out images too."""
    fingerprint: str
    """Identifies the content of the images, the labels and the transform."""
    steps: int | None = None
    """Steps after which training is stopped; None trains for all epochs of the regime."""

    def __len__(self) -> int:
        return len(self.images)

    def prepare(self) -> Callable[[Tensor], Tensor] | None:
        """The function that preprocesses a batch of `images`; None if they already are."""
        return self.preprocess.apply if self.images.dtype == torch.uint8 else None

    def protocol(self, protocol: Protocol) -> Protocol:
        """The protocol of the regime, with as many epochs as the steps of early stopping need."""
        if self.steps is None:
            return protocol
        epochs = math.ceil(self.steps / math.ceil(len(self) / protocol.batch))
        return replace(protocol, epochs=epochs, steps=self.steps)

    def to(self, device: torch.device) -> Self:
        """The same proxy on another device."""
        return replace(
            self,
            **{name: getattr(self, name).to(device) for name in ("images", "labels", "preprocess")},
        )


def make_proxies(
    names: Sequence[str], whole: Dataset, rest: Dataset, preprocess: Preprocess, protocol: Protocol
) -> dict[str, Proxy]:
    """The proxies called `names`, by the names that they have in results.

    Parameters
    ----------
    names: see the head of this module.
    whole: the dataset. A condensed set must have been made from it, or from `rest`.
    rest: the same dataset without the images that are held out to score by. Proxies of real images
        are drawn from these alone.
    preprocess: the transform of all proxies but condensed sets, which have their own.
    protocol: the protocol of the search, from which early stopping computes its steps.

    Raises `UserError` for an unknown name, for two proxies of one name, for a condensed set of
    another dataset, and if no proxy is named.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> rest, preprocess = digits.hold_out(500, seed=0), make_preprocess("standard", digits)
    >>> proxies = make_proxies(["random:2", "whole:30"], digits, rest, preprocess, Protocol())
    >>> {name: len(proxy) for name, proxy in proxies.items()}
    {'random:2': 20, 'whole:30': 30}
    """
    condensed = {name: _load(name, whole, rest) for name in names if not _is_kind(name)}
    first = next(iter(condensed.values()), None)
    ipc, parts = (first.ipc, first.formation**2) if first else (_IPC, 1)
    proxies: dict[str, Proxy] = {}
    for name in names:
        shown = name if _is_kind(name) else _shown(name)
        if shown in proxies or shown == FREE:
            raise UserError(
                f"two proxies are called `{shown}`: name each proxy once, "
                "and rename a folder if two have the same name"
            )
        if name in condensed:
            decoded = condensed[name].decoded()
            proxies[shown] = Proxy(
                shown, decoded.images, decoded.labels, decoded.preprocess, decoded.fingerprint
            )
        else:
            proxies[shown] = _real(name, rest, preprocess, protocol, ipc, parts)
    if not proxies:
        raise UserError(f"no proxy to train on: name a condensed set, or one of {', '.join(KINDS)}")
    return proxies


def seen_held_out(names: Sequence[str], rest: Dataset) -> tuple[str, ...]:
    """The condensed sets among `names` that were made from images that are now held out.

    `rest` is the dataset without the held-out images. A set that does not record its dataset is not
    listed.

    >>> from condense import load_dataset
    >>> seen_held_out(["random", "whole:100"], load_dataset("digits"))
    ()
    """
    sets = [name for name in names if not _is_kind(name)]
    origins = [(name, CondensedSet.load(name).provenance.get("dataset")) for name in sets]
    return tuple(
        _shown(name)
        for name, origin in origins
        if isinstance(origin, dict) and origin["fingerprint"] != rest.fingerprint
    )


def _is_kind(name: str) -> bool:
    return name.split(":")[0] in KINDS


def _shown(path: str) -> str:
    """The name of a condensed set in results: that of its run folder, or of its own file."""
    resolved = Path(path).resolve()
    if resolved.name == "set.safetensors":
        return resolved.parent.name
    return resolved.stem if resolved.is_file() else resolved.name


def _load(name: str, whole: Dataset, rest: Dataset) -> CondensedSet:
    """The condensed set at the path `name`, after checking that it belongs to the dataset."""
    if not Path(name).exists():
        raise UserError(
            f"unknown proxy `{name}`: no such file or folder, and none of {', '.join(KINDS)}"
        )
    condensed = CondensedSet.load(name)
    for what, theirs, ours in (
        ("images of shape", condensed.shape, whole.shape),
        ("classes", len(condensed.classes), len(whole.classes)),
    ):
        if theirs != ours:
            raise UserError(
                f"proxy {name} has {what} {theirs}, {whole.name} has {ours}: "
                f"name a proxy made from {whole.name}"
            )
    if condensed.classes != whole.classes:
        raise UserError(
            f"proxy {name} has other classes than {whole.name}: name a proxy made from {whole.name}"
        )
    origin = condensed.provenance.get("dataset")
    if isinstance(origin, dict) and origin["fingerprint"] not in (
        whole.fingerprint,
        rest.fingerprint,
    ):
        raise UserError(
            f"proxy {name} was made from {origin['name']} with content {origin['fingerprint']}, "
            f"and {whole.name} here has content {whole.fingerprint} ({rest.fingerprint} without "
            "the held-out images): search with the dataset that it was made from"
        )
    return condensed


def _real(
    name: str, rest: Dataset, preprocess: Preprocess, protocol: Protocol, ipc: int, parts: int
) -> Proxy:
    """A proxy of real images, by default as large as a condensed set with `ipc` images per class.

    `random` then has as many images as the set. `early-stop` has as many steps as training on the
    set takes, where each of its images is decoded to `parts` images.
    """
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
    text = f"{images.fingerprint} {preprocess.fingerprint}"
    identity = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Proxy(name, images.pixels, images.labels, preprocess, identity, steps)


def _number(name: str) -> int | None:
    kind, colon, number = name.partition(":")
    if colon and not re.fullmatch(r"0*[1-9][0-9]{0,8}", number):
        raise UserError(f"proxy `{name}`: what follows `{kind}:` must be a number, 1 or more")
    return int(number) if colon else None
