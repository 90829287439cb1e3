"""Settings: frozen dataclasses, read from JSON, TOML and text, and written as JSON.

A dataclass with a docstring under each field is all there is to write. `read` makes one of a
mapping that comes from a file, `replaced` changes fields of one, `plain` writes one, and
`described` tells what its fields are. `condense.options` makes the options of a command of the same
fields.
"""

import ast
import contextlib
import dataclasses
import inspect
import json
import reprlib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from condense.errors import UserError, unknown

T = TypeVar("T")

_ACCEPTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    NoneType: "null",
    Any: "anything",
}
"""What a value of each type is called."""
_LARGEST = 2**63 - 1
"""The largest whole number, as SQLite and torch hold them."""


@dataclass(frozen=True)
class Setting:
    """A field of a dataclass, as `described` finds it.

    >>> Setting("steps", int, 3, "How often.").default
    3
    """

    name: str
    """The name of the field."""
    kind: Any
    """Its type."""
    default: Any
    """Its default; `dataclasses.MISSING` where it must be given."""
    doc: str
    """The docstring under it, in one line; empty where there is none."""


def described(kind: type) -> list[Setting]:
    """The fields of a dataclass, in their order, with types, defaults and docstrings.

    >>> [(setting.name, setting.doc) for setting in described(Setting)][:2]
    [('name', 'The name of the field.'), ('kind', 'Its type.')]
    """
    kinds, docs = get_type_hints(kind), _docs(kind)
    return [
        Setting(field.name, kinds[field.name], _default(field), docs.get(field.name, ""))
        for field in dataclasses.fields(kind)
    ]


def read(kind: type[T], fields: Any, place: str) -> T:
    """The dataclass `kind` that `plain` wrote, read strictly from the mapping in a file.

    `place` says in errors where the mapping is from. Values that are dataclasses already are taken
    as they are. Raises a `UserError` of one line for a field that `kind` does not have, one that is
    missing (also if it has a default: the file may be older than the field), one of another type,
    and for a value that the dataclass itself does not accept.

    >>> @dataclass
    ... class Walk:
    ...     steps: int
    ...     rate: float = 0.1
    >>> read(Walk, {"steps": 3, "rate": 1}, "walk.json")
    Walk(steps=3, rate=1.0)
    >>> read(Walk, {"steps": 3}, "walk.json")
    Traceback (most recent call last):
    condense.errors.UserError: walk.json: `rate` is missing: it must be a number
    """
    with within(place):
        return read_value(kind, fields, "")


