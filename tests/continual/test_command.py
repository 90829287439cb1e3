"""The `continual` command as a user runs it."""

import html
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import cli

SMALL = [
    "--dataset",
    "digits",
    "--steps",
    "5",
    "--ipc",
    "2",
    "--orders",
    "2",
    "--repeats",
    "1",
    "--epochs",
    "2",
]
QUICK = [
    *SMALL,
    "--network",
    "mlp",
    "--method",
    "random",
    "--method",
    "datadam:real_batch=8",
    "--condense-steps",
    "2",
]


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str | Path
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["cli.py", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def command_in(report: Path, out: Path) -> list[str]:
    """The arguments of the command that a report tells, with another folder."""
    blocks = re.findall("<code>(.*?)</code>", report.read_text())
    texts = [html.unescape(re.sub("<[^>]*>", "", block)) for block in blocks]
    (found,) = [text for text in texts if text.startswith("condensekit ")]
    _, *arguments, _ = shlex.split(found)
    return [*arguments, str(out)]


def test_it_measures_prints_and_resumes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code, out, _ = run(
        capsys, monkeypatch, "continual", *QUICK, "--out", tmp_path / "run", "--json"
    )
    assert code == 0
    measured = json.loads(out)
    assert set(measured) == {"random", "datadam:real_batch=8"}
    assert {"accuracy.png", "report.html", "summary.json"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    code, out, _ = run(capsys, monkeypatch, "continual", "--resume", tmp_path / "run", "--json")
    assert json.loads(out) == measured
    again = command_in(tmp_path / "run" / "report.html", out=tmp_path / "again")
    code, out, _ = run(capsys, monkeypatch, *again, "--json")
    assert json.loads(out) == measured  # the command that the report tells
    code, out, _ = run(capsys, monkeypatch, "continual", "--resume", tmp_path / "run")
    assert "random" in out
    assert "report.html" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "digits", "--steps", "3", "--out", "x"], "give one of 1, 2, 5, 10"),
        ([*SMALL, "--minutes", "0", "--out", "x"], "--minutes 0: it must be above 0"),
        ([*SMALL, "--cluster", "nowhere", "--out", "x"], "ray://HOST:PORT"),
        (["--data-dir", "nowhere"], "--dataset digits"),
        ([*SMALL, "--method", "herdign", "--out", "x"], "did you mean `herding`"),
        ([*SMALL, "--mode", "reply", "--out", "x"], "did you mean `replay`"),
        (["--resume", "nowhere"], "holds no run"),
        (["--resume", "nowhere", "--ipc", "9"], "--ipc cannot change in a run that is under way"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(capsys, monkeypatch, "continual", *arguments)
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_the_time_did_not_allow_is_said_and_done_later_by_workers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    begin = ["continual", *QUICK, "--out", tmp_path / "run", "--minutes", "1e-4", "--json"]
    code, out, errors = run(capsys, monkeypatch, *begin)
    assert code == 0
    assert json.loads(out)["random"]["final"] is None
    assert (
        "still to be tested: 20 of 20 networks; go on with `condensekit continual --resume"
        in errors
    )
    go_on = ["continual", "--resume", tmp_path / "run", "--workers", "2", "--threads", "1"]
    code, out, errors = run(capsys, monkeypatch, *go_on, "--json")
    assert code == 0
    assert json.loads(out)["random"]["final"]["mean"] > 0
    assert "still" not in errors
