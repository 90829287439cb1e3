"""Options of commands out of dataclasses: the fields are the flags, their docstrings the help.

A command names the dataclasses that its options are fields of, and where the help shows them:

    @click.command(cls=Command, parts={"data": Part(kind=Data, heading=Heading.WHAT)})
    def describe(data: Data) -> None: ...

and is called with instances of them. A dataclass may be named as `module:Name`: it is then imported
when the command is used or asked for its help, so that listing the commands imports nothing heavy.
Every such command also has `--config`: a TOML file whose keys are its flags.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click
from click.core import ParameterSource

from condense.errors import UserError, unknown
from condense.reading import read_toml, usable_path
from condense.settings import Setting, described, read_value, within

Rows = list[tuple[str, str]]
"""Lines of the help: what stands on the left, what on the right."""
Details = Callable[[Mapping[str, Any]], dict[str, Rows]]
"""More sections of the help, by heading, that depend on the values of the other options."""


class PathType(click.ParamType):
    """A path that is given on the command line; it need not exist.

    >>> PATH("runs/digits")
    PosixPath('runs/digits')
    >>> PATH("")
    Traceback (most recent call last):
    condense.errors.UserError: an empty text is not a path: name a file or a folder
    """

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path. Raises `UserError` if there can be none."""
        with within(param.opts[0]) if isinstance(param, click.Option) else nullcontext():
            return usable_path(value)


PATH = PathType()
"""The type of every option and argument that is a path."""

_TYPES: dict[Any, click.ParamType] = {
    bool: click.BOOL,
    float: click.FLOAT,
    int: click.INT,
    Path: PATH,
    str: click.STRING,
}


class Heading(StrEnum):
    """The sections of the help, in their order.

    >>> [*Heading][0].value
    'What'
    """

    WHAT = "What"
    HOW_MUCH = "How much"
    MATCHED = "How it is matched"
    TRAINED = "How networks are trained"
    JUDGED = "How it is judged"
    WHERE = "Where it runs"
    OUTPUT = "Output"
    OTHER = "Other"
    """What is no field: `--config` and `--help`."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dataclass whose fields are options of a command: one argument of the command's function.

    >>> @dataclass(frozen=True)
    ... class Walk:
    ...     step_count: int = 3
    >>> part = Part(kind=Walk, heading=Heading.WHAT)
    >>> [option.opts for option in part.options()]
    [['--step-count']]
    >>> part.gathered({"step_count": 5})
    Walk(step_count=5)
    """

    kind: type | str
    """The dataclass, or `module:Name` to import it late."""
    heading: Heading
    """The section of the help that its options stand in."""
    elsewhere: Mapping[str, Heading] = field(default_factory=dict)
    """The headings of the fields that stand in other sections."""
    leave: tuple[str, ...] = ()
    """Fields that are no options here."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults that this command has in place of the dataclass's."""
    changes: bool = False
    """Whether the command gets only what the user gave, as a dict, to change another instance."""

    def options(self) -> list["SettingOption"]:
        """The options, in the order of the fields."""
        return [self._option(setting) for setting in self._settings()]

    def gathered(self, values: Mapping[str, Any]) -> Any:
        """The dataclass made of `values`, those of all options by name; a dict for `changes`."""
        own = {
            setting.name: read_value(setting.kind, value, f"--{setting.name.replace('_', '-')}")
            for setting in self._settings()
            if (value := values[setting.name]) is not None or not self.changes
        }
        return own if self.changes else self._resolved()(**own)

    def _settings(self) -> list[Setting]:
        return [one for one in described(self._resolved()) if one.name not in self.leave]

    def _resolved(self) -> type:
        return resolve_name(self.kind) if isinstance(self.kind, str) else self.kind

    def _option(self, setting: Setting) -> "SettingOption":
        default = self.defaults.get(setting.name, setting.default)
        return SettingOption(
            setting,
            heading=self.elsewhere.get(setting.name, self.heading),
            default=None if self.changes else default,
        )


class SettingOption(click.Option):
    """An option made of a field of a dataclass.

    >>> setting = Setting("step_count", int, 3, "How often.")
    >>> option = SettingOption(setting, heading=Heading.WHAT, default=3)
    >>> option.opts, option.help
    (['--step-count'], 'How often.')
    """

    def __init__(self, setting: Setting, *, heading: Heading, default: Any) -> None:
        flag = f"--{setting.name.replace('_', '-')}"
        kind, several = _single(setting.kind)
        optional_flag = kind is bool and default is not False
        given = {"required": True} if default is MISSING else {"default": default}
        super().__init__(
            [f"{flag}/--no-{flag[2:]}" if optional_flag else flag, setting.name],
            type=click.Choice(get_args(kind)) if get_origin(kind) is Literal else _TYPES[kind],
            is_flag=True if kind is bool else None,
            multiple=several,
            show_default=True,
            help=without_backticks(setting.doc),
            **given,
        )
        self.kind, self.heading = setting.kind, heading