@contextlib.contextmanager
def within(place: str) -> Iterator[None]:
    """Say in every `UserError` of what is inside where it is: a file, or what is wrong with one.

    >>> with within("walk.toml"):
    ...     require("steps", -1, False, "0 or more")
    Traceback (most recent call last):
    condense.errors.UserError: walk.toml: `steps` is -1: it must be 0 or more
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def read_text(kind: Any, value: Any, name: str) -> Any:
    """The same of a value that may be text, as on a command line: as it is, or read as JSON.

    >>> [read_text(kind, "3", "steps") for kind in (str, float, int | None)]
    ['3', 3.0, 3]
    """
    with contextlib.suppress(ValueError, RecursionError, UserError):
        if isinstance(value, str) and kind is not str:
            return read_value(kind, json.loads(value), name)
    return read_value(kind, value, name)


def replaced(config: T, changes: Mapping[str, Any]) -> T:
    """A dataclass with `changes`, each read as its field's type; text is read as by `read_text`.

    Raises a `UserError` for a field that it does not have and for a value it does not accept.

    >>> @dataclass
    ... class Walk:
    ...     steps: int
    ...     rate: float = 0.1
    >>> replaced(Walk(3), {"rate": "2"})
    Walk(steps=3, rate=2.0)
    """
    kinds = {setting.name: setting.kind for setting in described(type(config))}
    for key in changes:
        if key not in kinds:
            raise unknown("setting", key, kinds)
    values = {key: read_text(kinds[key], value, key) for key, value in changes.items()}
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def plain(value: Any) -> Any:
    """A dataclass as plain JSON: mappings, lists, text, numbers. `read` reads it back.

    >>> @dataclass
    ... class Walk:
    ...     steps: tuple[int, ...]
    >>> plain(Walk((1, 2)))
    {'steps': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def accepted(kind: Any) -> str:
    """What a value of type `kind` is called, as errors say it.

    >>> accepted(int | None), accepted(tuple[str, ...]), accepted(Literal["l1", "l2", "none"])
    ('a whole number or null', 'a list, each of it text', 'l1, l2 or none')
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(accepted(one) for one in inner)
    if origin is Literal:
        *first, last = map(str, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is tuple and inner[-1] is Ellipsis:
        return f"a list, each of it {accepted(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)}: {', '.join(map(accepted, inner))}"
    if origin is dict:
        return f"a mapping of names, each to {accepted(inner[1])}"
    if dataclasses.is_dataclass(kind):
        names = ", ".join(field.name for field in dataclasses.fields(kind))
        return f"a mapping of the fields {names}"
    return _ACCEPTED.get(kind, getattr(kind, "__name__", str(kind)))


def require(name: str, value: Any, valid: bool, accepted: str) -> None:
    """Raise a `UserError` that names the setting and what it accepts, unless `valid`.

    >>> require("steps", 3, 3 >= 0, "0 or more")
    >>> require("steps", -1, -1 >= 0, "0 or more")
    Traceback (most recent call last):
    condense.errors.UserError: `steps` is -1: it must be 0 or more
    """
    if not valid:
        raise UserError(f"`{name}` is {value!r}: it must be {accepted}")


def at_least(least: float, config: Any, *names: str) -> None:
    """Raise a `UserError` unless these fields of `config` are `least` or more, or None.

    >>> @dataclass
    ... class Walk:
    ...     steps: int | None
    >>> at_least(1, Walk(None), "steps")
    >>> at_least(1, Walk(0), "steps")
    Traceback (most recent call last):
    condense.errors.UserError: `steps` is 0: it must be 1 or more
    """
    for name in names:
        value = getattr(config, name)
        require(name, value, value is None or value >= least, f"{least} or more")


def above(bound: float, config: Any, *names: str) -> None:
    """Raise a `UserError` unless these fields of `config` are above `bound`.

    >>> @dataclass
    ... class Walk:
    ...     rate: float
    >>> above(0, Walk(0.0), "rate")
    Traceback (most recent call last):
    condense.errors.UserError: `rate` is 0.0: it must be above 0
    """
    for name in names:
        require(name, getattr(config, name), getattr(config, name) > bound, f"above {bound}")


def check_literals(config: Any) -> None:
    """Raise a `UserError` unless each `Literal` field of a dataclass has one of its values.

    >>> @dataclass
    ... class Walk:
    ...     pace: Literal["slow", "fast"]
    >>> check_literals(Walk("steady"))
    Traceback (most recent call last):
    condense.errors.UserError: `pace` is 'steady': it must be slow or fast
    """
    for setting in described(type(config)):
        if get_origin(setting.kind) is Literal:
            read_value(setting.kind, getattr(config, setting.name), setting.name)


# ---- reading


def read_value(kind: Any, value: Any, name: str) -> Any:
    """One value of type `kind`, as JSON or TOML holds it.

    Raises a `UserError` that names it for anything else; `name` is its path, such as `recipe.lr`.

    >>> read_value(float, 3, "rate"), read_value(tuple[str, ...], ["a", "b"], "names")
    (3.0, ('a', 'b'))
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(inner, value, name, kind)
    if origin is Literal and value in inner and not isinstance(value, bool):
        return value
    if origin is tuple and isinstance(value, tuple | list):
        return _tuple(inner, value, name, kind)
    if origin is dict and isinstance(value, Mapping):
        return {key: read_value(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        if isinstance(value, kind):  # type: ignore[arg-type]
            return value
        if isinstance(value, Mapping):
            return _dataclass(kind, value, name)
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # neither NaN nor infinite, nor an integer beyond
            return float(value)
    elif kind is int and isinstance(value, int) and abs(value) > _LARGEST:
        raise UserError(f"`{name}` is too large: it must be at most {_LARGEST:,}")
    elif kind is Path and isinstance(value, str | Path):
        if str(value) and "\0" not in str(value):
            return Path(value)
    elif origin is None and isinstance(value, kind) and (kind is bool or type(value) is not bool):
        return value
    raise _refused(kind, value, name)


def _one_of(kinds: tuple[Any, ...], value: Any, name: str, union: Any) -> Any:
    """`value` as the first of several types that accepts it."""
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    for kind in others:
        try:
            return read_value(kind, value, name)
        except UserError:
            if len(others) == 1 and isinstance(value, Mapping | list | tuple):
                raise
    raise _refused(union, value, name)


def _tuple(kinds: tuple[Any, ...], values: Sequence[Any], name: str, whole: Any) -> tuple[Any, ...]:
    """`values` as a tuple of one type throughout, or of a type for each place."""
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise _refused(whole, values, name)
    return tuple(
        read_value(kind, value, f"{name}[{place}]")
        for place, (kind, value) in enumerate(zip(kinds, values, strict=True))
    )


def _dataclass(kind: Any, fields: Mapping[str, Any], name: str) -> Any:
    """The dataclass that a mapping describes."""
    settings, within = described(kind), f"{name}." if name else ""
    known = [setting.name for setting in settings]
    for key in fields:
        if key not in known:
            raise unknown(f"field of `{name}`" if name else "field", str(key), known)
    for setting in settings:
        if setting.name not in fields:
            raise UserError(
                f"`{within}{setting.name}` is missing: it must be {accepted(setting.kind)}"
            )
    return kind(
        **{
            setting.name: read_value(setting.kind, fields[setting.name], within + setting.name)
            for setting in settings
        }
    )


def _refused(kind: Any, value: Any, name: str) -> UserError:
    subject = f"`{name}` is" if name else "found"
    return UserError(f"{subject} {reprlib.repr(value)}: it must be {accepted(kind)}")


# ---- describing


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _docs(kind: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and those it stands on, each in one line."""
    docs: dict[str, str] = {}
    for one in reversed([base for base in kind.__mro__ if dataclasses.is_dataclass(base)]):
        try:
            source = textwrap.dedent(inspect.getsource(one))
        except (OSError, TypeError):  # a class that no file holds has no docstrings to find
            continue
        (definition,) = ast.parse(source).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(doc))),
                ):
                    docs[name] = " ".join(doc.split())
    return docs
