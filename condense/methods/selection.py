"""Coresets: real training images chosen to stand for the rest. Baselines to beat, and starting points to move.

Every method chooses within each class, in an order: the first images of a larger choice are the smaller choice.
Herding and k-center see an image as its embedding under a network trained briefly on the training images.
"""

import dataclasses
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess
from condense.device import pick_device
from condense.errors import UserError, unknown
from condense.networks import build as networks
from condense.networks.accelerate import accelerate
from condense.randomness import derive, generator
from condense.sets.condensed import CondensedSet
from condense.sets.mosaics import check, encode
from condense.sets.provenance import provenance
from condense.training.train import Protocol, train

SELECTIONS = {
    "random": "images drawn at random",
    "herding": "images whose mean follows the mean of their class (Welling 2009)",
    "kcenter": "images that leave no other far from a chosen one (Sener and Savarese 2018)",
    "forgetting": "images most often learned and lost again in training (Toneva et al. 2019)",
}
FEATURE_EPOCHS = 5
"""Passes over the training images for the network behind herding, k-center and forgetting.

Published baselines train for tens to hundreds of passes; five are minutes on a CPU for CIFAR-10, and hours are not
worth a starting point. A baseline to be quoted deserves more.
"""
_EMBED_BATCH = 50  # as in testing: small blocks are quicker on a CPU


def select(
    method: str,
    dataset: Dataset,
    ipc: int,
    *,
    preprocess: Preprocess,
    seed: int,
    network: str = "convnet",
    feature_epochs: int = FEATURE_EPOCHS,
    device: str = "auto",
) -> CondensedSet:
    """The training images that `indices` chooses, as a `CondensedSet` under `preprocess`."""
    options: dict[str, Any] = (
        {} if method == "random" else {"network": network, "feature_epochs": feature_epochs}
    )
    chosen = indices(
        method, dataset, ipc, preprocess=preprocess, seed=seed, device=device, **options
    )
    return _packed(
        dataset,
        preprocess.apply(dataset.train.pixels[chosen]),
        preprocess,
        method=method,
        ipc=ipc,
        seed=seed,
        **options,
    )


def noise(dataset: Dataset, ipc: int, *, preprocess: Preprocess, seed: int) -> CondensedSet:
    """`ipc` images a class of standard normal noise in preprocessed space; those of a class depend on seed and class alone."""
    classes = range(len(dataset.classes))
    images = torch.cat(
        [torch.randn(ipc, *dataset.shape, generator=generator(seed, "noise", c)) for c in classes]
    )
    return _packed(dataset, images, preprocess, method="noise", ipc=ipc, seed=seed)


def start(
    init: str,
    dataset: Dataset,
    ipc: int,
    *,
    formation: int,
    preprocess: Preprocess,
    seed: int,
    device: str = "auto",
) -> CondensedSet:
    """What a condensation starts from: `ipc` images a class of `noise` or of a selection; in formation f, each a mosaic of
    f * f selected ones."""
    check(formation, *dataset.shape[1:])
    check_ipc(dataset, ipc, formation)
    if init == "noise":
        return dataclasses.replace(
            noise(dataset, ipc, preprocess=preprocess, seed=seed), formation=formation
        )
    chosen = select(
        init, dataset, ipc * formation**2, preprocess=preprocess, seed=seed, device=device
    )
    images, labels = encode(chosen.images, formation), chosen.labels[:: formation**2]
    return dataclasses.replace(chosen, images=images, labels=labels, formation=formation)


def indices(
    method: str,
    dataset: Dataset,
    ipc: int,
    *,
    preprocess: Preprocess,
    seed: int,
    network: str = "convnet",
    feature_epochs: int = FEATURE_EPOCHS,
    device: str = "auto",
) -> Tensor:
    """Which training images `method` chooses: int64 [C * ipc], class after class, each class in the order of choice.

    Parameters
    ----------
    method: one of `SELECTIONS`.
    ipc: images per class, from 1 to the size of the smallest class.
    preprocess, network, feature_epochs: the network, drawn and trained from `seed`, on the preprocessed training images
        for `feature_epochs` passes (`Protocol` with batch 256 and no augmentation), which gives the embeddings or is
        watched forgetting. With 0 passes embeddings are those of the random initialisation. `random` uses none of it.

    Raises `UserError` for an unknown method, for an `ipc` larger than a class, and for `forgetting` with fewer than 2 passes.
    """
    if method not in SELECTIONS:
        raise unknown("selection", method, SELECTIONS)
    if method == "forgetting" and feature_epochs < 2:
        raise UserError(
            f"forgetting takes 2 or more feature epochs, not {feature_epochs}: what was never learned is not forgotten"
        )
    check_ipc(dataset, ipc)
    images = dataset.train
    members = [images.of_class(c) for c in range(len(images.classes))]
    # Where chance decides, it is by this order, not by that of the files.
    shuffled = [
        of_c[torch.randperm(len(of_c), generator=generator(seed, "select", c))]
        for c, of_c in enumerate(members)
    ]
    if method == "random":
        return torch.cat([of_c[:ipc] for of_c in shuffled])

    preprocess = preprocess.to(pick_device(device))
    model, history = _trained(network, dataset, preprocess, feature_epochs, seed)
    if method == "forgetting":
        counts = forgetting_counts(history)
        return torch.cat(
            [of_c[counts[of_c].argsort(descending=True, stable=True)][:ipc] for of_c in shuffled]
        )

    choose = herd if method == "herding" else spread
    return torch.cat(
        [of_c[choose(_embed(model, images.pixels, of_c, preprocess), ipc)] for of_c in members]
    )


# How each method chooses among the N points of one class: local indices int64 [count], in the order of choice.


