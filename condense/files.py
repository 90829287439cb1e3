"""Tensor files that detect damage.

Tensors are stored in safetensors files together with a digest of their content, because safetensors
detects a truncated file but not a flipped bit. How files are written is told in `condense.writing`.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from condense.errors import UserError
from condense.reading import check_file
from condense.writing import write_bytes


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """A digest of tensors and a text, as 32 hexadecimal digits.

    It changes with every name, type, shape and byte of `tensors`, and with `text`.

    >>> digest({"x": torch.zeros(2)}) == digest({"x": torch.zeros(2)})
    True
    >>> digest({"x": torch.zeros(2)}) == digest({"x": torch.zeros(1, 2)})
    False
    """
    state = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor has content, is dense, and is not quantised.

    >>> is_ordinary(torch.zeros(2)), is_ordinary(torch.zeros(2, device="meta"))
    (True, False)
    """
    return not (tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized)


def on_host(name: str, tensor: Tensor) -> Tensor:
    """A tensor in the memory of the host. Raises `UserError` for what is none, or has no content.

    >>> on_host("images", torch.zeros(2, requires_grad=True))
    tensor([0., 0.])
    >>> on_host("images", [0.0, 0.0])
    Traceback (most recent call last):
    condense.errors.UserError: `images` must be an ordinary tensor with content
    """
    if not isinstance(tensor, Tensor) or not is_ordinary(tensor):
        raise UserError(f"`{name}` must be an ordinary tensor with content")
    return tensor.detach().cpu().contiguous()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write `tensors` and a `header`, which JSON must be able to hold, as one safetensors file.

    Equal content gives equal bytes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_tensors(Path(folder, "set.safetensors"), {"x": torch.ones(2)}, {"ipc": 1})
    ...     load_tensors(Path(folder, "set.safetensors"))
    ({'x': tensor([1., 1.])}, {'ipc': 1})
    """
    tensors = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    text = json.dumps(header, sort_keys=True)
    # A single metadata entry: safetensors does not keep several in order, and equal content must
    # give equal bytes.
    metadata = {"digest": digest(tensors, text), "header": text}
    write_bytes(path, save(tensors, {"condensekit": json.dumps(metadata)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors, on the CPU, and the header.

    Raises `UserError` if the file is missing, damaged or was written by another program.

    >>> load_tensors(Path("no-such-set.safetensors"))
    Traceback (most recent call last):
    condense.errors.UserError: no-such-set.safetensors does not exist
    """
    check_file(path)  # safetensors says of every file that it cannot open that there is none
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None
    if "condensekit" not in metadata:
        raise UserError(
            f"{path} was not written by condensekit: import it first, by `condensekit import "
            "--preprocess NAME --dataset NAME`"
        )
    try:
        stored = json.loads(metadata["condensekit"])
        header = json.loads(stored["header"])
        intact = stored["digest"] == digest(tensors, stored["header"])
    except (ValueError, KeyError, TypeError, RecursionError):
        intact, header = False, {}
    if not (intact and isinstance(header, dict)):
        raise UserError(f"{path} is damaged: its content does not match its digest")
    return tensors, header


def load_tensor(path: Path, name: str) -> Tensor:
    """The tensor called `name` in what `save_tensors` wrote.

    Raises `UserError` as `load_tensors` does, and if the file holds no such tensor.

    >>> save_tensors(Path("a.safetensors"), {"x": torch.ones(2)}, {})
    >>> load_tensor(Path("a.safetensors"), "y")
    Traceback (most recent call last):
    condense.errors.UserError: a.safetensors holds no `y`: it is another file, put in its place
    """
    tensors, _ = load_tensors(path)
    if name not in tensors:
        raise UserError(f"{path} holds no `{name}`: it is another file, put in its place")
    return tensors[name]
