"""What sets, evaluations, streams and rankings came out as when `data/equality.json` was written.

A change of the code's form must not change a number. Where the tests run as they were recorded
(the same version of torch, the same CPU capability, one thread), every bit must be the recorded
one. Elsewhere other kernels round otherwise, and what is measured must agree within tolerances.

Only the command line, the names that `condense` and `continual` export, and files that commands
write are used here, so that modules can move. Everything is measured in a process of its own, with
one thread: this file, run as a script, measures one part and prints it,

    python tests/test_equality.py sets

and writes the record anew, where numbers are meant to change:

    python tests/test_equality.py --write
"""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "data" / "equality.json"
SHOWN = 12
"""Values of a tensor that are kept, at fixed places all over it."""

# ---- elsewhere than where the record was written
CLOSE = {"rel": 1e-3, "abs": 1e-4}
"""Of pixels, labels, losses, free scores. AVX-512 and plain kernels differed by 5e-6 in pixels and
labels, and by 2.4e-4 of the largest gradient norm; no accuracy differed."""
GRASP = {"rel": 1e-2, "abs": 0.0}
"""GraSP multiplies by the Hessian: two processors that gave all else alike gave 4348 and 4359."""
ACCURACY = {"rel": 0.0, "abs": 0.03}
"""Of an accuracy: 10 of the 362 test images, 2 of those of two classes, 1 of 50 held out."""
UNSTEADY = ("jacob_cov", " + ", "rank")
"""Columns of a ranking that jump: near-singular matrices, and ranks of scores that may be ties."""

# ---- what is measured
SMALL = {"network": "convnet-d2-w8", "real_batch": 8, "steps": 4}
POOL = {"pool": 1, "pool_steps": 3}
LOOPS = {"outer_loops": 2, "inner_loops": 2}
RECIPES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "paper": ("paper", None, {}),
    "paper, zca and herding": ("paper", None, {"preprocess": "zca", "init": "herding"}),
    "official-code": ("official-code", None, {"network": "convnet-d2-w8-batch"}),
    "best": ("best", None, POOL),
    "best, soft labels": ("best", None, {**POOL, "soft_labels": True}),
    "dm": ("dm", None, {}),
    "mmd": ("mmd", None, {}),
    "cafe": ("cafe", None, {}),
    "kip": ("kip", None, {}),
    "kip, learned labels": ("kip", None, {"learn_labels": True}),
    "ld": ("ld", None, {}),
    "dd": ("dd", None, {}),
    "vae": ("vae", None, {}),
    "gmmn": ("gmmn", None, {}),
    "cgan": ("cgan", None, {}),
    "dc": ("dc", None, LOOPS),
    "dsa": ("dsa", None, LOOPS),
    "method dc under paper": ("paper", "dc", LOOPS),
}
"""By name: the recipe, the method put under it, and what is changed of both beside `SMALL`."""
MEMORY = "datadam:loss_scale=100,real_batch=8,network=convnet-d2-w8"
STREAM = {"ipc": 2, "repeats": 2, "network": "convnet-d2-w8", "condense_steps": 3, "device": "cpu"}
SEARCH = "--dataset digits --held-out 50 --sample 4 --epochs 2 --workers 0 --threads 1 --device cpu"
SPACES = {
    "nasbench201": "--seeds 2 --proxy random:2 --set cells=1 --set width=4",
    "convnet720": "--seeds 1 --proxy random:1 --set augment=none --resolution 16",
}


def sets() -> dict[str, Any]:
    """Every recipe's set by the library, and one of them by the command line."""
    from condense import CondensedSet, load_dataset

    digits = load_dataset("digits")
    told = {name: _told(_condensed(digits, name)) for name in RECIPES}
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"--set={key}={value}" for key, value in {**SMALL, **POOL}.items()]
        where = ["--dataset", "digits", "--ipc", "2", "--device", "cpu", "--out", f"{folder}/set"]
        _command("condense", "--recipe", "best", *settings, *where)
        told["best, by the command line"] = _told(CondensedSet.load(f"{folder}/set"))
    return told


