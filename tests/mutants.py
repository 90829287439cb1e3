"""Mutation testing: change one small thing in a file, and see whether its tests notice.

    python tests/mutants.py SAMPLE FILE TESTS...

tries SAMPLE of the possible changes, drawn with seed 0, and prints those that no test noticed. Each
is tried in a forked process in which the libraries are already loaded, on a copy of the checkout.
"""

import ast
import copy
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
        case ast.BinOp() | ast.BoolOp() if type(node.op) in _SWAPPED:
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
    """Every change of a tree: the parent, its field, the place in a list, and the new child."""
    found: list[tuple[ast.AST, str, int | None, ast.AST]] = []
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
            for place, child in children:
                if isinstance(child, ast.AST):
                    found += [(parent, field, place, new) for new in changes(child)]
    return found


def changed(source: str, number: int) -> tuple[str, str]:
    """The source with change `number`, and a line that shows the change."""
    tree = ast.parse(source)
    parent, field, place, new = places(tree)[number]
    value = getattr(parent, field)
    old = value if place is None else value[place]
    shown = f"line {old.lineno}: {_short(old)}  ->  {_short(new)}"
    if place is None:
        setattr(parent, field, new)
    else:
        value[place] = new
    return ast.unparse(ast.fix_missing_locations(tree)), shown


def _short(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0]


def run_tests(tests: list[str], seconds: float, told: Path | None = None) -> tuple[int, float]:
    """Run tests in a forked process; returns how it ended, and its seconds of a processor.

    Into `told` the names of the libraries are written that the tests have loaded.
    """
    child = os.fork()
    if not child:
        _run(tests, int(seconds), told)
    status, used = os.wait4(child, 0)[1:]
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def _run(tests: list[str], seconds: int, told: Path | None) -> None:
    code = 1
    try:
        import pytest

        null = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(null, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        options = ["-x", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist"]
        code = int(pytest.main([*options, *tests]))
        if told is not None:
            told.write_text("\n".join(name for name in sys.modules if not name.startswith(OURS)))
    finally:
        os._exit(code)


def main(sample: int, name: str, tests: list[str]) -> None:
    """Try changes of a file, and print those that its tests do not notice."""
    sys.dont_write_bytecode = True
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    source = (ROOT / name).read_text()
    count = len(places(ast.parse(source)))
    chosen = sorted(random.Random(0).sample(range(count), min(sample, count)))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "copy")
        hidden = shutil.ignore_patterns(".*", "results", "__pycache__")
        shutil.copytree(ROOT, home, ignore=hidden)
        os.chdir(home)
        sys.path[:0] = [str(home)]
        libraries = Path(folder, "libraries")
        code, seconds = run_tests(tests, 3600, libraries)
        assert code == 0, f"the tests fail without any change: {code}"
        for library in libraries.read_text().splitlines():
            with suppress(Exception):
                importlib.import_module(library)
        code, seconds = run_tests(tests, 3600)
        assert code == 0, f"the tests fail where the libraries are loaded before: {code}"
        survived = []
        for number in chosen:
            text, shown = changed(source, number)
            (home / name).write_text(text)
            code, _ = run_tests(tests, 10 + MORE * seconds)
            survived += [shown] if code == 0 else []
            print("survived" if code == 0 else "killed", shown, flush=True)
    share = 100 * (len(chosen) - len(survived)) / len(chosen)
    print(f"{name}: {count} possible changes, {len(chosen)} tried, {share:.0f} % killed")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
