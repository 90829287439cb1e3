"""The command line: `condensekit --help`, or `python cli.py --help` in a checkout."""

import click

from condense.command import COMMANDS
from condense.command.guard import run
from condense.command.look import report_command
from condense.options import Group
from condense.version import version as installed
from continual.command import continual
from nas.command import nas

REPORTS = {
    "run.json": "condense.runs.report:report_of",
    "plan.json": "continual.page:report_of",
    "search.json": "nas.results:report_of",
    "explore.json": "nas.incumbents:report_of",
}
"""What makes the report of a run folder, by the file that tells what kind of folder it is."""


def main() -> None:
    """Run the command line; `condense.command.guard` says how it ends."""
    run(cli)


@click.group(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Show the version and exit.")
@click.pass_context
def cli(context: click.Context, version: bool) -> None:
    """Distil an image dataset into a few synthetic images per class, and put them to work.

    \b
    Start here:
      condensekit condense --dataset digits --ipc 5 --minutes 1 --out runs/digits
      condensekit evaluate runs/digits --repeats 5 --epochs 300
      condensekit report runs/digits
    """
    if version:
        click.echo(f"condensekit {installed()}")
        context.exit()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for command in (*COMMANDS, report_command(REPORTS), continual, nas):
    cli.add_command(command)


if __name__ == "__main__":
    main()
