"""Coresets: real training images that are chosen to represent the rest.

They serve as baselines and as starting points for condensation. Every method chooses within each
class, in an order: a smaller choice is the beginning of a larger one. Herding and k-center see an
image as its embedding in a network that was trained briefly on the training images.
"""

import dataclasses
from numbers import Integral
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
from condense.progress import heard, progress
from condense.randomness import derive, generator
from condense.sets.condensed import CondensedSet
from condense.sets.mosaics import check, encode
from condense.sets.provenance import provenance
from condense.training.protocol import Protocol
from condense.training.train import train

SELECTIONS = {
    "random": "images drawn at random",
    "herding": "images whose mean follows the mean of their class (Welling 2009)",
    "kcenter": "images that leave no other far from a chosen one (Sener and Savarese 2018)",
    "forgetting": "images most often learned and lost again in training (Toneva et al. 2019)",
}
"""The methods of selection, each with a line about it."""
FEATURE_EPOCHS = 5
"""Passes over the training images for the network behind herding, k-center and forgetting.

Published baselines train for tens to hundreds of passes. On CIFAR-10 five passes take minutes on a
CPU instead of hours, which is enough for a starting point. For a baseline to quote, use more."""
_EMBED_BATCH = 50  # small blocks are faster on a CPU, as in testing


def select(
    method: str,
    dataset: Dataset,
    ipc: int,
    *,
    preprocess: Preprocess,
    seed: int,
    device: str = "auto",
    **options: Any,
) -> CondensedSet:
    """Real training images, `ipc` per class, as a `CondensedSet` with `preprocess`.

    Parameters
    ----------
    method: `random`, or one that chooses: `herding`, `kcenter`, `forgetting`.
    dataset: what `load_dataset` or `as_dataset` gives.
    preprocess: that of the set it is compared with, `condensed.preprocess`.
    options: the `network` that a choosing method sees images through, and its `feature_epochs`.

    Raises `UserError` for an unknown method, and where a class has fewer than `ipc` images.

    >>> from condense import load_dataset, select
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> select("random", digits, 2, preprocess=preprocess, seed=0).labels[:6]
    tensor([0, 0, 1, 1, 2, 2])
    """
    given: dict[str, Any] = {"preprocess": preprocess, "seed": seed, "device": device}
    chosen = indices(method, dataset, ipc, **given, **options)
    how = {"network": "convnet", "feature_epochs": FEATURE_EPOCHS} | options
    facts = {"method": method, "seed": seed} | ({} if method == "random" else how)
    images = preprocess.apply(dataset.train.pixels[chosen])
    return _packed(dataset, images, preprocess, ipc=ipc, **facts)


def noise(dataset: Dataset, ipc: int, *, preprocess: Preprocess, seed: int) -> CondensedSet:
    """`ipc` images per class of standard normal noise, in preprocessed space.

    The images of a class depend only on the seed and the class.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> noise(digits, 2, preprocess=preprocess, seed=0).images.shape
    torch.Size([20, 1, 8, 8])
    """
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
    """The set that a condensation starts from: `ipc` images per class, noise or a selection.

    In formation f, each image is a mosaic of f * f selected images. Raises `UserError` for an
    unknown selection, and if the images or a class are too small.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> mosaics = start("random", digits, 2, formation=2, preprocess=preprocess, seed=0)
    >>> len(mosaics), len(mosaics.decoded())
    (20, 80)
    """
    check(formation, *dataset.shape[1:])
    check_ipc(dataset, ipc, formation)
    if init == "noise":
        made = noise(dataset, ipc, preprocess=preprocess, seed=seed)
        return dataclasses.replace(made, formation=formation)
    if init not in SELECTIONS:
        raise unknown("starting point", init, ["noise", *SELECTIONS])
    count = ipc * formation**2
    chosen = select(init, dataset, count, preprocess=preprocess, seed=seed, device=device)
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
    """The indices of the training images that `method` chooses: int64 [C * ipc].

    They are ordered by class, and within a class in the order of choice.

    Parameters
    ----------
    method: one of `SELECTIONS`.
    ipc: images per class, from 1 to the size of the smallest class.
    preprocess, network, feature_epochs: the network is initialised and trained from `seed` on the
        preprocessed training images, for `feature_epochs` passes with a batch of 256 and without
        augmentation. Its embeddings are used, or what it forgets during training. After 0 passes,
        the embeddings are those of its random initialisation. `random` needs no network.

    Raises `UserError` for an unknown method, for an `ipc` larger than a class, and for `forgetting`
    with fewer than 2 passes.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> chosen = indices("random", digits, 2, preprocess=preprocess, seed=0)
    >>> digits.train.labels[chosen[:6]]
    tensor([0, 0, 1, 1, 2, 2])
    """
    _check_method(method, feature_epochs)
    check_ipc(dataset, ipc)
    images, place = dataset.train, pick_device(device)
    members = [images.of_class(c) for c in range(len(images.classes))]
    # This order decides where the choice is random or tied, not the order of the files.
    shuffled = [
        of_c[torch.randperm(len(of_c), generator=generator(seed, "select", c))]
        for c, of_c in enumerate(members)
    ]
    if method == "random":
        return torch.cat([of_c[:ipc] for of_c in shuffled])

    preprocess = preprocess.to(place)
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


