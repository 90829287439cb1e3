"""The command line: `condensekit --help`, or `python cli.py --help` in a checkout."""

import sys

import click

from condense.command import COMMANDS
from condense.errors import UserError
from condense.threads import wait_passively
from continual.command import continual
from nas.command import nas


def main() -> None:
    """Run the command line; bad input is one line and exit code 2, an interrupt 130."""
    wait_passively()  # before a command imports torch
    from condense.study.interrupt import Interrupted

    try:
        cli.main(standalone_mode=False)
    except UserError as error:
        _fail(str(error), 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except Interrupted as stopped:
        _fail(str(stopped), 130)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}" if code == 2 else message, err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Distil an image dataset into a few synthetic images per class, and put them to work.

    \b
    Start here:
      condensekit condense --dataset digits --ipc 5 --minutes 1 --out runs/digits
      condensekit evaluate runs/digits --repeats 5 --epochs 300
      condensekit show runs/digits
    """


for command in (*COMMANDS, continual, nas):
    cli.add_command(command)


if __name__ == "__main__":
    main()