class _Parted(click.Command):
    """What a command and a group of commands share: options of parts, help in sections."""

    def __init__(
        self,
        *arguments: Any,
        parts: Mapping[str, Part] | None = None,
        details: Details | None = None,
        **attributes: Any,
    ) -> None:
        # Said of each command, since click keeps the help option that it made first.
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*arguments, **attributes)
        self._parts, self._details = dict(parts or {}), details

    @cached_property
    def settings(self) -> list[SettingOption]:
        """The options that are made of fields."""
        return [option for part in self._parts.values() for option in part.options()]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All parameters: the fields', the function's own, `--config` and `--help`."""
        *own, helping = super().get_params(ctx)
        return [*self.settings, *own, *([_CONFIG] if self._parts else []), helping]

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the parts in place of the single values."""
        fields = {option.name for option in self.settings}
        rest = {name: value for name, value in ctx.params.items() if name not in fields}
        parts = {name: part.gathered(ctx.params) for name, part in self._parts.items()}
        ctx.params = rest | parts
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as usual; what was given is kept for the help, which may depend on it."""
        ctx.meta[__name__] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in sections, and the details that depend on what was given."""
        sections: dict[str, Rows] = {heading.value: [] for heading in Heading}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                sections[getattr(parameter, "heading", Heading.OTHER)].append(record)
        other = {Heading.OTHER.value: sections.pop(Heading.OTHER)}
        if self._details:
            given = self.make_parser(ctx).parse_args(list(ctx.meta.get(__name__, [])))[0]
            sections |= self._details({**(ctx.default_map or {}), **given})
        for heading, rows in (sections | other).items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class Command(_Parted):
    """A command whose options are fields of dataclasses: see the top of the module.

    >>> @dataclass(frozen=True)
    ... class Walk:
    ...     steps: int = 3
    >>> @click.command(cls=Command, parts={"walk": Part(kind=Walk, heading=Heading.WHAT)})
    ... def go(walk):
    ...     click.echo(walk)
    >>> go(["--steps", "5"], standalone_mode=False)
    Walk(steps=5)
    """


class Group(_Parted, click.Group):
    """A command with options of its own and further commands below it.

    >>> @click.group(cls=Group, parts={})
    ... def walks(): ...
    >>> @walks.command("go")
    ... def go():
    ...     click.echo("gone")
    >>> walks(["go"], standalone_mode=False)
    gone
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is named. Raises `UserError` for one that there is not."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in sections, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def setting_rows(settings: Iterable[Setting]) -> Rows:
    """Lines of the help for settings that are given as `--set KEY=VALUE`, with their defaults.

    >>> setting_rows([Setting("step_count", int, 3, "How `often`.")])
    [('step_count=INTEGER', 'How often.  [default: 3]')]
    """
    rows = []
    for setting in settings:
        kind, _ = _single(setting.kind)
        names = get_args(kind) if get_origin(kind) is Literal else [_TYPES[kind].name.upper()]
        default = "" if setting.default is None else f"  [default: {setting.default}]"
        rows.append((f"{setting.name}={'|'.join(names)}", without_backticks(setting.doc) + default))
    return rows


def without_backticks(doc: str) -> str:
    """A docstring for a terminal: single words lose their backticks, commands keep theirs.

    >>> without_backticks("`cpu` or `cuda`; see `data --list`")
    'cpu or cuda; see `data --list`'
    """
    return re.sub(r"`+([^`\s]+)`+", r"\1", doc)


def given(context: click.Context) -> dict[str, str]:
    """The options that the user wrote on the command line: flags by name.

    >>> command = click.Command("demo", params=[SettingOption(
    ...     Setting("ipc", int, 10, "Images per class."), heading=Heading.WHAT, default=10)])
    >>> given(command.make_context("demo", ["--ipc", "3"])), given(command.make_context("demo", []))
    ({'ipc': '--ipc'}, {})
    """
    return {
        str(param.name): param.opts[0]
        for param in context.command.get_params(context)
        if isinstance(param, SettingOption)
        and context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE
    }


def check_resumed(context: click.Context, work: str, may_change: Collection[str]) -> None:
    """Raise a `UserError` if a command that resumes work was given options that it does not take.

    `work` is what the command calls it, and `may_change` names the options that it takes.

    >>> command = click.Command("demo", params=[SettingOption(
    ...     Setting("ipc", int, 10, "Images per class."), heading=Heading.WHAT, default=10)])
    >>> check_resumed(command.make_context("demo", ["--ipc", "3"]), "run", {"resume"})
    Traceback (most recent call last):
    condense.errors.UserError: --ipc cannot change in a run that is under way: leave it out or ...
    """
    if fixed := sorted(flag for name, flag in given(context).items() if name not in may_change):
        raise UserError(
            f"{', '.join(fixed)} cannot change in a {work} that is under way: "
            "leave it out or start another"
        )


def _single(kind: Any) -> tuple[Any, bool]:
    """The type of a single value of a field, and whether the field is a tuple of them."""
    if NoneType in get_args(kind):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
    if get_origin(kind) is tuple:
        return get_args(kind)[0], True
    return kind, False


def _read_config(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Take defaults of a command from a TOML file: its keys are the flags, with `-` or `_`."""
    if path is None:
        return
    given = read_toml(path)
    options = {
        option.opts[0].lstrip("-"): option
        for option in ctx.command.get_params(ctx)
        if isinstance(option, SettingOption)
    }
    defaults = {}
    for key, value in given.items():
        if (flag := key.replace("_", "-")) not in options:
            raise unknown(f"key in {path}", key, sorted(options))
        if options[flag].name in defaults:
            raise UserError(f"{path}: `{flag}` occurs twice")
        with within(str(path)):
            defaults[str(options[flag].name)] = read_value(options[flag].kind, value, key)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


_CONFIG = click.Option(
    ["--config"],
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    type=PATH,
    help="TOML file with any of these flags.",
)
