"""Settings: dataclasses that are read from JSON, from TOML and from the command line."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, get_type_hints

from condense.errors import UserError, unknown


def replaced(config: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass with `changes`, each read as its field's type: text, as of a command line, is read as JSON."""
    kinds = get_type_hints(type(config))
    for key in changes:
        if key not in kinds:
            raise unknown("setting", key, kinds)
    return dataclasses.replace(
        config, **{key: _read(key, value, kinds[key]) for key, value in changes.items()}
    )


def _read(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`; text is read as JSON where the field is no text."""
    if kind is not str and isinstance(value, str):
        with contextlib.suppress(
            json.JSONDecodeError
        ):  # the text of a Literal: checked by the dataclass itself
            value = json.loads(value)
    if kind is int:
        return whole_number(name, value)
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"`{name}` is {value!r}: it must be a number")
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def whole_number(name: str, value: Any) -> int:
    """`value` as a whole number; text is read. Anything else is a `UserError`."""
    if isinstance(value, str) and value.lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"`{name}` is {value!r}: it must be a whole number")
    return value


def require(name: str, value: Any, valid: bool, accepted: str) -> None:
    """Raise a `UserError` that names the hyperparameter and what it accepts, unless `valid`."""
    if not valid:
        raise UserError(f"`{name}` is {value!r}: it must be {accepted}")
