"""Files that are whole or not there: atomic writes, and tensors that notice damage.

A file is written beside its destination, flushed to the disk and renamed, so a reader (or a run killed at any
moment) sees the old content or the new, never a part. Tensors go into safetensors files that carry a digest of
their content, since safetensors notices a truncated file but not a flipped bit.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from condense.errors import UserError


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically, making its folder. A full or read-only disk is a `UserError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(beside, 0o644)  # mkstemp's files are private; ours are meant to be shared
            os.replace(beside, path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; free some space or choose another folder"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or damaged one is a `UserError`."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def digest(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """32 hex digits that change with any name, type, shape or byte of `tensors`, and with `text`."""
    state = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def save_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write `tensors` and a JSON-able `header` as one safetensors file; equal content gives equal bytes."""
    tensors = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    text = json.dumps(header, sort_keys=True)
    # One metadata entry: safetensors keeps no order among several, and equal sets must be equal files.
    write_bytes(
        path,
        save(
            tensors, {"condensekit": json.dumps({"digest": digest(tensors, text), "header": text})}
        ),
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors (on the CPU) and the header. Damage is a `UserError`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
    if "condensekit" not in metadata:
        raise UserError(f"{path} was not written by condensekit: import it first")
    try:
        stored = json.loads(metadata["condensekit"])
        header = json.loads(stored["header"])
        intact = stored["digest"] == digest(tensors, stored["header"])
    except (ValueError, KeyError, TypeError):
        intact, header = False, {}
    if not intact:
        raise UserError(f"{path} is damaged: its content does not match its digest")
    return tensors, header
