"""A report says how its run was made, and the command it names makes the same again."""

import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import cli
from condense import CondensedSet
from condense.data.catalogue import Source
from condense.data.preprocess import Standardize
from condense.report.blocks import Block, Chart, Command, Heat, Report
from condense.runs.evaluations import Row
from condense.runs.report import report_of
from condense.runs.shelf import keep
from condense.training.score import Score

TINY = ("--dataset", "digits", "--ipc", "2", "--seed", "3")
DM = ("--recipe", "dm", "--network", "convnet-d1-w8", "--set", "real_batch=4", "--steps", "3")
DATADAM = (
    *("--recipe", "best", "--method", "datadam", "--network", "convnet-d2-w8"),
    *("--set", "layers=[0]", "--power", "2", "--pool", "0", "--calibration", "0"),
    *("--steps", "2", "--real-batch", "4", "--chunk", "5", "--hold-out", "200"),
)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def blocks(report: Report, kind: type[Block]) -> list[Block]:
    return [one for section in report.sections for one in section.blocks if isinstance(one, kind)]


def command_in(folder: Path, out: Path) -> list[str]:
    """The arguments of the last command that the report of a folder tells, with another folder."""
    command = blocks(report_of(folder), Command)[-1]
    assert isinstance(command, Command)
    program, *arguments, _ = shlex.split(command.text)
    assert program == "condensekit"
    return [*arguments, str(out)]


@pytest.mark.parametrize(
    "made",
    [
        ("condense", *TINY, *DM),
        ("condense", *TINY, *DATADAM),
        ("select", *TINY, "--method", "kcenter", "--preprocess", "zca"),
    ],
)
def test_the_command_of_a_report_makes_the_same_set(made: tuple[str, ...], tmp_path: Path) -> None:
    run(*made, "--out", str(tmp_path / "first"))
    run(*command_in(tmp_path / "first", tmp_path / "second"))
    first, second = (CondensedSet.load(tmp_path / name) for name in ("first", "second"))
    assert first.fingerprint == second.fingerprint


def test_evaluations_are_appended(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    run("select", *TINY, "--out", out)
    assert not blocks(report_of(tmp_path / "run"), Chart)
    for network in ("mlp", "convnet-d1-w8"):
        run("evaluate", out, "--network", network, "--repeats", "2", "--epochs", "1")
        page = (tmp_path / "run" / "report.html").read_text()
        assert network in page
    assert "Trained by protocol dm with" in page
    report = report_of(tmp_path / "run")
    assert len(report.scores) == 2
    assert all(len(score.accuracies) == 2 for score in report.scores.values())
    (heat,) = blocks(report, Heat)
    assert isinstance(heat, Heat)
    assert len(heat.columns) == 2


@pytest.mark.parametrize(("hold_out", "published"), [(0, True), (5000, False)])
def test_published_figures_stand_beside_those_of_the_real_test_set(
    hold_out: int, published: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocess = Standardize(mean=torch.full((3,), 0.5), std=torch.full((3,), 0.25))
    classes = tuple(f"class {c}" for c in range(10))
    few = CondensedSet(torch.zeros(10, 3, 32, 32), torch.arange(10), classes, preprocess, {})
    keep(tmp_path, Source(name="cifar10", hold_out=hold_out), "uint8", few)
    measured = Row("convnet", {}, seed=0, tested_on="10,000 images", score=Score((0.4, 0.5)))
    monkeypatch.setattr("condense.runs.report.rows", lambda *of: [measured])
    (chart,) = blocks(report_of(tmp_path), Chart)
    assert isinstance(chart, Chart)
    assert chart.table is not None
    shown = {row[0]: row[1] for row in chart.table.rows}
    assert shown["convnet"] == "45.0"
    assert shown.get("datadam") == ("32.0" if published else None)


def test_evaluations_are_told_apart_by_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("select", *TINY, "--out", str(tmp_path))
    alike, test, held_out = Score((0.5, 0.5)), "362 test images", "100 held-out images"
    measured = [
        Row("mlp", {}, seed=2**62, tested_on=test, score=alike),
        Row("mlp", {}, seed=2**61, tested_on=test, score=Score((0.4, 0.5))),
        Row("mlp", {}, seed=0, tested_on=held_out, score=alike),
        Row("convnet", {}, seed=0, tested_on=test, score=alike),
    ]
    monkeypatch.setattr("condense.runs.report.rows", lambda *of: measured)
    report = report_of(tmp_path)
    assert list(report.scores) == [
        f"mlp, {test}, evaluation 1",
        f"mlp, {test}, evaluation 2",
        f"mlp, {held_out}",
        f"convnet, {test}",
    ]
    (chart,) = blocks(report, Chart)
    assert isinstance(chart, Chart)
    assert chart.table is not None
    intervals = [row[2] for row in chart.table.rows]
    assert [interval is None for interval in intervals] == [True, False, True, True]


@pytest.mark.parametrize(("command", "preprocess", "told"), [
    (("condense", *DM), "zca", True),
    (("condense", *DM), "standard", False),
    (("select",), "zca", False),
])  # fmt: skip
def test_the_colours_of_a_whitened_result_are_explained(
    command: tuple[str, ...], preprocess: str, told: bool, tmp_path: Path
) -> None:
    run(*command, *TINY, "--preprocess", preprocess, "--out", str(tmp_path))
    assert ("glaring" in str(report_of(tmp_path).sections)) is told


def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path: Path) -> None:
    run("condense", *TINY, *DM, "--out", str(tmp_path))
    (tmp_path / "set.safetensors").unlink()
    assert "not finished" in str(report_of(tmp_path).sections)