def herd(points: Tensor, count: int) -> Tensor:
    """Greedy mean matching on `points` [N, D]: each choice brings the mean of the chosen nearest to the mean of all.

    Welling, "Herding dynamical weights to learn" (2009), as used by Rebuffi et al., "iCaRL" (2017), algorithm 4,
    without iCaRL's normalisation of the features, as condensation papers do. A point is chosen once.
    """
    centred = points.double() - points.double().mean(dim=0)
    squares = centred.square().sum(dim=1)
    total = torch.zeros_like(
        centred[0]
    )  # sum of the chosen: the nearer to 0, the nearer their mean to the mean of all
    free, chosen = torch.zeros_like(squares), []
    for _ in range(count):
        best = (
            squares + 2 * (centred @ total) + free
        ).argmin()  # ||total + point||^2, but for a constant
        total = total + centred[best]
        free[best] = torch.inf
        chosen.append(best)
    return torch.stack(chosen).cpu()


def spread(points: Tensor, count: int) -> Tensor:
    """Greedy k-center on `points` [N, D]: the point nearest the mean, then always the one farthest from the chosen.

    Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach" (2018), algorithm 1.
    """
    points = points.double()
    best = (points - points.mean(dim=0)).square().sum(dim=1).argmin()
    distances, chosen = torch.full_like(points[:, 0], torch.inf), [best]
    while len(chosen) < count:
        distances = torch.minimum(distances, (points - points[best]).square().sum(dim=1))
        distances[best] = -1  # never again, even where every other point is a copy of a chosen one
        best = distances.argmax()
        chosen.append(best)
    return torch.stack(chosen).cpu()


def forgetting_counts(history: Tensor) -> Tensor:
    """How often each image was forgotten, int64 [N], from whether it was right at each presentation, bool [E, N].

    A forgetting event is a right answer followed by a wrong one; an image never right counts as forgotten E times,
    more often than any other can be. Toneva et al., "An empirical study of example forgetting" (2019), section 3.
    """
    events = (history[:-1] & ~history[1:]).sum(dim=0)
    return events.masked_fill(~history.any(dim=0), len(history))


_LAST: WeakKeyDictionary[Dataset, tuple[Any, networks.Network, Tensor]] = WeakKeyDictionary()
"""What `_trained` returned last for a dataset, and for what: a comparison asks for the same with every method and number."""


def _trained(
    name: str, dataset: Dataset, preprocess: Preprocess, epochs: int, seed: int
) -> tuple[networks.Network, Tensor]:
    """The network `name`, drawn and trained from `seed`, on the device of `preprocess`, and its history as of `_train`."""
    asked = (name, preprocess.fingerprint, preprocess.mean.device, epochs, seed)
    if dataset not in _LAST or _LAST[dataset][0] != asked:
        model = networks.build(name, dataset.shape, len(dataset.classes)).to(preprocess.mean.device)
        networks.initialise(model, derive(seed, "select"), 0)
        _LAST[dataset] = (asked, model, _train(model, dataset, preprocess, epochs, seed))
    return _LAST[dataset][1:]


def _train(
    model: networks.Network, dataset: Dataset, preprocess: Preprocess, epochs: int, seed: int
) -> Tensor:
    """Train `model` on the training images; returns whether it was right about each when it met it, bool [epochs, N]."""
    images = dataset.train
    history = torch.zeros(epochs, len(images), dtype=torch.bool)
    meetings = torch.zeros(len(images), dtype=torch.int64)

    def record(chosen: Tensor, logits: Tensor) -> None:
        chosen, answers = chosen.cpu(), logits.argmax(dim=1).cpu()
        history[meetings[chosen], chosen] = answers == images.labels[chosen]
        meetings[chosen] += 1

    protocol = Protocol(epochs=epochs, augment="none")
    passed = 3 * epochs * images.pixels[:, 0].numel()  # a backward pass costs two forward ones
    fast = accelerate(model, passed, next(model.parameters()).device)
    train(
        fast,
        images.pixels,
        images.labels,
        protocol,
        derive(seed, "select"),
        prepare=preprocess.apply,
        watch=record,
    )
    return history


@torch.inference_mode()
def _embed(
    model: networks.Network, pixels: Tensor, chosen: Tensor, preprocess: Preprocess
) -> Tensor:
    """The embeddings of the `chosen` images, float32 [N, D], on the model's device, in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    return torch.cat(
        [
            model.embed(preprocess.apply(pixels[part].to(device)))
            for part in chosen.split(_EMBED_BATCH)
        ]
    )


def _packed(
    dataset: Dataset, images: Tensor, preprocess: Preprocess, *, ipc: int, **facts: Any
) -> CondensedSet:
    """Class-major preprocessed `images` of `dataset`, `ipc` a class, as a set."""
    labels = torch.arange(len(dataset.classes)).repeat_interleave(ipc)
    origin = provenance(dataset, preprocess=preprocess.fingerprint, ipc=ipc, **facts)
    return CondensedSet(images, labels, dataset.classes, preprocess, origin)


def check_ipc(dataset: Dataset, ipc: int, formation: int = 1) -> None:
    """Raise a `UserError` unless every class has the training images that `ipc`, 1 or more, take in a formation."""
    if ipc < 1:
        raise UserError(f"ipc is {ipc}: it must be 1 or more")
    counts = dataset.train.counts()
    smallest = int(counts.argmin())
    if ipc * formation**2 > counts[smallest]:
        name, size = dataset.classes[smallest], int(counts[smallest])
        if formation > 1:
            raise UserError(
                f"ipc {ipc} in formation {formation} starts from {ipc * formation**2} images a class, and class `{name}` of "
                f"{dataset.name} has {size}: lower the ipc"
            )
        raise UserError(
            f"ipc {ipc} is more than class `{name}` of {dataset.name} has: {size} training images; lower the ipc"
        )
