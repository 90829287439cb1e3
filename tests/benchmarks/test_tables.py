"""The tables of the paper run at toy scale, keep what they made, go on from it, and tell it as it
is.
"""

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks import results
from benchmarks.campaign import __main__ as campaign
from benchmarks.campaign.sets import SetJob, condense_and_evaluate
from benchmarks.tables import accuracy, bench, embedding, render
from benchmarks.tables.__main__ import main
from benchmarks.tables.bench import Trained
from benchmarks.tables.entries import Entry, EntryResult
from benchmarks.tables.lines import DEFAULT, SCALES, SETTINGS, main_lines
from benchmarks.tables.run import TABLES
from condense import Protocol, Recipe, Score
from condense.data.catalogue import Source
from condense.methods import METHODS
from condense.methods.recipes import RECIPES, published_as
from condense.report import papers
from condense.runs import shelf
from condense.runs.shelf import Made, Selection
from condense.study.workers import Workers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the work folder and the result files of this module's undisturbed runs are."""
    return tmp_path_factory.mktemp("tables")


def run(folder: Path, *flags: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "FOLDER", folder / "results")
        result = CliRunner().invoke(
            main, [*flags, "--scale", "smoke", "--work", str(folder / "work")]
        )
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def document(folder: Path, table: str) -> dict[str, Any]:
    return json.loads((folder / "results" / f"tables_{table}_smoke.json").read_text())


@pytest.mark.parametrize("table", TABLES)
def test_every_table_runs_and_writes_numbers_text_and_a_picture(folder: Path, table: str) -> None:
    assert run(folder, table).exit_code == 0
    found = document(folder, table)
    assert {"command", "torch", "device", "date"} <= set(found["conditions"])
    assert (folder / "results" / f"tables_{table}_smoke.md").read_text().startswith("# ")
    pictures = list((folder / "results").glob(f"tables_{table}_smoke*.png"))
    assert len(pictures) == (len(found["measures"]) if table == "embedding" else 1)
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
    for entry in found.get("entries", []):
        if (
            entry["row"] == "normalisation: none"
        ):  # without it the attention of digits is beyond any step size
            assert "diverged" in entry["failed"]
            continue
        assert entry["failed"] == "", entry
        assert entry["missing_sets"] == 0, entry
        assert 0 <= entry["score"]["mean"] <= 1
    for record in found.get("records", []):
        assert len(record["seconds"]) == 2, record
        assert record["ci95_s"][0] <= record["mean_s"] <= record["ci95_s"][1]
    assert not found.get("failed", {})


def test_what_was_made_is_not_made_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(folder, "main")
    before = document(folder, "main")["entries"]

    def twice(*args: Any, **options: Any) -> Any:
        raise AssertionError("made again")

    for name in ("condense", "resume", "select"):
        monkeypatch.setattr(shelf, name, twice)
    monkeypatch.setattr(bench, "Repeats", twice)
    run(folder, "main")
    assert document(folder, "main")["entries"] == before


def test_stopped_and_started_again_it_ends_with_the_same_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, "main")
    accuracy_of, started = bench.Repeats.accuracy, []

    def interrupted(networks: bench.Repeats, repeat: int) -> float:
        started.append(repeat)
        if len(started) == 3:
            signal.raise_signal(signal.SIGINT)
        return accuracy_of(networks, repeat)

    monkeypatch.setattr(bench.Repeats, "accuracy", interrupted)
    flags = ("main", "--only", "random", "--only", "dm")
    stopped = run(tmp_path, *flags)
    assert stopped.exit_code == 130
    assert "stopped after 0 of 2; the same command goes on" in stopped.stderr
    part = {entry["row"]: entry["missing_sets"] for entry in document(tmp_path, "main")["entries"]}
    assert (part["random"], part["dm"], part["datadam"]) == (1, 1, 2)
    assert "to come" in (tmp_path / "results" / "tables_main_smoke.md").read_text()
    assert run(tmp_path, *flags).exit_code == 0
    resumed, undisturbed = (
        {one["row"]: one for one in document(place, "main")["entries"]}
        for place in (tmp_path, folder)
    )
    assert all(resumed[row] == undisturbed[row] for row in ("random", "dm"))


