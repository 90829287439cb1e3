"""Mutation testing: change one small thing in the code, and see whether its tests notice.

    python tests/mutants.py SAMPLE [GROUP or FILE...]

tries SAMPLE of the possible changes of each group of files in `mutants.toml`, drawn with seed 0,
and prints those that no test noticed. Each is tried in a forked process in which the libraries are
already loaded, on a copy of the checkout. Mutmut does not change what stands outside of functions
or in decorated ones, and Cosmic Ray loads PyTorch anew for every change; hence this script.
"""

import ast
import compileall
import copy
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXAMPLES = "tests/test_doctests.py::test_the_examples_in_the_docstrings_run"
OURS = ("cli", "condense", "continual", "nas", "benchmarks", "tests", "conftest", "test_")
MORE = 5
"""How much longer than the unchanged file a changed one may take, before it counts as noticed."""
_SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_NAMES = ("sum mean", "min max", "argmin argmax", "sin cos", "zeros ones", "abs square", "any all")
_RENAMED = {a: b for pair in map(str.split, _NAMES) for a, b in (pair, pair[::-1])}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node: one small change each."""
    changed = copy.copy(node)
    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() if type(node.op) in _SWAPPED:
            changed.op = _SWAPPED[type(node.op)]()
            yield changed
        case ast.Compare() if type(node.ops[0]) in _SWAPPED:
            changed.ops = [_SWAPPED[type(node.ops[0])](), *node.ops[1:]]
            yield changed
        case ast.UnaryOp(op=ast.USub() | ast.Not()):
            yield node.operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Attribute() if node.attr in _RENAMED:
            changed.attr = _RENAMED[node.attr]
            yield changed
        case ast.IfExp() | ast.If():
            changed.test = ast.UnaryOp(ast.Not(), node.test)
            yield changed


def places(tree: ast.AST) -> list[tuple[ast.AST, str, int | None, ast.AST]]:
    """Every change of a tree: the parent, its field, the place in a list, and the new child.

    Annotations stay: a change in one would be noticed when the file is imported.
    """
    found: list[tuple[ast.AST, str, int | None, ast.AST]] = []
    parents = [tree]
    for parent in parents:  # which grows
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for place, child in children:
                if isinstance(child, ast.AST):
                    found += [(parent, field, place, new) for new in changes(child)]
                    parents.append(child)
    return found


def changed(source: str, number: int) -> tuple[str, str, int]:
    """The source with change `number`, what the change is, and its line.

    It is named by the function that it is in and by what is around it before and after:
    `Part.cut: size >= len(self.rows) -> size > len(self.rows)`.
    """
    tree = ast.parse(source)
    parent, field, place, new = places(tree)[number]
    value = getattr(parent, field)
    old = value if place is None else value[place]
    within = [
        node.name
        for node in ast.walk(tree)  # from the outside to the inside
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and node.lineno <= old.lineno <= (node.end_lineno or 0)
    ]
    before = _short(old if isinstance(old, ast.stmt) else parent)
    if place is None:
        setattr(parent, field, new)
    else:
        value[place] = new
    after = _short(new if isinstance(new, ast.stmt) else parent)
    text = ast.unparse(ast.fix_missing_locations(tree))
    return text, f"{'.'.join(within)}: {before} -> {after}", old.lineno


def _short(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def run_tests(arguments: list[str], seconds: float, told: Path | None = None) -> tuple[int, float]:
    """Run pytest in a forked process; returns how it ended, and its seconds of a processor.

    Into `told` the names of the libraries are written that the tests have loaded.
    """
    child = os.fork()
    if not child:
        _run(arguments, int(seconds), told)
    status, used = os.wait4(child, 0)[1:]
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def _run(arguments: list[str], seconds: int, told: Path | None) -> None:
    code = 1
    try:
        import pytest

        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        options = ["-x", "--assert=plain", "--hypothesis-seed=0", "-p", "no:cacheprovider"]
        code = int(pytest.main([*options, "-p", "no:xdist", "-m", "not slow", *arguments]))
        if told is not None:
            told.write_text("\n".join(name for name in sys.modules if not name.startswith(OURS)))
    finally:
        os._exit(code)


class Checkout:
    """A copy of the checkout in which one file after the other is changed and tested."""

    def __init__(self, folder: Path) -> None:
        self.home, self.libraries = folder / "copy", folder / "libraries"
        hidden = shutil.ignore_patterns(".*", "results", "__pycache__")
        shutil.copytree(ROOT, self.home, ignore=hidden)
        for package in ("condense", "continual", "nas"):
            compileall.compile_dir(self.home / package, quiet=2)
        os.chdir(self.home)
        sys.path[:0], os.environ["PYTHONPATH"] = [str(self.home)], str(self.home)
        self._seconds: dict[tuple[str, ...], float] = {}

    def survivors(self, name: str, tests: list[str], chosen: list[int]) -> list[str]:
        """The chosen changes of a file that neither its tests nor the examples in it notice."""
        source = (ROOT / name).read_text()
        examples = [f"{EXAMPLES}[{name.removesuffix('.py').replace('/', '.')}]"]
        limits = [(run, 10 + MORE * self._cost(run)) for run in (tests, examples)]
        print(f"{name}: {len(chosen)} changes", flush=True)
        survived = []
        for number in chosen:
            text, shown, line = changed(source, number)
            (self.home / name).write_text(text)
            alive = all(run_tests(run, limit)[0] == 0 for run, limit in limits)
            survived += [shown] if alive else []
            print("  survived" if alive else "  killed", f"line {line}", shown, flush=True)
        (self.home / name).write_text(source)
        return survived

    def _cost(self, tests: list[str]) -> float:
        """The seconds that tests take without a change. Their libraries are loaded here before."""
        if tuple(tests) not in self._seconds:
            run_tests(["--collect-only", *tests], 3600, self.libraries)
            for name in self.libraries.read_text().splitlines():
                with suppress(Exception):
                    importlib.import_module(name)
            code, self._seconds[tuple(tests)] = run_tests(tests, 3600)
            assert code == 0, f"{tests} fail without any change: {code}"
        return self._seconds[tuple(tests)]


def main(sample: int, wanted: list[str]) -> None:
    """Try changes of each group of files, and count those that the tests do not notice."""
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
    equivalent, told = table.pop("equivalent", {}), []
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(Path(folder))
        for group, parts in table.items():
            tests = {one: part["tests"] for part in parts for one in part["files"]}
            files = [one for one in tests if {group, one} & set(wanted) or not wanted]
            counts = {one: len(places(ast.parse((ROOT / one).read_text()))) for one in files}
            everything = [(one, number) for one in files for number in range(counts[one])]
            chosen = sorted(random.Random(0).sample(everything, min(sample, len(everything))))
            same = alive = 0
            for one in sorted({one for one, _ in chosen}):
                numbers = [number for other, number in chosen if other == one]
                left = checkout.survivors(one, tests[one], numbers)
                same += sum(shown in equivalent.get(one, {}) for shown in left)
                alive += sum(shown not in equivalent.get(one, {}) for shown in left)
            if tried := len(chosen) - same:
                told.append(
                    f"{group}: {len(everything)} possible changes, {len(chosen)} tried, {same} "
                    f"equivalent, {tried - alive} of {tried} killed ({1 - alive / tried:.0%})"
                )
                print(told[-1], flush=True)
    print("", *told, sep="\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
