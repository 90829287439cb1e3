"""`.safetensors` files with the tensors `images` and `labels`, as this package writes them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from condense.errors import UserError
from condense.reading import check_file
from condense.sets.condensed import CondensedSet
from condense.sets.formats.base import Read, facts_of
from condense.sets.formats.pt import check_kinds


def read(path: Path) -> Read:
    """The images and labels of our own file, or of another that has tensors of these names.

    >>> import torch
    >>> from safetensors.torch import save_file
    >>> tensors = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 1])}
    >>> save_file(tensors, "two.safetensors")
    >>> read(Path("two.safetensors")).labels
    tensor([0, 1])
    """
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            ours, names = "condensekit" in (file.metadata() or {}), set(file.keys())
            if not ours and {"images", "labels"} <= names:
                images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    if ours:
        condensed = CondensedSet.load(path).decoded()
        return Read(
            images=condensed.images,
            labels=condensed.labels,
            files=[path],
            names=condensed.classes,
            own=facts_of(condensed),
        )
    if not {"images", "labels"} <= names:
        raise UserError(
            f"{path} has the tensors {', '.join(sorted(names)) or 'none'}: it must have `images` "
            "and `labels`"
        )
    check_kinds(path, images, labels)
    return Read(images=images, labels=labels, files=[path])


def write(condensed: CondensedSet, path: Path) -> None:
    """Write a set as its own file, with every bit of the images.

    >>> write(CondensedSet.load("cifar10-ipc1-best"), Path("ten.bin"))
    Traceback (most recent call last):
    condense.errors.UserError: ten.bin: a safetensors file ends in .safetensors
    """
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: a safetensors file ends in .safetensors")
    condensed.save(path)