def evaluations() -> dict[str, Any]:
    """The accuracies of two networks trained on two sets of one kind."""
    from condense import Protocol, evaluate, load_dataset

    digits = load_dataset("digits")
    two = [_condensed(digits, "paper", seed) for seed in (0, 1)]
    protocol = Protocol(epochs=40, batch=8, augment="color_crop")
    networks = ["convnet-d2-w8", "mlp"]
    found = evaluate(two, digits, networks, repeats=3, protocol=protocol, device="cpu")
    return {name: list(score.accuracies) for name, score in found.items()}


def scratch() -> dict[str, Any]:
    """A stream on which networks are trained from scratch at each step."""
    return _streamed(methods=("random", MEMORY), steps=5, orders=2, epochs=20, batch=8)


def replay() -> dict[str, Any]:
    """A stream that a strategy of Avalanche goes through."""
    methods = ("class-balanced", MEMORY)
    few = {"steps": 2, "orders": 1, "epochs": 1, "batch": 64}
    return _streamed(methods=methods, mode="replay", strategy="er-ace", **few)


def rankings() -> dict[str, Any]:
    """The lines of `ranking.csv` of a search in each space."""
    found = {}
    for space, flags in SPACES.items():
        with tempfile.TemporaryDirectory() as folder:
            flags = f"--space {space} {SEARCH} {flags} --out {folder}/search"
            _command("nas", *flags.split())
            found[space] = Path(folder, "search", "ranking.csv").read_text().splitlines()
    return found


PARTS = {part.__name__: part for part in (sets, evaluations, scratch, replay, rankings)}


# ---- how it is measured


def _condensed(digits: Any, name: str, seed: int = 0) -> Any:
    """The set of two images a class that an entry of `RECIPES` makes."""
    from condense import condense, resolve

    recipe, method, changes = RECIPES[name]
    chosen = resolve(recipe, digits.name, digits.shape, 2, method=method)
    chosen = chosen.override({**SMALL, **changes})
    return condense(digits, ipc=2, recipe=chosen, seed=seed, device="cpu", quiet=True)


def _told(condensed: Any) -> dict[str, Any]:
    """A set in few numbers, and its fingerprint."""
    images, labels = condensed.images, condensed.labels
    return {
        "fingerprint": condensed.fingerprint,
        "shape": list(images.shape),
        "mean": images.mean().item(),
        "std": images.std().item(),
        "pixels": _values(images),
        "labels": _values(labels),
    }


def _values(tensor: Any) -> list[float]:
    """Values at fixed places of a tensor: so far apart that they meet all rows and columns."""
    flat = tensor.flatten().tolist()
    return [flat[(27 + 101 * place) % len(flat)] for place in range(SHOWN)]


def _streamed(**settings: Any) -> dict[str, Any]:
    """Every statistic of a run of `continual`, by method."""
    from condense import load_dataset
    from continual import Plan, run

    plan = Plan(**STREAM, **settings)
    with tempfile.TemporaryDirectory() as folder:
        return run(load_dataset("digits"), plan, Path(folder) / "run", quiet=True).to_json()


