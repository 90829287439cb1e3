"""The options of every benchmark that is a study: what its tasks run on, and for how long."""

from typing import Any

import click

from condense.errors import UserError
from condense.options import Command, Heading, Part
from condense.study.workers import Workers


class StudyCommand(Command):
    """A command with the options of `Workers`, as its argument `workers`, and with `minutes`.

    The arguments are the defaults of --workers and --minutes. Bad input is one line, exit code 2.
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

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            raise click.UsageError(str(error)) from None