def test_only_what_is_asked_for_is_worked_on(tmp_path: Path) -> None:
    assert run(tmp_path, "main", "--only", "random").exit_code == 0
    found = {entry["row"]: entry["missing_sets"] for entry in document(tmp_path, "main")["entries"]}
    assert found.pop("random") == 0
    assert set(found.values()) == {2}
    assert "| dm | not yet |" in (tmp_path / "results" / "tables_main_smoke.md").read_text()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["main", "--only", "datdam"], "--only"),
        (["main", "--minutes", "0"], "--minutes 0"),
        (["main", "--workers", "-1"], "--workers -1"),
        (["main", "--cluster", "nowhere"], "--cluster nowhere"),
        (["main", "--scale", "cpu", "--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, flags: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    result = CliRunner().invoke(
        main, [flags[0], "--scale", "smoke", "--work", str(tmp_path / "work"), *flags[1:]]
    )
    assert result.exit_code == 2
    assert told in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_settings_name_what_there_is() -> None:
    at_ipc = {f"{method} IPC {ipc}" for method in METHODS for ipc in (1, 10, 50)}
    names = {DEFAULT, *METHODS, *RECIPES, *main_lines("cifar10"), *at_ipc, "ablation"}
    for scale, settings in SETTINGS.items():
        assert scale in SCALES
        assert set(settings) <= names


def test_every_line_of_the_small_scales_has_a_small_pool() -> None:
    for scale, most in (("smoke", 4), ("cpu", 1000)):
        for entry in accuracy.main(SCALES[scale]).entries:
            how = entry.sets[0].how
            if isinstance(how, Recipe):
                assert how.pool_epochs is None
                assert how.pool * how.pool_steps <= most, entry.row


def test_the_full_scale_is_the_papers() -> None:
    table = accuracy.main(SCALES["full"])
    columns = render.columns(table)
    assert len(columns) == 9
    for method in METHODS:
        for entry in (one for one in table.entries if one.row == method):
            assert len(entry.sets) == 5
            assert (entry.trained.repeats, entry.trained.protocol) == (20, Protocol())
            (made, *_) = entry.sets
            size = 64 if made.source.name == "tinyimagenet" else 32
            assert made.how == RECIPES[published_as(method)](
                made.source.name, (3, size, size), made.ipc
            )
    assert {column for _, column in papers.MAIN} <= set(columns)
    assert papers.MAIN["datadam", "cifar10 IPC 10"] == "54.2 ± 0.8"
    assert papers.MAIN["herding", "tinyimagenet IPC 50"] == "16.7 ± 0.3"
    assert papers.HIGH_RESOLUTION["dm", "imagesquawk IPC 1"] == "31.2 ± 0.7"
    for name, figures in (
        ("high-resolution", papers.HIGH_RESOLUTION),
        ("ablation", papers.ABLATION),
    ):
        there = {
            (entry.row, entry.column) for entry in accuracy.TABLES[name](SCALES["full"]).entries
        }
        assert set(figures) <= there
    for figures in (papers.MAIN, papers.HIGH_RESOLUTION, papers.CROSS, papers.ABLATION):
        assert all(re.fullmatch(r"\d+\.\d( ± \d+\.\d)?", figure) for figure in figures.values())
    crossed = {(entry.row, entry.column) for entry in accuracy.cross(SCALES["full"]).entries}
    assert {key for key in papers.CROSS if key[0].split()[0] in METHODS} <= crossed


def test_a_row_says_what_is_known() -> None:
    made = Made(
        source=Source(name="digits"),
        ipc=1,
        seed=0,
        how=Selection(method="random", preprocess="standard", network="n", feature_epochs=1),
    )
    entry = Entry(
        "dm", "cifar10 IPC 1", (made,), Trained(network="n", protocol=Protocol(), repeats=2)
    )
    table = accuracy.Table(title="t", entries=(entry,), published=papers.MAIN)
    score = Score((0.5, 0.52, 0.6, 0.62), 2)
    low, high = (100 * end for end in score.ci95)
    row = f"| dm | 56.0 | {low:.1f} to {high:.1f} | 2 x 2 (3 sets to come) | 26.0 ± 0.8 |"
    assert row in render.markdown(table, {entry: EntryResult(score, 3)})
    assert "| dm | it diverged | | | 26.0 ± 0.8 |" in render.markdown(
        table, {entry: EntryResult(None, 1, "it diverged")}
    )


def test_data_that_is_not_there_costs_its_own_entries_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(accuracy._MAIN, "smoke", [("digits", 1), ("cifar10", 1)])
    assert run(tmp_path, "main", "--only", "random", "--data-dir", str(tmp_path)).exit_code == 0
    found = {
        (entry["row"], entry["column"]): entry for entry in document(tmp_path, "main")["entries"]
    }
    assert found["random", "digits IPC 1"]["missing_sets"] == 0
    assert str(tmp_path) in found["random", "cifar10 IPC 1"]["failed"]


def test_a_failed_row_is_told_the_others_are_done_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    condense = shelf.condense

    def failing(dataset: Any, *, recipe: Recipe, **options: Any) -> Any:
        if recipe.method.name == "dm":
            raise bench.UserError("the loss diverged")
        return condense(dataset, recipe=recipe, **options)

    monkeypatch.setattr(shelf, "condense", failing)
    assert run(tmp_path, "main", "--only", "d[am]*").exit_code == 0
    found = {entry["row"]: entry for entry in document(tmp_path, "main")["entries"]}
    assert found["dm"]["failed"] == "the loss diverged"
    assert found["datadam"]["missing_sets"] == 0
    monkeypatch.undo()
    assert run(tmp_path, "main", "--only", "d[am]*").exit_code == 0
    again = {entry["row"]: entry for entry in document(tmp_path, "main")["entries"]}
    assert (again["dm"]["failed"], again["dm"]["missing_sets"]) == ("", 0)


def test_tables_share_the_networks_of_the_campaign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that the campaign evaluated is neither made nor trained on again."""
    (first, *_) = [one for one in accuracy.main(SCALES["smoke"]).entries if one.row == "dm"]
    made, workers = first.sets[0], Workers(workers=0, device="cpu")
    place = campaign.Workplace(tmp_path, None, "", workers)
    job = SetJob(line="dm", made=made, trained=first.trained)
    condense_and_evaluate(place, "job", job=job)
    assert not (tmp_path / "job.run").exists()
    with place.tables(tmp_path / "tables.run") as work:
        monkeypatch.setattr(bench, "Repeats", None)
        (result,) = work.do("networks", first.networks(0)).values()
    assert [result["accuracy"]] == place.record("job")["score"]["accuracies"]
    assert not (tmp_path / "tables.run").exists()


def test_numbers_of_an_embedding_against_their_definition() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 30)
    real = rng.normal(size=(60, 3)) + 4 * labels[:, None]
    synthetic, classes = np.concatenate([real[:2] + 0.01, real[2:4] + 4]), np.array([0, 0, 1, 1])
    found = embedding.compare(real, labels, synthetic, classes)
    for c in (0, 1):
        mean = [
            sum(x[d] for x, label in zip(real, labels, strict=True) if label == c) / 30
            for d in range(3)
        ]
        squares = [
            sum((x[d] - mean[d]) ** 2 for d in range(3))
            for x, label in zip(real, labels, strict=True)
            if label == c
        ]
        mine = synthetic[classes == c].mean(0)
        distance = sum((mine[d] - mean[d]) ** 2 for d in range(3)) ** 0.5
        assert found["offset"][c] == pytest.approx(distance / (sum(squares) / 30) ** 0.5)
        votes = []
        for one in synthetic[classes == c]:
            nearest = sorted(range(60), key=lambda index: float(((real[index] - one) ** 2).sum()))[
                :10
            ]
            votes.append(sum(labels[index] == c for index in nearest) > 5)
        assert found["own"][c] == pytest.approx(sum(votes) / 2)


def test_the_campaign_fills_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    flags = [
        "--scale",
        "smoke-tables",
        "--only",
        "table-high-resolution",
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(campaign.main, flags)
    assert result.exit_code == 0, result.output
    assert "table-high-resolution: full" in result.stdout
    assert (tmp_path / "results" / "tables_high-resolution_smoke.json").exists()
    full = {job.name for job in campaign.jobs(campaign.SCALES["full"])}
    assert {f"table-{name}" for name in TABLES} <= full
