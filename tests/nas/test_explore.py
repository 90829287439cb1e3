"""Searches within a budget: what each strategy trains, and what it is worth."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import cli
from condense import UserError, load_dataset
from condense.study import workers as processes
from condense.study.workers import Workers
from nas.explore import explore
from nas.free import BASELINES
from nas.incumbents import report_of
from nas.sampler import SAMPLERS, Proposals
from nas.spaces import SPACES, convnet720, nasbench201, space
from nas.spaces.convnet720 import GRID
from nas.training import SearchBench

KNOWN = 120


@pytest.fixture(scope="module")
def digits():
    torch.set_num_threads(1)
    return load_dataset("digits")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The true accuracies of some cells: more 3 x 3 convolutions are better."""
    path = tmp_path / "truth.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch", "digits_test"])
        for index in nasbench201.sample(KNOWN):
            cell = nasbench201.architecture(index)
            writer.writerow([index, cell.name, 50 + _convolutions(index) + index / 1e6])
    return path


def _convolutions(index: int) -> int:
    return nasbench201.architecture(index).operations.count("nor_conv_3x3")


def _places(index: int) -> int:
    """The sum of the places of a ConvNet's values in the grid."""
    convnet = convnet720.architecture(index)
    return sum(values.index(getattr(convnet, factor)) for factor, values in GRID.items())


@pytest.fixture(autouse=True)
def trained(monkeypatch) -> list:
    """The tasks that were done: trainings whose loss tells the truth, and free scores that lie."""
    done = []

    def run(self, task):
        done.append(task)
        worth = _convolutions if self.space == "nasbench201" else _places
        if task.proxy == "free":
            return {"scores": dict.fromkeys(BASELINES, float(-worth(task.architecture)))}
        noise = np.random.default_rng(task.architecture + 10**6 * task.seed).normal() / 10
        loss = -worth(task.architecture) + noise
        return {"curve": {}, "scores": {"summed_loss": loss, "diverged": 0.0}}

    monkeypatch.setattr(SearchBench, "run", run)
    return done


def _explore(digits, out, table, **changes):
    options = {"space_name": "nasbench201", "proxies": ["random:1"], "reference": table}
    options |= {"by": "random:1 summed_loss", "budget": 40, "quiet": True}
    options |= {"workers": Workers(workers=0), **changes}
    return explore(digits, out=out, **options)


def test_strategies_keep_to_their_budget_and_find_good_cells(digits, tmp_path, table, trained):
    counts = {}
    for name in ("random", "evolution", "halving", "free"):
        trained.clear()
        found = _explore(digits, tmp_path / name, table, strategies=[name])
        counts[name] = [task for task in trained if task.proxy != "free"]
        costs = [one.cost for one in found.incumbents]
        assert costs == sorted(costs)
        assert found.ended[name].cost == len(counts[name])
        assert all(one.regret >= 0 for one in found.incumbents)
    assert (len(counts["random"]), len(counts["evolution"]), len(counts["free"])) == (40, 40, 0)
    assert 30 <= len(counts["halving"]) <= 40
    assert {task.seed for task in counts["halving"]} == {0, 1, 2}
    assert {task.seed for task in counts["evolution"]} == {0}


def test_what_the_score_says_is_what_is_found(digits, tmp_path, table):
    found = _explore(digits, tmp_path / "run", table, budget=60)
    drawn = {one.index for one in found.incumbents if one.strategy == "random"}
    assert max(map(_convolutions, drawn)) == _convolutions(found.ended["random"].index)
    worst = found.ended["free"]  # what is free lies here
    assert worst.regret > found.ended["random"].regret


def test_evolution_goes_to_neighbours_of_what_is_good(digits, tmp_path):
    ended = {"evolution": 0, "random": 0}
    for seed in range(3):
        found = _explore(
            digits, tmp_path / str(seed), None, space_name="convnet720", budget=40, held_out=0,
            only={"depth": ["1"]}, strategies=list(ended), seed=seed,
        )  # fmt: skip
        for name, one in found.ended.items():
            ended[name] += _places(one.index)
    assert ended["evolution"] > ended["random"]