def _command(*arguments: str) -> None:
    """One command of the command line, in this process; what it prints is left out."""
    import cli

    argv, sys.argv = sys.argv, ["cli.py", *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main()
    finally:
        sys.argv = argv


def _environment() -> dict[str, Any]:
    """What rounding depends on."""
    import torch

    from benchmarks.results import processor

    cpu = f"{torch.backends.cpu.get_cpu_capability()} {processor()}"
    return {"torch": torch.__version__, "cpu": cpu, "threads": torch.get_num_threads()}


def measured(part: str) -> dict[str, Any]:
    """A part, measured with the code of this checkout by a process with one thread."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, __file__, part],
        cwd=ROOT, env={**os.environ, **single}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def measure(part: str) -> dict[str, Any]:
    """What `measured` is told by its process."""
    import torch

    torch.set_num_threads(1)
    found = PARTS[part]()
    home = Path(sys.modules["condense"].__file__ or "")
    assert home.is_relative_to(ROOT), f"what was measured is not this code but {home}"
    return {"environment": _environment(), part: found}


def write() -> None:
    """Record every part as it comes out now."""
    document: dict[str, Any] = {}
    for part in PARTS:
        document |= measured(part)
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(document, indent=1) + "\n")


# ---- the tests


def compare(part: str) -> tuple[Any, Any, bool]:
    """A part as measured now and as recorded, and whether every bit has to be the same."""
    record, now = json.loads(RECORD.read_text()), measured(part)
    return now[part], record[part], now["environment"] == record["environment"]


def leaves(document: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a JSON document holds, by its path: in the form that `pytest.approx` compares."""
    if isinstance(document, dict | list):
        inner = document.items() if isinstance(document, dict) else enumerate(document)
        for key, value in inner:
            yield from leaves(value, f"{name}/{key}")
    else:
        yield name, document


def table(lines: list[str]) -> dict[str, dict[str, float]]:
    """The numbers of a ranking by architecture, without the columns that are `UNSTEADY`."""
    rows: dict[str, dict[str, float]] = {}
    for row in csv.DictReader(lines):
        key = f"{row.pop('index')} {row.pop('arch')}"
        steady = [name for name in row if not any(mark in name for mark in UNSTEADY)]
        rows[key] = {name: float(row[name]) for name in steady}
    return rows


def assert_near(found: Any, expected: Any) -> None:
    """Accuracies agree to within `ACCURACY`, others are `CLOSE`, GraSP less so."""
    ours, theirs = dict(leaves(found)), dict(leaves(expected))
    assert ours.keys() == theirs.keys()
    for ending, tolerance in ((" accuracy", ACCURACY), ("grasp", GRASP), ("", CLOSE)):
        names = {name for name in theirs if name.endswith(ending)}
        wanted = {name: theirs.pop(name) for name in names}
        assert {name: ours[name] for name in names} == pytest.approx(wanted, **tolerance)


def assert_accuracies(found: Any, expected: Any) -> None:
    """Two documents of nothing but accuracies agree to within `ACCURACY`."""
    assert dict(leaves(found)) == pytest.approx(dict(leaves(expected)), **ACCURACY)


def assert_streams(part: str) -> None:
    """All statistics are equal; elsewhere every accuracy, which they are made of, agrees.

    Those that came after the record are not in it.
    """
    found, expected, same = compare(part)
    if same:
        assert found.keys() == expected.keys()
        for method, recorded in expected.items():
            assert {name: found[method][name] for name in recorded} == recorded
    else:
        assert_accuracies(*map(accuracies, (found, expected)))


def accuracies(streams: dict[str, Any]) -> dict[str, Any]:
    """The accuracy on the classes seen, by method, step, order and repeat."""
    return {name: [step["values"] for step in told["steps"]] for name, told in streams.items()}


def test_every_recipe_makes_the_set_it_made() -> None:
    found, expected, same = compare("sets")
    assert found["best, by the command line"] == found["best"]
    if same:
        assert found == expected
        return
    for told in (*found.values(), *expected.values()):
        del told["fingerprint"]
    assert_near(found, expected)


def test_networks_trained_on_sets_are_as_accurate_as_they_were() -> None:
    found, expected, same = compare("evaluations")
    if same:
        assert found == expected
    else:
        assert_accuracies(found, expected)


def test_a_stream_from_scratch_gives_the_accuracies_it_gave() -> None:
    assert_streams("scratch")


def test_a_stream_with_replay_gives_the_accuracies_it_gave() -> None:
    assert_streams("replay")


def test_a_search_in_each_space_ranks_as_it_ranked() -> None:
    found, expected, same = compare("rankings")
    if same:
        assert found == expected
        return
    for space, lines in expected.items():
        assert_near(table(found[space]), table(lines))


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        (chosen,) = sys.argv[1:]
        print(json.dumps(measure(chosen)))
