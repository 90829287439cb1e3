"""The commands that make, measure and look at condensed sets: parse, call, print; no logic.

What a command computes it imports when it runs, so that listing the commands imports no torch.
"""

from condense.command.doctor import doctor
from condense.command.make import condense, experts, pool
from condense.command.measure import evaluate
from condense.command.sets import export_command, import_command, select, sets, show
from condense.command.tell import data, recipes
from condense.command.watch import watch

COMMANDS = (
    condense,
    pool,
    experts,
    evaluate,
    select,
    sets,
    show,
    watch,
    export_command,
    import_command,
    data,
    recipes,
    doctor,
)
"""All commands of this package, in the order in which one uses them."""

__all__ = ["COMMANDS"]
