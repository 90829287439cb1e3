"""The record of a plan: what a folder belongs to."""

from typing import Any


def differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """The first few settings in which two jobs differ, with both values; empty where they are the same."""
    mine, theirs = _flat(here), _flat(there)
    changed = [key for key in mine | theirs if mine.get(key) != theirs.get(key)]
    return ", ".join(f"{key} {theirs.get(key)} there, {mine.get(key)} here" for key in changed[:3])


def _flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
