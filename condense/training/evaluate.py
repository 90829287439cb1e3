"""What a condensed set is worth: the accuracy on real test images of networks trained on it alone.

One call takes one set or several (made by the same recipe from other seeds), and one network or several (a
cross-architecture table). The number of a published table is one of 5 sets with 20 networks each.

Choices (a recipe, a learning rate) are made with `dataset.hold_out(count, seed)`: condense and evaluate on what it
returns, whose test images are held-out training images. The real test images are for the end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from condense.data.augment import make_augment
from condense.data.images import Dataset
from condense.device import pick_device
from condense.errors import UserError
from condense.networks.accelerate import accelerate
from condense.networks.build import build, initialise
from condense.progress import Progress
from condense.randomness import derive
from condense.sets.condensed import CondensedSet
from condense.training.score import Score
from condense.training.train import Protocol, accuracy, check_labels, protocol_for, train


def evaluate(
    sets: CondensedSet | Sequence[CondensedSet],
    dataset: Dataset,
    networks: str | Sequence[str] = ("convnet",),
    repeats: int = 20,
    protocol: Protocol | str = "dm",
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Score]:
    """Train `repeats` networks of each architecture on each set and test them on the test images of `dataset`.

    Parameters
    ----------
    sets: made from `dataset` under one preprocessing, which the test images get too.
    networks: names; the result has a `Score` for each.
    protocol: a name of `condense.training.train.PROTOCOLS`, or a `Protocol`, taken literally. (A name never mirrors digits.)
    seed: with a set's position and the repeat it determines weights, order and augmentation, so more repeats extend
        fewer.
    progress: told after every network how many are done.

    Raises `UserError` for a set that does not belong to `dataset` (other classes, shape, content or preprocessing),
    for unknown names, and when a training diverges.
    """
    sets = [sets] if isinstance(sets, CondensedSet) else list(sets)
    names = [networks] if isinstance(networks, str) else list(dict.fromkeys(networks))
    if not sets or not names or repeats < 1:
        raise UserError(
            f"nothing to evaluate: {len(sets)} sets, {len(names)} networks, {repeats} repeats; give one of each or more"
        )
    for condensed in sets:
        check_belongs(condensed, dataset)
    _check_same_preprocess(sets)
    if isinstance(protocol, str):
        protocol = protocol_for(protocol, dataset.name)
    for condensed in sets:
        check_labels(condensed.labels, protocol)
    place = pick_device(device)
    for name in names:
        build(
            name, dataset.shape, len(dataset.classes)
        )  # a wrong name is found before the first hour of training
    own = [_with_learned_rate(protocol, condensed) for condensed in sets]
    test = sets[0].preprocess.apply(dataset.test.pixels).to(place), dataset.test.labels.to(place)

    scores, done = {}, 0
    for name in names:
        accuracies = []
        for index, condensed in enumerate(sets):
            for value in train_many(
                name, condensed, test, repeats, own[index], derive(seed, "evaluate", index), place
            ):
                accuracies.append(value)
                done += 1
                if progress:
                    progress(done, f"{name} {value:.1%}")
        scores[name] = Score(tuple(accuracies), len(sets))
    return scores


def train_many(
    name: str,
    condensed: CondensedSet,
    test: tuple[Tensor, Tensor],
    repeats: int,
    protocol: Protocol,
    seed: int,
    device: torch.device,
    *,
    first: int = 0,
) -> Iterator[float]:
    """The accuracies on `test` (float32 images in the set's space, int64 labels) of `repeats` networks trained on one set,
    those from number `first` on."""
    condensed = condensed.decoded()
    images, labels = condensed.images.to(device), condensed.labels.to(device)
    augment = make_augment(protocol.augment, condensed.preprocess.to(device))
    network = build(name, condensed.shape, len(condensed.classes)).to(device)
    passed = repeats * (
        3 * protocol.epochs * len(images) + len(test[0])
    )  # a backward pass costs two forward ones
    fast = accelerate(network, passed * images[0, 0].numel(), device)
    for repeat in range(first, repeats):
        initialise(network, seed, repeat)
        train(fast, images, labels, protocol, derive(seed, "train", repeat), augment=augment)
        yield accuracy(fast, *test)


def check_belongs(condensed: CondensedSet, dataset: Dataset) -> None:
    """Raise a `UserError` unless `condensed` can have been made from `dataset`: classes, shape, recorded origin.

    What a set does not record, as an imported one, is not checked.
    """
    for what, theirs, ours in (
        ("classes", condensed.classes, dataset.classes),
        ("images of shape", condensed.shape, dataset.shape),
    ):
        if theirs != ours:
            raise UserError(
                f"the set has {what} {_short(theirs)}, dataset {dataset.name} has {_short(ours)}: choose its own dataset"
            )
    for part in condensed.provenance.get("merged", [condensed.provenance]):
        origin = part.get("dataset")
        if isinstance(origin, dict) and origin["fingerprint"] != dataset.fingerprint:
            raise UserError(
                f"the set was made from {origin['name']} with content {origin['fingerprint']}, and {dataset.name} here "
                f"has content {dataset.fingerprint}: evaluate it on the dataset, and the split, it was made from"
            )
        fitted = part.get("preprocess", condensed.preprocess.fingerprint)
        if fitted != condensed.preprocess.fingerprint:
            raise UserError(
                f"the set was made under preprocessing {fitted} and now carries {_describe(condensed)}: "
                "its images mean nothing under another one; condense again or restore the file"
            )


def _with_learned_rate(protocol: Protocol, condensed: CondensedSet) -> Protocol:
    """`protocol`, with the rate that was learned with the set where it asks for that."""
    if not protocol.learned_rate:
        return protocol
    learned = condensed.provenance.get("learned", {})
    if "lr" not in learned:
        raise UserError(
            "the set has no learning rate of its own, as `mtt` learns one: evaluate it by protocol `dm`"
        )
    return replace(protocol, lr=learned["lr"])


def _check_same_preprocess(sets: Sequence[CondensedSet]) -> None:
    for number, condensed in enumerate(sets):
        if condensed.preprocess.fingerprint != sets[0].preprocess.fingerprint:
            raise UserError(
                f"set 1 is preprocessed by {_describe(sets[0])}, set {number + 1} by {_describe(condensed)}: "
                "several sets make one score only under one preprocessing; evaluate them one by one"
            )


def _describe(condensed: CondensedSet) -> str:
    return f"{condensed.preprocess.name} {condensed.preprocess.fingerprint}"


def _short(values: tuple[Any, ...]) -> str:
    """The values, or the first few of many."""
    text = ", ".join(map(str, values[:10]))
    return f"({text}{f', ... {len(values)} in all' if len(values) > 10 else ''})"
