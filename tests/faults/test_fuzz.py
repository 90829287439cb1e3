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
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import cli
from condense import CondensedSet, UserError, recipe_for
from condense.command import guard
from condense.data.catalogue import Source
from condense.data.parquet import METADATA, hugging_face
from condense.data.preprocess import Whiten
from condense.files import load_tensors, save_tensors
from condense.options import SettingOption
from condense.reading import read_json, read_table, read_text, read_toml
from condense.runs.job import Job, load_record, record
from condense.sets import transforms
from condense.settings import plain, read
from condense.study.record import read_record, write_record
from condense.study.trials import reading
from condense.training.experts import Record, Training
from continual.plan import Plan
from continual.study import Job as StreamJob
from nas.plan import SearchPlan, SearchRecord
from nas.reference import load as load_reference
from nas.spaces import space

pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
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
    f"zca-{'0' * 16}.safetensors": lambda path: transforms.find(path.parent, "zca", "0" * 16),
    "train.parquet": lambda path: hugging_face(f"hf:{path}", None),
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


# ---- Parquet files, which random bytes are none of


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), "red").save(file, "PNG")
    return file.getvalue()


PICTURE = _picture()
BYTES = st.sampled_from([PICTURE, b"", b"no picture"])
COLUMNS = ["image", "img", "label", "labels", "x"]
KINDS: dict[str, st.SearchStrategy[Any]] = {
    **{kind: st.integers(0, 3) for kind in ("int8", "uint16", "int32")},
    "int64": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    "uint64": st.integers(0, 2**64 - 1),
    **dict.fromkeys(("binary", "large_binary", "binary_view"), BYTES),
    **{kind: st.text(max_size=5) for kind in ("string", "large_string")},
    "float64": st.floats(),
    "bool_": st.booleans(),
    "null": st.none(),
    "date32": st.dates(),
}
"""Types of columns, by their names in pyarrow, and values of each."""
INSIDE: dict[str, Callable[[Any], Any]] = {
    "itself": lambda kind: kind,
    "list": lambda kind: pa.list_(kind),
    "dictionary": lambda kind: pa.dictionary(pa.int8(), kind),
    "picture": lambda kind: pa.struct({"bytes": kind, "path": pa.string()}),
    "no picture": lambda kind: pa.struct({"path": kind}),
}
"""What a type may be inside of."""


def _value(inside: str, value: Any) -> Any:
    shapes = {"list": [value, value], "picture": {"bytes": value}, "no picture": {"path": value}}
    return shapes.get(inside, value)


@st.composite
def columns(draw: st.DrawFn, rows: int) -> Any:
    """A column, half the time of what is looked for, some with missing values."""
    usual = [("int64", "itself"), ("binary", "picture"), ("binary", "itself")]
    anything = st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(sorted(INSIDE)))
    kind, inside = draw(st.sampled_from(usual) | anything)
    one = KINDS[kind] | st.none() if draw(st.integers(0, 3)) == 0 else KINDS[kind]
    values = [_value(inside, value) for value in draw(st.lists(one, min_size=rows, max_size=rows))]
    try:
        return pa.array(values, INSIDE[inside](getattr(pa, kind)()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        assume(False)  # there is no such column


@st.composite
def features(draw: st.DrawFn) -> bytes:
    """What `datasets` says of the columns, or might."""
    kind = st.fixed_dictionaries(
        {"_type": st.sampled_from(["Image", "ClassLabel", "Value"])}, optional={"names": JSON}
    )
    found = draw(st.dictionaries(st.sampled_from(COLUMNS), kind | JSON, max_size=3) | JSON)
    return json.dumps(draw(st.just({"info": {"features": found}}) | JSON)).encode()


@given(data=st.data())
@FUZZ
def test_any_table_is_a_dataset_or_refused(data: st.DataObject) -> None:
    rows = data.draw(st.integers(0, 6))
    names = data.draw(st.just(["image", "label"]) | st.lists(st.sampled_from(COLUMNS), max_size=3))
    table = pa.table([data.draw(columns(rows)) for _ in names], names=names)
    if data.draw(st.booleans()):
        table = table.replace_schema_metadata({METADATA: data.draw(features())})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "train.parquet")
        with contextlib.suppress(pa.ArrowNotImplementedError):  # Parquet has no such column
            parquet.write_table(table, path)
            with in_order():
                dataset = hugging_face(f"hf:{path}", None)
                assert len(dataset.train) + len(dataset.test) == rows


# ---- records


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


@st.composite
def edited(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value in which one thing is missing, or is something else."""
    content = json.loads(json.dumps(value))
    *path, last = draw(st.sampled_from(list(_places(content))))
    inside = content
    for key in path:
        inside = inside[key]
    if draw(st.booleans(), "delete"):
        del inside[last]
    else:
        inside[last] = draw(JSON)
    return content


@pytest.mark.parametrize("name", sorted(RECORDS))
@given(data=st.data())
@FUZZ
def test_an_edited_record_is_refused_or_means_what_it_says(name: str, data: st.DataObject) -> None:
    content, reader = data.draw(edited(RECORDS[name][0])), RECORDS[name][1]
    with in_order():
        accepted = reader(content)
        written = accepted.to_json() if isinstance(accepted, Job) else plain(accepted)
        assert json.loads(json.dumps(written)) == json.loads(json.dumps(content))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose transform lies beside it."""
    shape = (3, 16, 16)
    transform = Whiten(mean=torch.zeros(shape), matrix=torch.eye(3 * 16 * 16))
    images, classes = torch.zeros(2, *shape), ("zero", "one")
    condensed = CondensedSet(images, torch.tensor([0, 1]), classes, transform, {"seed": 0})
    return condensed.save(tmp_path_factory.mktemp("written") / "a.safetensors", alone=False)


@given(data=st.data())
@FUZZ
def test_a_set_with_an_edited_header_is_refused_or_a_set(
    written: Path, data: st.DataObject
) -> None:
    """The digest fits: nothing keeps a file of another program from that."""
    tensors, header = load_tensors(written)
    file = written.with_name("edited.safetensors")
    save_tensors(file, tensors, data.draw(edited(header)))
    with in_order():
        assert len(CondensedSet.load(file)) == 2


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