def test_a_sampler_of_optuna_keeps_to_its_budget_and_learns(digits, tmp_path, trained):
    ended = {"optuna": 0, "random": 0}
    for seed in range(3):
        trained.clear()
        found = _explore(
            digits, tmp_path / str(seed), None, space_name="convnet720", budget=40, held_out=0,
            only={"depth": ["1"]}, strategies=["optuna"], seed=seed,
        )  # fmt: skip
        done = {task.architecture for task in trained if task.proxy != "free"}
        assert len(done) == found.ended["optuna"].cost == 40
        assert {convnet720.architecture(index).depth for index in done} == {1}
        ended["optuna"] += _places(found.ended["optuna"].index)
        first = sorted(_places(index) for index in convnet720.sample(40, seed, stratified=False))
        ended["random"] += first[-1] - 3  # of all depths, which are worth 3 at most
    assert ended["optuna"] > ended["random"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_new_allowed_and_the_same_again(sampler):
    fits = range(0, 720, 7)
    found = []
    for _ in range(2):
        proposals, order = Proposals("convnet720", fits, sampler, seed=1), list(fits)[:12]
        for _ in range(3):
            order.append(proposals.next(order))
        assert len(set(order)) == 15
        assert set(order) <= set(fits)
        found.append(order)
    assert found[0] == found[1]


def test_without_optuna_the_strategy_says_what_to_install(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install condensekit\[optuna\]"):
        _explore(digits, tmp_path / "run", None, strategies=["optuna"], budget=4)


def test_it_goes_on_and_refuses_another_search(digits, tmp_path, table, trained):
    first = _explore(digits, tmp_path / "run", table)
    done = len(trained)
    assert _explore(digits, tmp_path / "run", table).rows() == first.rows()
    assert len(trained) == done
    rows = list(csv.DictReader((tmp_path / "run" / "incumbents.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == [one.index for one in first.incumbents]
    with pytest.raises(UserError, match="holds another exploration"):
        _explore(digits, tmp_path / "run", table, budget=41)


def test_out_of_time_it_says_so_and_goes_on(digits, tmp_path, table):
    found = _explore(digits, tmp_path / "run", table, minutes=1e-6)
    assert found.unfinished == ["random", "evolution", "halving", "free"]
    assert found.incumbents == []
    whole = _explore(digits, tmp_path / "run", table)
    assert whole.unfinished == []
    assert list(whole.ended) == ["random", "evolution", "halving", "free"]


def test_single_steps_start_no_worker_processes(digits, tmp_path, table, monkeypatch):
    shared = []

    def in_processes(bench, tasks, workers):
        shared.append(len(tasks))
        return processes._here(bench, tasks, Workers(workers=0))

    monkeypatch.setattr(processes, "_in_processes", in_processes)
    workers = Workers(workers=2, device="cpu")
    found = _explore(digits, tmp_path / "run", table, strategies=["evolution"], workers=workers)
    assert found.ended["evolution"].cost == 40
    assert shared == [20]  # the first ten cells; then there is one cell at a time


def test_a_restricted_grid_without_a_reference(digits, tmp_path):
    found = _explore(
        digits, tmp_path / "run", None, space_name="convnet720", budget=9, held_out=0,
        only={"depth": ["1"], "pool": ["none"]}, strategies=["evolution", "random"],
    )  # fmt: skip
    architectures = [space("convnet720").architecture(one.index) for one in found.incumbents]
    assert {one.depth for one in architectures} == {1}
    assert {one.pool for one in architectures} == {"none"}
    assert {one.regret for one in found.incumbents} == {None}


def test_every_neighbour_is_one_change_away():
    for name in SPACES:
        module = space(name)
        for index in module.sample(5, 1):
            around = module.neighbours(index)
            assert len(set(around)) == len(around)
            assert all(index in module.neighbours(other) for other in around)
            own = re.split("[|:-]", module.architecture(index).name)
            for other in around:
                theirs = re.split("[|:-]", module.architecture(other).name)
                assert sum(a != b for a, b in zip(own, theirs, strict=True)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": 0}, "--budget 0: it must be 1 or more"),
        ({"strategies": ["evolutions"]}, "did you mean `evolution`"),
        ({"strategies": ["optuna:TPE"]}, "did you mean `optuna` or"),
        ({"by": "random accuracy"}, "did you mean `random:1 accuracy`"),
    ],
)
def test_bad_budgets(digits, tmp_path, table, changes, message):
    with pytest.raises(UserError, match=message):
        _explore(digits, tmp_path / "run", table, **changes)
    assert not (tmp_path / "run").exists()


def test_the_command_tells_regret_against_cost(digits, tmp_path, table, monkeypatch, capsys):
    flags = [
        "--space",
        "nasbench201",
        "--dataset",
        "digits",
        "--budget",
        "8",
        "--proxy",
        "random:1",
    ]
    flags += ["--reference", str(table), "--out", str(tmp_path / "run"), "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["cli.py", "nas", "search", *flags])
    cli.main()
    lines = capsys.readouterr().out.splitlines()
    headers = ["strategy", *(f"after {cost}" for cost in (2, 4, 6, 8)), "index", "arch"]
    assert lines[1].split() == " ".join(headers).split()
    assert [line.split()[0] for line in lines[2:6]] == ["random", "evolution", "halving", "free"]
    blind = [*flags[: flags.index("--reference")], "--out", str(tmp_path / "blind")]
    blind += ["--workers", "0", "--strategy", "random"]
    monkeypatch.setattr(sys, "argv", ["cli.py", "nas", "search", *blind])
    cli.main()
    title, headers, row, *files = capsys.readouterr().out.splitlines()
    assert [Path(file).name for file in files] == [
        "incumbents.csv",
        "incumbents.json",
        "report.html",
    ]
    assert title == "no reference, so that no regret is known, and the best at the end"
    assert headers.split() == ["strategy", "index", "arch"]
    assert row.startswith("random ")
    monkeypatch.setattr(sys, "argv", ["cli.py", "nas", "search", *flags, "--json"])
    cli.main()
    told = json.loads(capsys.readouterr().out)
    assert {row["strategy"] for row in told["incumbents"]} == {
        "random", "evolution", "halving", "free"
    }  # fmt: skip


def test_the_report_tells_the_command_that_searches_again(digits, tmp_path, table):
    choices = {"budget": 6, "only": {"depth": ["1"], "pool": ["none", "max"]}, "reference": None}
    choices |= {"space_name": "convnet720", "strategies": ["random", "free"]}
    _explore(digits, tmp_path / "run", table, **choices)
    made = json.loads((tmp_path / "run" / "incumbents.json").read_text())["made"]
    assert made["trainings"] == 6
    (told,) = (block for section in report_of(tmp_path / "run").sections
               for block in section.blocks if block.kind == "command")  # fmt: skip
    *again, _ = shlex.split(told.text)
    result = CliRunner().invoke(cli.cli, [*again[1:], str(tmp_path / "again"), "--workers", "0"])
    assert result.exit_code == 0, result.output
    first, second = (tmp_path / name / "incumbents.csv" for name in ("run", "again"))
    assert first.read_bytes() == second.read_bytes()
    result = CliRunner().invoke(cli.cli, ["report", str(tmp_path / "run")])
    assert result.output.strip() == str(tmp_path / "run" / "report.html")
