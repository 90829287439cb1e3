"""The options of the benchmarks: what each is asked for is a dataclass, its fields the flags."""

from typing import Any, Literal

import click

from condense.errors import UserError
from condense.options import Command, Heading, Part
from condense.study.workers import Workers

Clock = Literal["wall", "cpu"]
"""`cpu` is what this process had of the processor: for a machine that others use as well."""


class Benchmark(Command):
    """A command that is called with `asked`: an instance of the dataclass that is given here.

    Bad input is one line, exit code 2.
    """

    def __init__(
        self, *arguments: Any, asked: type, parts: dict[str, Part] | None = None, **attributes: Any
    ) -> None:
        own = {"asked": Part(kind=asked, heading=Heading.WHAT)}
        super().__init__(*arguments, parts=own | (parts or {}), **attributes)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.UsageError(str(error)) from None


class StudyCommand(Benchmark):
    """A benchmark with the options of `Workers`, as its argument `workers`, and with `minutes`.

    The arguments are the defaults of --workers and --minutes.
    """

    def __init__(
        self,
        *arguments: Any,
        workers: int | None = 0,
        minutes: float | None = None,
        **attributes: Any,
    ) -> None:
        part = Part(kind=Workers, heading=Heading.WHERE, defaults={"workers": workers})
        super().__init__(*arguments, parts={"workers": part}, **attributes)
        option: Any = click.Option(
            ["--minutes"],
            type=float,
            default=minutes,
            show_default=True,
            help="Stop after that long; the same command goes on.",
        )
        option.heading = Heading.WHERE
        self.params.append(option)