def _check_method(method: str, feature_epochs: int) -> None:
    if method not in SELECTIONS:
        raise unknown("selection", method, SELECTIONS)
    if method == "forgetting" and feature_epochs < 2:
        raise UserError(
            f"forgetting takes 2 or more feature epochs, not {feature_epochs}: what was never "
            "learned is not forgotten"
        )


# The next functions choose among the N points of one class. They return local indices, int64
# [count], in the order of choice.


def herd(points: Tensor, count: int) -> Tensor:
    """Greedy mean matching on `points` [N, D]; returns int64 [count].

    Each choice brings the mean of the chosen points as close as possible to the mean of all. A
    point is chosen only once. Welling, "Herding dynamical weights to learn" (2009), as used by
    Rebuffi et al., "iCaRL" (2017), algorithm 4, but without iCaRL's normalisation of the features,
    as in condensation papers.

    >>> herd(torch.tensor([[0.0], [4.0], [5.0], [9.0]]), count=2)
    tensor([1, 2])
    """
    centred = points.double() - points.double().mean(dim=0)
    squares = centred.square().sum(dim=1)
    # The closer the sum of the chosen points to 0, the closer their mean to the mean of all.
    total = torch.zeros_like(centred[0])
    free, chosen = torch.zeros_like(squares), []
    for _ in range(count):
        # ||total + point||^2, except for a constant.
        best = (squares + 2 * (centred @ total) + free).argmin()
        total = total + centred[best]
        free[best] = torch.inf
        chosen.append(best)
    return torch.stack(chosen).cpu()


def spread(points: Tensor, count: int) -> Tensor:
    """Greedy k-center on `points` [N, D]; returns int64 [count].

    It starts with the point closest to the mean, then always takes the point farthest from those
    chosen. Sener and Savarese, "Active learning for convolutional neural networks: a core-set
    approach" (2018), algorithm 1.

    >>> spread(torch.tensor([[0.0], [4.0], [5.0], [9.0]]), count=2)
    tensor([1, 3])
    """
    points = points.double()
    best = (points - points.mean(dim=0)).square().sum(dim=1).argmin()
    distances, chosen = torch.full_like(points[:, 0], torch.inf), [best]
    while len(chosen) < count:
        distances = torch.minimum(distances, (points - points[best]).square().sum(dim=1))
        distances[best] = -1  # never again, even if all other points are copies of chosen ones
        best = distances.argmax()
        chosen.append(best)
    return torch.stack(chosen).cpu()


def forgetting_counts(history: Tensor) -> Tensor:
    """How often each image was forgotten, int64 [N].

    `history`, bool [E, N], says whether the network was right about an image at each of E
    presentations. An image is forgotten when a right answer is followed by a wrong one. An image
    that was never right counts as forgotten E times, more often than any other can be. Toneva et
    al., "An empirical study of example forgetting" (2019), section 3.

    >>> history = torch.tensor([[True, False, True], [False, False, True]])
    >>> forgetting_counts(history)
    tensor([1, 2, 0])
    """
    events = (history[:-1] & ~history[1:]).sum(dim=0)
    return events.masked_fill(~history.any(dim=0), len(history))


_LAST: WeakKeyDictionary[Dataset, tuple[Any, networks.Network, Tensor]] = WeakKeyDictionary()
"""The last result of `_trained` for each dataset, and its arguments.

A comparison asks for the same network for every method and every number of images."""


