"""`condensekit watch`: the curves of a run in a browser."""

import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import click

from condense.errors import UserError
from condense.options import PATH, Command, Heading, Part

_LOOPBACK = "127.0.0.1"
_SHOWN = "tensorboard/**/events.out.tfevents.*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where the curves are served.

    >>> Server().port is None
    True
    """

    port: int | None = None
    """Port on this machine; the first free one from 6006 on unless given."""


@click.command(cls=Command, parts={"server": Part(kind=Server, heading=Heading.OUTPUT)})
@click.argument("run", type=PATH)
def watch(run: Path, server: Server) -> None:
    """Show the loss curves and images of a run in TensorBoard, until Ctrl-C.

    RUN is a run folder, or a folder with several of them. The page is served to this machine only.
    """
    if not any(run.rglob(_SHOWN)):
        raise UserError(f"{run} has no curves (no `tensorboard` folder): name a run folder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own imports give warnings
        from tensorboard.program import TensorBoard, TensorBoardServerException
    board = TensorBoard()
    port = [] if server.port is None else ["--port", str(server.port)]
    board.configure(
        ["tensorboard", "--logdir", str(run), "--host", _LOOPBACK, *port, "--load_fast", "false"]
    )
    try:
        url = board.launch()
    except TensorBoardServerException as error:
        raise UserError(f"--port {server.port}: {error}") from None
    try:
        click.echo(f"{url} shows {run}; Ctrl-C ends it")
        threading.Event().wait()
    except KeyboardInterrupt:
        click.echo("ended", err=True)
