"""Random input to every reader and to the whole command line: one line each, and no trace."""

import contextlib
import gzip
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cli
from condense import CondensedSet, UserError, recipe_for
from condense.command import guard
from condense.data.catalogue import Source
from condense.files import load_tensors
from condense.options import SettingOption
from condense.reading import read_json, read_table, read_text, read_toml
from condense.runs.job import Job, load_record, record
from condense.settings import plain, read
from condense.study.record import read_record, write_record
from condense.study.trials import reading
from condense.training.experts import Record, Training
from continual.plan import Plan
from continual.study import Job as StreamJob
from nas.plan import SearchPlan, SearchRecord
from nas.reference import load as load_reference
from nas.spaces import space

FUZZ = settings(
    max_examples=int(os.environ.get("INPUTS", "60")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
READERS: dict[str, Callable[[Path], Any]] = {
    "file.json": read_json,
    "file.toml": read_toml,
    "file.csv": read_table,
    "file.txt": read_text,
    "plan.json": read_record,
    "run.json": lambda path: load_record(path.parent),
    "experts.json": lambda path: Record.load(path.parent),
    "reference.csv": lambda path: load_reference(path, "nasbench201"),
    "tensors.safetensors": load_tensors,
    "set.safetensors": CondensedSet.load,
    "trials.sqlite": lambda path: contextlib.ExitStack().enter_context(reading(path)).close(),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(str.encode),
    st.binary(max_size=100).map(lambda content: gzip.compress(content, mtime=0)),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.integers(1, 100_000).map(lambda depth: b"[" * depth),
    st.integers(1, 10_000).map(lambda digits: b'{"a": ' + b"9" * digits + b"}"),
    st.sampled_from([b"index,arch,x_test\n0,~,900\n", b"a = 1979-05-27", b"a,b\n\x00,1", b'"' * 7]),
)


def in_order() -> contextlib.AbstractContextManager:
    """Inside, `UserError` is the only exception."""
    return contextlib.suppress(UserError)


@pytest.mark.parametrize("name", sorted(READERS))
@given(content=CONTENTS)
@FUZZ
def test_a_reader_takes_any_bytes(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with in_order():
            READERS[name](path)


def _job() -> Job:
    recipe = recipe_for("dm", "digits", (1, 8, 8), 2)
    return Job(
        source=Source(name="digits"), fingerprint="0123", ipc=2, seed=0, recipe=recipe,
        device="cpu", chunk=None, checkpoint_every=200,
    )  # fmt: skip


def _search() -> SearchRecord:
    plan = SearchPlan(
        space="nasbench201", source=Source(name="digits"), fingerprint="0123",
        proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
        held_out=100, num_classes=10,
    )  # fmt: skip
    return SearchRecord(condensekit="0", plan=plan, progress={"done": 0})


RECORDS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "run": (_job().to_json(), Job.from_json),
    "plan": (
        plain(StreamJob(plan=Plan(steps=5), source=Source(name="digits"), fingerprint="3f2a")),
        lambda content: read(StreamJob, content, "plan.json"),
    ),
    "search": (plain(_search()), lambda content: read(SearchRecord, content, "search.json")),
    "experts": (
        plain(Record(dataset="digits", fingerprint="3f2a", training=Training())),
        lambda content: read(Record, content, "experts.json"),
    ),
}


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*path, key))


@pytest.mark.parametrize("name", sorted(RECORDS))
@given(data=st.data())
@FUZZ
def test_an_edited_record_is_refused_or_means_what_it_says(name: str, data: st.DataObject) -> None:
    content, reader = json.loads(json.dumps(RECORDS[name][0])), RECORDS[name][1]
    *path, last = data.draw(st.sampled_from(list(_places(content))))
    inside = content
    for key in path:
        inside = inside[key]
    if data.draw(st.booleans(), "delete"):
        del inside[last]
    else:
        inside[last] = data.draw(JSON)
    with in_order():
        accepted = reader(content)
        written = accepted.to_json() if isinstance(accepted, Job) else plain(accepted)
        assert json.loads(json.dumps(written)) == json.loads(json.dumps(content))


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    record(tmp_path, _job(), finished=False)
    content = json.loads((tmp_path / "run.json").read_text())
    content["job"]["ipc"] = 3
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"run.json is damaged, or was edited"):
        load_record(tmp_path)
    del content["digest"]  # as versions before wrote it
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert load_record(tmp_path)[1].ipc == 3
    write_record(tmp_path / "run.json", {"job": 1})
    with pytest.raises(UserError, match=r"run.json is not of this version"):
        load_record(tmp_path)


# ---- the command line

HOSTILE = st.one_of(
    st.sampled_from(
        [
            *("", "-", "--", "-1", "0", "nan", "inf", "1e309", "9" * 30, "9" * 5000, "a" * 5000),
            *("~nosuchuser", "/dev/zero", "/dev/null/x", "[/red]", r"$\foo$", "a\nb", "\x1b[31m"),
            *("{}", "[" * 3000, "null", "x=y", "lr=nan", "folder:", "folder:/dev/null", "a.npz"),
            *("convnet-d999999999999-w8", "../..", ".", "\udc80", "a,b", "*"),
        ]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
)
NOWHERE = "no such dataset"


def _commands(group: click.Group, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for own, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*name, own))
        yield (*name, own)


def _options(path: tuple[str, ...]) -> dict[str, bool]:
    """The flags of a command, and whether each takes a value."""
    command: click.Command = cli.cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    parameters = command.get_params(click.Context(command, **command.context_settings))
    options = [one for one in parameters if isinstance(one, click.Option)]
    # Whatever else is given, the dataset cannot be loaded, so that no work begins.
    return {
        one.opts[0]: not one.is_flag
        for one in options
        if one.name not in ("dataset", "help", "cluster")
    }


COMMANDS = {path: _options(path) for path in _commands(cli.cli)}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    # `doctor` measures the machine for ten seconds, and says so.
    path = draw(st.sampled_from(sorted(COMMANDS.keys() - {("doctor",)})))
    options = COMMANDS[path]
    words = [*path]
    for flag in draw(st.lists(st.sampled_from(sorted(options)), max_size=3)) if options else []:
        words += [flag, draw(HOSTILE)] if options[flag] else [flag]
    words += draw(st.lists(HOSTILE, max_size=2))
    has_data = any(
        isinstance(one, SettingOption) and one.name == "dataset" for one in _parameters(path)
    )
    return [*words, "--dataset", NOWHERE] if has_data else words


def _parameters(path: tuple[str, ...]) -> list[click.Parameter]:
    command: click.Command = cli.cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command.get_params(click.Context(command, **command.context_settings))


@given(words=command_lines())
@FUZZ
def test_any_command_line_ends_with_one_line(words: list[str]) -> None:
    out, errors, code = io.StringIO(), io.StringIO(), 0
    argv, here = sys.argv, Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        try:
            os.chdir(folder)
            sys.argv = ["condensekit", *words]
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                guard.run(cli.cli)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = argv
            os.chdir(here)
        assert code in (0, 2), errors.getvalue()
        assert errors.getvalue().count("\n") == (code == 2), errors.getvalue()
        assert not list(Path(folder).iterdir())
