"""The proxies of a search by name: condensed sets, random real images, the whole training set.

PATH                            a condensed set: a run folder or a file
random, random:IPC              random real images
early-stop, early-stop:STEPS    all real images, with training stopped early
whole, whole:IMAGES             all real images, or so many of them

`random` and `early-stop` without a number take their size from the first condensed set that is
named, so that all of them cost the same: as many images per class, or as many steps. If no
condensed set is named, this size is 10 images per class.

`@DRAW` after a name is another draw of the same: `random:10@3` has other images than `random:10`.
The draws of one name form an *arm*, and so do the proxies that are named `ARM=PROXY`, such as
`condensed=runs/a` and `condensed=runs/b`. The score on an arm is the mean over its proxies. The
proxies of an arm are trained on with different seeds, so that `early-stop` and `early-stop@1` are
two runs.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.errors import UserError
from condense.methods.selection import select
from condense.sets import published
from condense.sets.condensed import CondensedSet
from condense.training.protocol import Protocol

KINDS = ("random", "early-stop", "whole")
"""The kinds of proxies of real images."""
_IPC = 10

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
    arm: str = ""
    """The proxies that it is averaged with; empty where it stands alone."""

    def __len__(self) -> int:
        return len(self.images)

    def prepare(self) -> Callable[[Tensor], Tensor] | None:
        """The function that preprocesses a batch of `images`; None if they already are."""
        return self.preprocess.apply if self.images.dtype == torch.uint8 else None

    def protocol(self, protocol: Protocol) -> Protocol:
        """The protocol of the regime, with as many epochs as the steps need, if they are given.

        They are those of early stopping, or those of the regime, which hold for every proxy.
        """
        steps = self.steps or protocol.steps
        if steps is None:
            return protocol
        epochs = math.ceil(steps / math.ceil(len(self) / protocol.batch))
        return replace(protocol, epochs=epochs, steps=steps)

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
    named = parse(names)
    condensed = {one.name: _load(one.path, whole, rest) for one in named if one.path}
    first = next(iter(condensed.values()), None)
    ipc, parts = (first.ipc, first.formation**2) if first else (_IPC, 1)
    proxies: dict[str, Proxy] = {}
    for one in named:
        if one.name in condensed:
            decoded = condensed[one.name].decoded()
            parted = decoded.images, decoded.labels, decoded.preprocess, decoded.fingerprint
            proxy = Proxy(one.name, *parted)
        else:
            proxy = _real(one, rest, preprocess, protocol, ipc, parts)
        proxies[one.name] = replace(proxy, arm=one.arm)
    return proxies


@dataclass(frozen=True)
class Named:
    """What the name of a proxy says.

    >>> parse(["random:10@3"])[0].arm, parse(["ours=runs/a"])[0].path
    ('random:10', 'runs/a')
    """

    name: str
    """The name in results: the text of a proxy of real images, or the folder of a set."""
    arm: str
    """The name of its arm; that of the proxy itself if no other proxy belongs to it."""
    path: str = ""
    """The path of a condensed set."""
    kind: str = ""
    """One of `KINDS` for real images."""
    number: int | None = None
    """Images per class, images or steps."""
    draw: int = 0


def names_of(given: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """The names of one or several proxies, which may be paths.

    Raises `UserError` for anything else: a search that goes on reads its condensed sets again.

    >>> names_of(["random:10", Path("runs/a")])
    ('random:10', 'runs/a')
    """
    several = isinstance(given, Sequence) and not isinstance(given, str)
    names: Any = given if several else [given]
    for name in names:
        if not isinstance(name, str | Path):
            raise UserError(
                f"a proxy is given by its name or path, and this is a {type(name).__name__}: save "
                "a condensed set, and give its file"
            )
    return tuple(map(str, names))


def parse(names: Sequence[str]) -> list[Named]:
    """What each of the names of proxies says, in their order.

    Raises `UserError` for a bad number, for two proxies of one name, and if there is none.

    >>> one, other = parse(["random:10@3", "ours=runs/a"])
    >>> (one.name, one.arm, one.number, one.draw), (other.name, other.arm, other.path)
    (('random:10@3', 'random:10', 10, 3), ('a', 'ours', 'runs/a'))
    """
    named = [_parsed(name) for name in names]
    seen = set[str]()
    for one in named:
        if one.name in seen or FREE in (one.name, one.arm):
            raise UserError(
                f"two proxies are called `{FREE if one.arm == FREE else one.name}`: "
                "name each proxy once, and rename a folder if two have the same name"
            )
        if " + " in one.name + one.arm:
            raise UserError(f"proxy `{one.name}`: ` + ` stands between columns; rename the folder")
        seen.add(one.name)
    if not named:
        raise UserError(f"no proxy to train on: name a condensed set, or one of {', '.join(KINDS)}")
    return named


def arms_of(named: Iterable[Proxy | Named]) -> dict[str, tuple[str, ...]]:
    """The names of the proxies of each arm, in their order.

    >>> arms_of(parse(["random:10", "whole", "random:10@1"]))
    {'random:10': ('random:10', 'random:10@1'), 'whole': ('whole',)}
    """
    arms: dict[str, tuple[str, ...]] = {}
    for one in named:
        arm = one.arm or one.name
        arms[arm] = (*arms.get(arm, ()), one.name)
    return arms


def _parsed(text: str) -> Named:
    arm, equals, name = text.partition("=")
    if not equals or Path(text).exists():
        arm, name = "", text
    before, at, draw = name.partition("@")
    kind = before.partition(":")[0]
    if kind not in KINDS:
        return Named(_shown(name), arm or _shown(name), path=name)
    if at and not draw.isdecimal():
        raise UserError(f"proxy `{name}`: what follows `@` must be a number, 0 or more")
    again = int(draw or 0)
    shown = f"{before}@{again}" if again else before
    return Named(shown, arm or before, kind=kind, number=_number(before), draw=again)


def seen_held_out(names: Sequence[str], rest: Dataset) -> tuple[str, ...]:
    """The condensed sets among `names` that were made from images that are now held out.

    `rest` is the dataset without the held-out images. A set that does not record its dataset is not
    listed.

    >>> from condense import load_dataset
    >>> seen_held_out(["random", "whole:100"], load_dataset("digits"))
    ()
    """
    sets = [one for one in parse(names) if one.path]
    origins = [(one.name, CondensedSet.load(one.path).provenance.get("dataset")) for one in sets]
    return tuple(
        name
        for name, origin in origins
        if isinstance(origin, dict) and origin["fingerprint"] != rest.fingerprint
    )


def _shown(path: str) -> str:
    """The name of a condensed set in results: that of its run folder, or of its own file."""
    resolved = Path(path).resolve()
    if resolved.name == "set.safetensors":
        return resolved.parent.name
    return resolved.stem if resolved.is_file() else resolved.name


def _load(name: str, whole: Dataset, rest: Dataset) -> CondensedSet:
    """The condensed set at the path `name`, after checking that it belongs to the dataset."""
    if not published.is_there(name):
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
            "the held-out images): search with the dataset that it was made from, and with "
            "--held-out N if it was condensed with --hold-out N"
        )
    return condensed


def _real(
    named: Named, rest: Dataset, preprocess: Preprocess, protocol: Protocol, ipc: int, parts: int
) -> Proxy:
    """A proxy of real images, by default as large as a condensed set with `ipc` images per class.

    `random` then has as many images as the set. `early-stop` has as many steps as training on the
    set takes, where each of its images is decoded to `parts` images.
    """
    name, number, draw = named.name, named.number, named.draw
    classes = len(rest.classes)
    if named.kind == "random":
        chosen = select("random", rest, number or ipc, preprocess=preprocess, seed=draw)
        return Proxy(name, chosen.images, chosen.labels, preprocess, chosen.fingerprint)
    images, steps = rest.train, None
    if named.kind == "early-stop":
        steps = number or protocol.epochs * math.ceil(ipc * parts * classes / protocol.batch)
    elif number and number < len(images):
        if number < classes:
            raise UserError(f"proxy `{name}`: {classes} classes need at least {classes} images")
        images = rest.hold_out(number, seed=1 + draw).test  # stratified
    text = f"{images.fingerprint} {preprocess.fingerprint}"
    identity = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Proxy(name, images.pixels, images.labels, preprocess, identity, steps)


def _number(name: str) -> int | None:
    kind, colon, number = name.partition(":")
    if colon and not re.fullmatch(r"0*[1-9][0-9]{0,8}", number):
        raise UserError(f"proxy `{name}`: what follows `{kind}:` must be a number, 1 or more")
    return int(number) if colon else None
