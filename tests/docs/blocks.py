"""The commands and code blocks of the documents, run in order, each shortened to a moment.

Run as a program, it takes pages and runs their blocks with the `condensekit` of the environment
that the interpreter is of: `python tests/docs/blocks.py docs/tutorial/digits.md`. It uses the
standard library alone, so that it works beside an installed package.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
_TINY = ("--steps", "2", "--real-batch", "4", "--network", "convnet-d1-w8", "--device", "cpu")
_POOL = ("--set", "pool=1", "--set", "pool_steps=2")
_MTT = ("--set", "max_start=1", "--set", "expert_passes=1")
"""What a trajectory of two passes allows."""
_SHORT = {
    "condense": _TINY,
    "pool": (*_POOL, "--set", "network=convnet-d1-w8", "--device", "cpu"),
    "experts": ("--count", "1", "--passes", "2", "--network", "convnet-d1-w8"),
    "evaluate": ("--epochs", "1", "--repeats", "1", "--device", "cpu"),
    "continual": ("--orders", "1", "--repeats", "1", "--epochs", "1", "--network", "convnet-d1-w8"),
    "nas": ("--held-out", "50", "--seeds", "1", "--epochs", "1", "--workers", "0"),
    "doctor": ("--no-speed",),
}
"""What is added to a command; the last of two equal flags counts."""
_DROPPED = {"--data-dir", "--minutes", "--cluster", "--workers"}
"""Flags that are taken out, with their values."""
_SMALLER = [
    (r'load_dataset\("cifar100?"[^)]*\)', 'load_dataset("digits")'),
    (r"minutes=\d+", "recipe=short"),
    (r"repeats=\d+\)", "repeats=1, protocol=brief)"),
]
"""What is replaced in Python."""
PRELUDE = """
from condense import Protocol, recipe_for
brief = Protocol(epochs=1, augment="none")
short = recipe_for("dm", "digits", (1, 8, 8), 10).override(
    {"steps": 2, "real_batch": 4, "network": "convnet-d1-w8"}
)
"""
"""What the replaced code needs."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language of each block of a page, and its text; outputs (`text`) are left out."""
    for language, text in _BLOCK.findall(page.read_text()):
        if language not in ("text", "toml"):
            yield language, text


def lines(text: str) -> Iterator[list[str]]:
    """The commands of a block, as words, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def shortened(words: list[str]) -> list[str]:
    """The arguments of condensekit for a command that takes a moment, on digits."""
    given, kept = iter(words), list[str]()
    for word in given:
        if word in _DROPPED:
            next(given)
        elif word != "--download":
            kept.append(re.sub("^cifar100?$", "digits", word))
    command, own = kept[0], (*kept[1:2], "")[0]
    if {"--resume", "--help"} & set(kept) or own in ("show", "arch"):
        return kept
    more = list(_SHORT.get(command, ()))
    if command == "condense" and not {"--recipe", "--method"} & set(kept):
        more += _POOL
    if "mtt" in kept and command == "condense":
        more += _MTT
    if own == "reference":
        more = [*more[:2], *more[4:]]  # the truth has a seed of its own
    return [*kept, *more]


def smaller(code: str) -> str:
    """Python of a block, on digits and short."""
    for pattern, replacement in _SMALLER:
        code = re.sub(pattern, replacement, code)
    return code


def run(page: Path, command: Callable[[list[str]], None], python: Callable[[str], None]) -> None:
    """Run the blocks of a page: `condensekit` by `command`, Python by `python`.

    Commands that do not end, or set up an environment, are left to other tests.
    """
    for language, text in blocks(page):
        if language == "python":
            python(smaller(text))
            continue
        for words in lines(text):
            if words[0] == "torchrun":
                words = ["condensekit", *words[words.index("cli.py") + 1 :]]
            if words[0] == "condensekit" and words[1] != "watch":
                command(shortened(words[1:]))


def _call(arguments: list[str]) -> None:
    print("$", *arguments, flush=True)
    subprocess.run(arguments, check=True)


def main(pages: list[str]) -> None:
    """Run pages with the installed package."""
    home = Path(sys.executable).parent
    for page in [Path(name).resolve() for name in pages]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            run(
                page,
                lambda words: _call([str(home / "condensekit"), *words]),
                lambda code: _call([sys.executable, "-c", PRELUDE + code]),
            )


if __name__ == "__main__":
    main(sys.argv[1:])
