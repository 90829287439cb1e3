"""The options of every benchmark that is a study: what its tasks run on, and for how long."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from condense.errors import UserError
from condense.options import Decorator, options
from condense.study.workers import Workers


def worker_options(workers: int | None = 0, minutes: float | None = None) -> Decorator:
    """--device, --workers, --threads and --cluster, which reach the command as one `Workers`.

    And --minutes. Bad input, a `UserError`, is one line and exit code 2. The arguments are the
    defaults.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(
            *,
            device: str,
            workers: int | None,
            threads: int | None,
            cluster: str | None,
            **others: Any,
        ) -> None:
            try:
                chosen = Workers(device=device, workers=workers, threads=threads, cluster=cluster)
                command(workers=chosen, **others)
            except UserError as error:
                raise click.UsageError(str(error)) from None

        return _added(workers, minutes)(run)

    return decorate


def _added(workers: int | None, minutes: float | None) -> Decorator:
    one_a_core = "  [default: one a core, eight on a GPU]" if workers is None else ""
    return options(
        click.option("--device", default="auto", show_default=True),
        click.option(
            "--workers",
            type=int,
            default=workers,
            show_default=True,
            help=f"Processes that work at once; 0 for none but this.{one_a_core}",
        ),
        click.option(
            "--threads", type=int, help="Threads of each on a CPU.  [default: the cores shared out]"
        ),
        click.option(
            "--cluster",
            help="Work on Ray instead: ray://HOST:PORT, auto (this machine's) or local.",
        ),
        click.option(
            "--minutes",
            type=float,
            default=minutes,
            show_default=True,
            help="Stop after that long; the same command goes on.",
        ),
    )