def _trained(
    name: str, dataset: Dataset, preprocess: Preprocess, epochs: int, seed: int
) -> tuple[networks.Network, Tensor]:
    """The network `name`, trained from `seed`, and its history as returned by `_train`.

    It is on the device of `preprocess`.
    """
    arguments = (name, preprocess.fingerprint, preprocess.mean.device, epochs, seed)
    if dataset not in _LAST or _LAST[dataset][0] != arguments:
        model = networks.build(name, dataset.shape, len(dataset.classes)).to(preprocess.mean.device)
        networks.initialise(model, derive(seed, "select"), 0)
        _LAST[dataset] = (arguments, model, _train(model, dataset, preprocess, epochs, seed))
    return _LAST[dataset][1:]


def _train(
    model: networks.Network, dataset: Dataset, preprocess: Preprocess, epochs: int, seed: int
) -> Tensor:
    """Train `model` on the training images; returns a history, bool [epochs, N].

    It says whether the model was right about each image when it met it.
    """
    images = dataset.train
    history = torch.zeros(epochs, len(images), dtype=torch.bool)
    meetings, seen = torch.zeros(len(images), dtype=torch.int64), 0

    def record(chosen: Tensor, logits: Tensor) -> None:
        nonlocal seen
        seen += len(chosen)
        report(seen // len(images))
        chosen, answers = chosen.cpu(), logits.argmax(dim=1).cpu()
        history[meetings[chosen], chosen] = answers == images.labels[chosen]
        meetings[chosen] += 1

    protocol = Protocol(epochs=epochs, augment="none")
    passed = 3 * epochs * images.pixels[:, 0].numel()  # a backward pass counts as two forward ones
    fast = accelerate(model, passed, next(model.parameters()).device)
    further: dict[str, Any] = {"prepare": preprocess.apply, "watch": record}
    with progress("train the feature network, passes", epochs, quiet=not heard()) as report:
        train(fast, images.pixels, images.labels, protocol, derive(seed, "select"), **further)
    return history


@torch.inference_mode()
def _embed(
    model: networks.Network, pixels: Tensor, chosen: Tensor, preprocess: Preprocess
) -> Tensor:
    """The embeddings of the `chosen` images, float32 [N, D], with `model` in evaluation mode."""
    device = next(model.parameters()).device
    model.eval()
    batches = (pixels[part].to(device) for part in chosen.split(_EMBED_BATCH))
    return torch.cat([model.embed(preprocess.apply(batch)) for batch in batches])


def _packed(
    dataset: Dataset, images: Tensor, preprocess: Preprocess, *, ipc: int, **facts: Any
) -> CondensedSet:
    """A set of preprocessed `images`, ordered by class, `ipc` of each class."""
    labels = torch.arange(len(dataset.classes)).repeat_interleave(ipc)
    origin = provenance(dataset, preprocess=preprocess.fingerprint, ipc=ipc, **facts)
    return CondensedSet(images, labels, dataset.classes, preprocess, origin)


def check_count(ipc: int) -> None:
    """Raise `UserError` unless `ipc` is a whole number of 1 or more.

    >>> check_count(0)
    Traceback (most recent call last):
    condense.errors.UserError: ipc is 0: it must be 1 or more, a whole number
    """
    if not isinstance(ipc, Integral) or ipc < 1:
        raise UserError(f"ipc is {ipc!r}: it must be 1 or more, a whole number")


def check_ipc(dataset: Dataset, ipc: int, formation: int = 1) -> None:
    """Raise `UserError` unless every class has enough training images for `ipc` in a formation.

    `ipc` must be 1 or more.

    >>> from condense import load_dataset
    >>> check_ipc(load_dataset("digits"), ipc=1000)
    Traceback (most recent call last):
    condense.errors.UserError: ipc 1000 is more than class `8` of digits has: 139 ...
    """
    check_count(ipc)
    counts = dataset.train.counts()
    smallest = int(counts.argmin())
    name, size = dataset.classes[smallest], int(counts[smallest])
    if ipc * formation**2 > size:
        if formation > 1:
            raise UserError(
                f"ipc {ipc} in formation {formation} starts from {ipc * formation**2} images a "
                f"class, and class `{name}` of {dataset.name} has {size}: lower the ipc"
            )
        raise UserError(
            f"ipc {ipc} is more than class `{name}` of {dataset.name} has: {size} training "
            "images; lower the ipc"
        )
