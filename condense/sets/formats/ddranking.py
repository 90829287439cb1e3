"""The files of DD-Ranking: `images.pt`, `labels.pt` and, where one was learned, `lr.pt`.

The images are float32 [C * IPC, 3, H, W], class by class. DD-Ranking standardises real images by
the constants of CIFAR-10, also those of CIFAR-100, or by ImageNet's, and so must these be. Or it
whitens them as `zca` does here (kornia's ZCA, 0.1 added, fitted on [0, 1]), and takes whitened
images as they are.
"""

from pathlib import Path

import torch

from condense.data.preprocess import PUBLISHED, Standardize
from condense.errors import UserError
from condense.sets.condensed import CondensedSet
from condense.sets.formats.base import dataset_of
from condense.sets.formats.pt import write_tensors


def transform(dataset: str) -> Standardize:
    """How DD-Ranking preprocesses the images of the dataset called so, unless it whitens them.

    >>> transform("cifar100").mean
    tensor([0.4914, 0.4822, 0.4465])
    """
    known = dataset in PUBLISHED and not dataset.startswith("cifar")
    mean, std = PUBLISHED[dataset if known else "cifar10"]
    return Standardize(mean=torch.tensor(mean), std=torch.tensor(std))


def write(condensed: CondensedSet, folder: Path) -> None:
    """Write the files into an empty folder. Soft labels go into `soft_labels.pt` as well.

    Raises `UserError` for images that are not in colour, and for classes of unequal numbers.

    >>> write(CondensedSet.load("cifar10-ipc1-best").decoded(), Path("scored"))
    >>> sorted(file.name for file in Path("scored").iterdir())
    ['images.pt', 'labels.pt']
    """
    if condensed.shape[0] != 3:
        raise UserError(f"DD-Ranking takes 3 channels, these images have {condensed.shape[0]}")
    counts = condensed.counts()
    if counts.min() != counts.max():
        raise UserError(
            f"DD-Ranking takes as many images of each class, these have {counts.min()} to "
            f"{counts.max()}"
        )
    hard = condensed.class_of()
    order = torch.argsort(hard, stable=True)
    images = condensed.images
    if condensed.preprocess.name != "zca":
        scored = transform(dataset_of(condensed))
        mean, std = scored.mean[:, None, None], scored.std[:, None, None]
        images = (condensed.preprocess.unapply(images) - mean) / std
    tensors = {"images": images[order], "labels": hard[order]}
    if condensed.soft:
        tensors["soft_labels"] = condensed.labels[order]
    if "lr" in (learned := condensed.provenance.get("learned", {})):
        tensors["lr"] = torch.tensor(float(learned["lr"]))
    for name, value in tensors.items():
        write_tensors(folder / f"{name}.pt", value)
