"""The command lines that make a set again."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condense.data.catalogue import Source
from condense.methods.recipes import recipe_for
from condense.runs.job import Job
from condense.sets.condensed import CondensedSet


def condense_command(job: Job, shape: tuple[int, int, int], out: Path, steps: int) -> str:
    """The command that makes the set of a run again, of the same steps, into `out`.

    `shape` is that of the images, (channels, height, width). The set is the same to the last bit on
    the same machine with as many threads. A transform that Python code has given is not in it.

    >>> from condense import recipe_for
    >>> recipe = recipe_for("dm", "digits", (1, 8, 8), 2).override({"real_batch": 16})
    >>> job = Job(
    ...     source=Source(name="digits"), fingerprint="0123", ipc=2, seed=0, recipe=recipe,
    ...     device="cpu", chunk=None, checkpoint_every=200,
    ... )
    >>> print(condense_command(job, (1, 8, 8), Path("again"), 500))
    condensekit condense --dataset digits --ipc 2 --seed 0 --recipe dm --steps 500
      --set real_batch=16 --device cpu --out again
    """
    recipe = job.recipe
    options: dict[str, Any] = {"ipc": job.ipc, "seed": job.seed, "recipe": recipe.name}
    base = recipe_for(recipe.name, job.source.name, shape, job.ipc)
    if base.method.name != recipe.method.name:
        options["method"] = recipe.method.name
        base = recipe_for(recipe.name, job.source.name, shape, job.ipc, method=recipe.method.name)
    options["steps"] = steps
    options["set"] = [
        f"{name}={value}"
        for config, usual in ((recipe, base), (recipe.method, base.method))
        for name, value in _changes(config, usual).items()
    ]
    options |= {"device": job.device, "chunk": job.chunk, "pools": job.pools}
    options["storage"] = None if job.storage == "float32" else job.storage
    return command("condense", job.source, options, out)


def select_command(source: Source, condensed: CondensedSet, out: Path) -> str:
    """The command that selects the images of a set again, by its provenance.

    >>> from condense.data.preprocess import make_preprocess
    >>> from condense.methods.selection import select
    >>> source = Source(name="digits")
    >>> digits = source.load()
    >>> few = select("random", digits, 2, preprocess=make_preprocess("zca", digits), seed=0)
    >>> print(select_command(source, few, Path("again")))
    condensekit select --dataset digits --method random --ipc 2 --seed 0 --preprocess zca
      --out again
    """
    options = {name: condensed.provenance[name] for name in ("method", "ipc", "seed")}
    return command("select", source, options | {"preprocess": condensed.preprocess.name}, out)


def command(name: str, source: Source, options: Mapping[str, Any], out: Path) -> str:
    """A command line of this tool; an option of several values is given several times.

    >>> command("nas", Source(name="digits"), {"proxy": ("random", "whole")}, Path("run"))
    'condensekit nas --dataset digits --proxy random --proxy whole --out run'
    """
    given: dict[str, Any] = {"dataset": source.name, "data-dir": source.data_dir}
    given |= {"resolution": source.resolution, "hold-out": source.hold_out or None}
    given |= {**options, "out": str(out)}
    words = ["condensekit", *name.split()]
    for option, value in given.items():
        for one in value if isinstance(value, list | tuple) else [value]:
            words += [] if one is None else [f"--{option}", str(one)]
    return shlex.join(words)


def _changes(config: Any, usual: Any) -> dict[str, str]:
    """The fields that are not as usual, but for the steps, as text that reads back as they are."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
        if name not in ("name", "method", "steps") and value != getattr(usual, name)
    }
