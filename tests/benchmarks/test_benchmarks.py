"""The benchmarks run, keep what they did, and go on from it.

What they conclude from numbers is right.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import breakdown, demo, growth, judge, recipes, results, scale, trainings
from benchmarks.campaign import __main__ as campaign
from benchmarks.campaign import workplace
from condense import CondensedSet, Protocol
from condense.methods.recipes import RECIPES
from condense.runs.engine import Engine
from condense.study.workers import Workers
from nas.training import SearchBench, SearchTask

SMOKE = ["--scale", "smoke"]
FIRST = "digits-ipc1-datadam-seed0"


def run(command: Any, *flags: object) -> Result:
    result = CliRunner().invoke(command, [str(flag) for flag in flags])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def record(out: Path, name: str = FIRST) -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


def accuracies(out: Path) -> list[float]:
    return record(out)["score"]["accuracies"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first smoke job, done without a break."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert run(campaign.main, *SMOKE, "--only", FIRST, "--out", out).exit_code == 0
    return out


# ---- campaign


def test_a_campaign_does_all_and_keeps_sets_records_and_a_table(tmp_path: Path) -> None:
    result = run(campaign.main, *SMOKE, "--out", tmp_path)
    assert result.exit_code == 0
    assert "all done: 4 of 4 jobs done, 0 failed" in result.stdout
    names = {job.name for job in campaign.jobs(campaign.SCALES["smoke"])}
    assert len(names) == 4
    assert {path.name for path in tmp_path.iterdir()} == {
        "table.md", "large", "networks.sqlite", *(f"{name}.json" for name in names),
        *(f"{name}.safetensors" for name in names)
    }  # fmt: skip
    found = record(tmp_path)
    assert found["finished"] is True
    assert len(found["score"]["accuracies"]) == 3
    for leg in (*found["condense"], *found["evaluate"]):
        assert leg["seconds"] > 0
        assert (
            leg["conditions"]["command"]
            == f"python -m benchmarks.campaign --scale smoke --only {FIRST}"
        )
        assert {"torch", "device", "date"} <= set(leg["conditions"])
    kept = CondensedSet.load(tmp_path / f"{FIRST}.safetensors")
    assert len(kept) == 10
    assert kept.provenance["seed"] == 0
    table = (tmp_path / "table.md").read_text().splitlines()
    assert table[2].startswith("| digits | 1 | datadam |")
    assert "| 2 x 3 | 8 | 8 |" in table[2]
    assert "[0](digits-ipc1-datadam-seed0.json), [1](digits-ipc1-datadam-seed1.json)" in table[2]
    assert len(table) == 4

    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert "all done" in run(campaign.main, *SMOKE, "--out", tmp_path).stdout
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == before


def test_the_campaign_measures_streams(tmp_path: Path) -> None:
    assert run(campaign.main, "--scale", "smoke-continual", "--out", tmp_path).exit_code == 0
    stream = record(tmp_path, "continual-digits")
    assert stream["finished"] is True
    assert 0 <= stream["measured"]["random"]["final"]["mean"] <= 1
    assert stream["continual"][0]["seconds"] > 0
    assert (tmp_path / "continual-digits.png").exists()
    assert not (tmp_path / "continual-digits.run").exists()


def test_stopped_while_condensing_it_ends_with_the_same_set(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, step = [], Engine.step

    def interrupted(engine: Engine, number: int) -> Any:
        steps.append(number)
        if len(steps) == 4:
            signal.raise_signal(signal.SIGALRM)  # the end of the time
        return step(engine, number)

    monkeypatch.setattr(Engine, "step", interrupted)
    flags = [*SMOKE, "--only", FIRST, "--out", tmp_path]
    result = run(campaign.main, *flags)
    assert "0 of 1 jobs done, 0 failed" in result.stdout
    assert "stopped after step 4 of 8" in result.stdout
    assert "stopped after step 4 of 8" in run(campaign.main, *flags, "--list").stdout
    (begun,) = (tmp_path / f"{FIRST}.run").glob("sets/*/")
    left = {path.relative_to(begun).as_posix() for path in begun.rglob("*")}
    assert left == {
        "run.json",
        "start.safetensors",
        "checkpoints",
        "checkpoints/step-00000004.safetensors",
    }

    assert run(campaign.main, *flags).exit_code == 0
    assert steps == list(range(8))  # no step twice
    same = [(out / f"{FIRST}.safetensors").read_bytes() for out in (tmp_path, undisturbed)]
    assert same[0] == same[1]
    assert accuracies(tmp_path) == accuracies(undisturbed)
    assert len(record(tmp_path)["condense"]) == 2


def test_stopped_while_evaluating_it_keeps_the_networks_it_has(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, module = [], sys.modules["condense.training.repeats"]
    train = module.train

    def interrupted(
        network: Any, images: Any, labels: Any, protocol: Any, seed: int, **options: Any
    ) -> None:
        trained.append(seed)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(network, images, labels, protocol, seed, **options)

    monkeypatch.setattr(module, "train", interrupted)
    flags = [*SMOKE, "--only", FIRST, "--out", tmp_path]
    result = run(campaign.main, *flags)
    assert result.exit_code == 130
    assert "evaluate: stopped after 1 of 3" in result.stdout
    assert run(campaign.main, *flags).exit_code == 0
    assert len(trained) == 4  # the second network twice, the others once
    assert len(set(trained)) == 3
    assert accuracies(tmp_path) == accuracies(undisturbed)
    assert [len(leg["accuracies"]) for leg in record(tmp_path)["evaluate"]] == [1, 2]
    assert not (tmp_path / f"{FIRST}.run").exists()


KILLED = """
import os, signal, sys
from benchmarks.campaign import __main__ as campaign
from benchmarks.tables import bench
from condense.runs.engine import Engine

place, name, call = sys.argv[1:4]
bench.CHECKPOINT_EVERY = 2
owner = {"step": Engine, "train": sys.modules["condense.training.repeats"]}[name]
work, calls = getattr(owner, name), []

def killed(*args, **options):
    calls.append(1)
    if len(calls) == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*args, **options)

setattr(owner, name, killed)
sys.argv[1:] = ["--scale", "smoke", "--only", sys.argv[4], "--out", place]
campaign.main()
"""


@pytest.mark.slow
def test_killed_outright_it_loses_no_more_than_a_checkpoint_and_a_network(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, call in (("step", 6), ("train", 2)):
        command = [sys.executable, "-c", KILLED, str(tmp_path), name, str(call), FIRST]
        assert (
            subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True).returncode
            == -signal.SIGKILL
        )
        if name == "step":
            assert list(
                (tmp_path / f"{FIRST}.run").glob("sets/*/checkpoints/*4.safetensors")
            )  # of the 5 steps made
    assert record(tmp_path)["note"] == "condensed, 1 of 3 networks"
    assert run(campaign.main, *SMOKE, "--only", FIRST, "--out", tmp_path).exit_code == 0
    same = [(out / f"{FIRST}.safetensors").read_bytes() for out in (tmp_path, undisturbed)]
    assert same[0] == same[1]
    assert accuracies(tmp_path) == accuracies(undisturbed)


def test_a_large_set_is_kept_where_git_does_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workplace, "KEPT_BYTES", 100)
    assert run(campaign.main, *SMOKE, "--only", FIRST, "--out", tmp_path).exit_code == 0
    assert record(tmp_path)["set"] == f"large/{FIRST}.safetensors"
    assert len(CondensedSet.load(tmp_path / "large" / f"{FIRST}.safetensors")) == 10
    assert not (tmp_path / f"{FIRST}.safetensors").exists()
    ignored = ["git", "check-ignore", "-q", "benchmarks/results/campaign/large/any.safetensors"]
    assert subprocess.run(ignored, cwd=Path(__file__).parents[2]).returncode in (
        0,
        128,
    )  # 128: no git checkout


def test_the_end_of_the_time_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        campaign,
        "jobs",
        lambda scale: [campaign.CampaignJob(1, "endless", lambda place, name: time.sleep(60))],
    )
    handlers = [
        signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)
    ]
    result = run(campaign.main, "--minutes", 0.2 / 60, "--out", tmp_path)
    assert result.exit_code == 0
    assert "the time is up: 0 of 1 jobs done, 0 failed\nleft: endless: to do" in result.stdout
    assert [
        signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)
    ] == handlers


def test_a_job_that_fails_is_told_and_the_next_one_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(place: campaign.Workplace, name: str) -> None:
        raise ZeroDivisionError("a fault of ours")

    def fine(place: campaign.Workplace, name: str) -> None:
        place.keep(place.record(name) | {"finished": True}, "well")

    planned = [campaign.CampaignJob(1, "faulty", fault), campaign.CampaignJob(2, "fine", fine)]
    monkeypatch.setattr(campaign, "jobs", lambda scale: planned)
    result = run(campaign.main, "--out", tmp_path)
    assert result.exit_code == 1
    assert "ZeroDivisionError: a fault of ours" in result.stderr
    assert "fine: well" in result.stdout
    assert "1 of 2 jobs done, 1 failed" in result.stdout


def test_a_job_of_another_process_is_passed_over(tmp_path: Path) -> None:
    with campaign.Workplace(tmp_path, None, "", Workers(workers=0)).owned(FIRST):
        result = run(campaign.main, *SMOKE, "--only", "digits-ipc1-datadam-*", "--out", tmp_path)
    assert "all done: 1 of 2 jobs done, 0 failed" in result.stdout
    assert f"left: {FIRST}: to do" in result.stdout
    assert not (tmp_path / f"{FIRST}.json").exists()


def test_selections_of_real_images_stand_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scale = dataclasses.replace(campaign.SCALES["smoke"], sets={"random": 1})
    monkeypatch.setitem(campaign.SCALES, "smoke", scale)
    assert run(campaign.main, *SMOKE, "--out", tmp_path).exit_code == 0
    found = record(tmp_path, "digits-ipc1-random-seed0")
    assert found["how"]["method"] == "random"
    assert len(found["score"]["accuracies"]) == 3
    assert len(CondensedSet.load(tmp_path / found["set"])) == 10
    assert found["set"].startswith("large/")  # git ignores it: real images are not handed on


def test_missing_data_is_one_line(tmp_path: Path) -> None:
    result = run(
        campaign.main,
        "--only",
        "cifar10-ipc1-paper-seed0",
        "--data-dir",
        tmp_path / "none",
        "--out",
        tmp_path / "out",
    )
    assert result.exit_code == 1
    assert "failed: " in result.stderr
    assert "Traceback" not in result.stderr


def test_the_full_campaign_is_the_tables_of_the_papers() -> None:
    jobs = [
        job
        for job in campaign.jobs(campaign.SCALES["full"])
        if not job.name.startswith(("nas-", "table-"))
    ]
    assert len({job.name for job in jobs}) == len(jobs) == 2 * 3 * len(campaign.LINES) * 5 + 2
    by_name = {job.name: job.work.keywords for job in jobs}  # type: ignore[attr-defined]
    of_sets = {name: given["job"] for name, given in by_name.items() if "job" in given}
    assert {job.trained.repeats for job in of_sets.values()} == {20}
    assert jobs[0].name == "cifar10-ipc1-random-seed0"
    paper = of_sets["cifar100-ipc50-paper-seed4"].made.how
    assert paper == RECIPES["paper"]("cifar100", (3, 32, 32), 50)
    assert paper.preprocess == "zca"
    changed = of_sets["cifar10-ipc10-datadam-standard-seed0"].made.how
    assert (changed.method.loss_scale, changed.preprocess, changed.steps) == (
        100.0,
        "standard",
        8000,
    )
    assert {by_name[f"continual-{steps}-steps"]["plan"].steps for steps in (5, 10)} == {5, 10}
    positions = [job.name for job in jobs]
    for dearer in (
        "cifar100-ipc50-paper-seed0",
        "cifar10-ipc10-paper-seed1",
        "cifar10-ipc50-paper-seed0",
    ):
        assert positions.index("cifar10-ipc10-paper-seed0") < positions.index(dearer)


def test_the_campaign_ranks_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set, the cells, the grid and its truth, each stopped once.

    Every training is made once.
    """
    flags = ["--scale", "smoke-nas", "--out", tmp_path]
    assert next(job.name for job in campaign.jobs(campaign.SCALES["smoke-nas"])) == "nas-set"
    result = run(campaign.main, *flags, "--only", "nas-cells")
    assert result.exit_code == 1
    assert "the job nas-set has to be done first" in result.stderr
    assert run(campaign.main, *flags, "--only", "nas-set").exit_code == 0

    trained, train = [], SearchBench.run

    def stopped(bench: SearchBench, task: SearchTask) -> Any:
        trained.append(bench.keys.of(task))
        if len(trained) in (3, 12):
            raise KeyboardInterrupt
        return train(bench, task)

    monkeypatch.setattr(SearchBench, "run", stopped)
    for _ in range(2):
        result = run(campaign.main, *flags)
        assert result.exit_code == 130, result.stderr
    result = run(campaign.main, *flags)
    assert "all done: 5 of 5 jobs done, 0 failed" in result.stdout
    assert len(set(trained)) == len(trained) - 2  # the two that were stopped are made again
    cells, grid = record(tmp_path, "nas-cells"), record(tmp_path, "nas-grid")
    assert {"nas-set accuracy", "random:2 accuracy", "flops"} <= cells["architectures"][0].keys()
    assert len(cells["architectures"]) == len(grid["architectures"]) == 2
    assert grid["agreement"]["nas-set accuracy"]["architectures"] == 2
    assert all(
        leg["seconds"] > 0 for leg in (*cells["train"], *record(tmp_path, "nas-grid-set")["train"])
    )
    assert len((tmp_path / "nas-reference.csv").read_text().splitlines()) == 3
    assert not list(tmp_path.glob("*.run"))


@pytest.mark.parametrize("flags", [["--minutes", "0"], ["--workers", "-1"], ["--only", "mnist-*"]])
def test_bad_flags_are_one_line(flags: list[str], tmp_path: Path) -> None:
    result = run(campaign.main, *flags, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert flags[0] in result.stderr
    assert not (tmp_path / "out").exists()


# ---- scale


def points(times: list[float], working: list[float]) -> list[dict[str, Any]]:
    classes = [10, 100, 1000]
    return [
        {"classes": c, "step_s": t, "working_bytes": w}
        for c, t, w in zip(classes, times, working, strict=True)
    ]


def test_a_line_with_a_fixed_part_is_linear() -> None:
    found = scale.verdict(points([0.5 + 0.02 * c for c in (10, 100, 1000)], [5e8, 5.2e8, 5e8]))
    assert found["fixed_s"] == pytest.approx(0.5)
    assert found["per_class_s"] == pytest.approx(0.02)
    assert found["linear"]
    assert found["flat"]
    assert 0.5 < found["log_slope"] < 1


def test_quadratic_cost_and_growing_memory_are_called_so() -> None:
    found = scale.verdict(points([1e-4 * c * c for c in (10, 100, 1000)], [1e8, 1e9, 1e10]))
    assert found["log_slope"] == pytest.approx(2)
    assert not found["linear"]
    assert not found["flat"]


def here(work: Any, *arguments: Any) -> Any:
    """In place of `apart`: every process of its own takes seconds to import PyTorch."""
    return work(*arguments)


@pytest.mark.slow
def test_a_point_is_measured_in_a_process_of_its_own() -> None:
    setting, cpu = scale.PLANS["smoke"].base, torch.device("cpu")
    apart = scale.apart(scale.measure, setting, cpu, 1, "cpu")
    beside = here(scale.measure, setting, cpu, 1, "cpu")
    assert apart.keys() == beside.keys()
    assert apart["held_bytes"] == beside["held_bytes"]
    assert scale.apart(os.getpid) != os.getpid()


def test_scale_measures_and_draws_every_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(scale, "apart", here)
    result = run(scale.main, "--plan", "smoke", "--name", "tried")
    assert result.exit_code == 0
    document = json.loads((tmp_path / "tried.json").read_text())
    curves = document["curves"].items()
    assert {name: [point[name] for point in points] for name, points in curves} == {
        "classes": [2, 4], "ipc": [1], "size": [16]
    }  # fmt: skip
    for point in chain(*document["curves"].values()):
        assert point["step_s"] > 0
        assert point["peak_bytes"] > point["held_bytes"] > 0
    assert document["verdict"]["largest_deviation"] == pytest.approx(
        0, abs=1e-6
    )  # two points are on a line
    assert "slope of the logarithms" in (tmp_path / "tried.md").read_text()
    assert (tmp_path / "tried.png").read_bytes().startswith(b"\x89PNG")


def test_stores_and_folders_are_timed_by_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(growth, "SIZES", {"trials": (2, 20, 200), "images": (20, 40, 400)})
    run(growth.main, "--rounds", 1, "--most", 40, "--name", "tried")
    curves = json.loads((tmp_path / "tried.json").read_text())["curves"]
    sizes = {name: [one["size"] for one in curve["points"]] for name, curve in curves.items()}
    assert sizes == {"trials": [2, 20], "images": [20, 40]}
    for curve in curves.values():
        assert all(min(point.values()) > 0 for point in curve["points"])
        assert curve["slopes"].keys() == curve["points"][0].keys() - {"size"}


def test_a_slope_is_the_exponent_of_growth() -> None:
    points = [{"size": size, "read_s": 0.1 * size**1.5} for size in (10, 100, 1000)]
    assert growth.slopes(points) == {"read_s": 1.5}


@pytest.mark.slow
def test_ranks_are_timed_through_the_command_itself() -> None:
    setting = scale.PLANS["smoke"].base
    found = scale.measure_ranks(setting, 2, scale.pick_device("cpu"), turns=3)
    assert found["ranks"] == 2
    assert isinstance(found["step_s"], float)


# ---- step


@pytest.mark.slow
def test_a_step_is_timed_against_reference_and_floor(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    flags = [
        "--ipc",
        "1",
        "--real-batch",
        "4",
        "--norm",
        "instance",
        "--size",
        "8",
        "--turns",
        "2",
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "benchmarks.step", *flags, "--json", str(path)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
    (found,) = json.loads(path.read_text())
    assert (found["ipc"], found["real_batch"], found["norm"], found["size"]) == (
        1,
        4,
        "instance",
        8,
    )
    assert found["ratio"] == pytest.approx(found["reference_s"] / found["engine_s"])
    assert found["ratio_ci95"][0] <= found["ratio_ci95"][1]
    assert found["floor_s"] > 0
    assert found["peak_bytes"] > 0


# ---- judge


def test_a_set_is_judged_again_network_by_network(tmp_path: Path, undisturbed: Path) -> None:
    """A command that was stopped after one network trains only the others, and comes out alike."""
    for path in (undisturbed / f"{FIRST}.json", undisturbed / record(undisturbed)["set"]):
        shutil.copy(path, tmp_path)
    for repeats in (1, 3):
        flags = ["--network", "mlp", "--repeats", repeats, "--out", tmp_path]
        assert run(judge.main, FIRST, *flags, "--protocol", "dc").exit_code == 0
    judged = record(tmp_path, f"{FIRST}-dc-mlp")
    legs = [leg["accuracies"] for leg in judged["evaluate"]]
    assert [len(leg) for leg in legs] == [1, 2]
    assert judged["score"]["accuracies"] == legs[0] + legs[1]
    assert (judged["finished"], judged["protocol"]["epochs"], judged["line"]) == (
        True, 301, "datadam",
    )  # fmt: skip
    whole = shutil.copytree(tmp_path, tmp_path / "whole")
    (whole / f"{FIRST}-dc-mlp.json").unlink()
    assert run(judge.main, FIRST, *flags, "--protocol", "dc", "--out", whole).exit_code == 0
    assert accuracies(whole) != record(whole, f"{FIRST}-dc-mlp")["score"]["accuracies"]
    assert record(whole, f"{FIRST}-dc-mlp")["score"] == judged["score"]


# ---- trainings


def test_both_ways_train_alike_and_stand_beside_the_floor() -> None:
    """Without augmentation, and with all images in each step, both take the same steps."""
    work = dataclasses.replace(
        trainings.WORKS["a cell of NAS-Bench-201, 16 px"],
        protocol=Protocol(epochs=1, batch=16, lr=0.05, augment="none", nesterov=True),
    )
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels, cpu = torch.arange(16) % 10, torch.device("cpu")
    networks = [work.network(16).double(), work.network(16).double()]
    for way, network in zip((trainings.ours, trainings.plain), networks, strict=True):
        way(dataclasses.replace(work, network=lambda size, it=network: it), cpu)(
            images.double(), labels, 3
        )
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)

    asked = trainings.Asked(steps=2, turns=2, images=16)
    rates = {"float32": 1e9, "network": 2e9, "copy": 1e12}
    found = trainings.measure(work, asked, rates)
    with FlopCounterMode(display=False) as counter:
        work.network(16)(images).sum().backward()
    assert found["floor_s"] == pytest.approx(counter.get_total_flops() / 1e9, rel=0.01)
    assert found["times_the_floor"] == found["ours_s"] / found["floor_s"]
    assert found["ratio_ci95"][0] <= found["ratio"] <= found["ratio_ci95"][1]


# ---- demo


def test_the_demo_ends_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("STEPS", 2), ("REPEATS", 2), ("PROTOCOL", Protocol(epochs=1))):
        monkeypatch.setattr(demo, name, small)
    told = run(demo.main, "--out", tmp_path)
    assert told.exit_code == 0
    assert len(CondensedSet.load(tmp_path)) == 20
    assert "<img" in (tmp_path / "report.html").read_text()


# ---- recipes


def test_a_table_of_recipes_grows_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    small = [
        "--dataset",
        "digits",
        "--ipc",
        "1",
        "--network",
        "convnet-d2-w8",
        "--steps",
        "2",
        "--epochs",
        "2",
        "--repeats",
        "2",
    ]
    flags = [*small, "--hold-out", "300", "--name", "tried"]
    lines = ["random real images", "paper:formation=2,loss_scale=100"]
    assert run(recipes.main, *flags, "--line", lines[0]).exit_code == 0
    first = json.loads((tmp_path / "tried.json").read_text())
    assert (
        run(
            recipes.main, *flags, *chain.from_iterable(("--line", line) for line in lines)
        ).exit_code
        == 0
    )
    both = json.loads((tmp_path / "tried.json").read_text())
    assert list(both["lines"]) == lines
    assert (
        run(
            recipes.main, *flags, "--line", lines[1], "--seeds", 2, "--out", tmp_path / "runs"
        ).exit_code
        == 0
    )
    grown = json.loads((tmp_path / "tried.json").read_text())["lines"][lines[1]]
    assert grown["sets"] == 2
    assert grown["accuracies"][:2] == both["lines"][lines[1]]["accuracies"]
    assert [
        len(list((tmp_path / "runs").glob(f"*seed{seed}-*/set.safetensors"))) for seed in (0, 1)
    ] == [0, 1]
    assert both["lines"][lines[0]] == first["lines"][lines[0]]
    assert "accuracy (held-out training images)" in (tmp_path / "tried.md").read_text()
    for asked, told in (
        ((*small, "--name", "tried", "--line", lines[0]), "measured otherwise"),
        ((*flags, "--line", "paper:formatio=2"), "did you mean `formation`"),
    ):
        result = run(recipes.main, *asked)
        assert result.exit_code == 2
        assert told in result.stderr


# ---- breakdown


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::native_group_norm_backward", "norm, activation, attention, pooling"),
        ("## Call CompiledFxGraph fdpbfh ##", "norm, activation, attention, pooling"),
        ("aten::grid_sampler_2d", "drawing, augmenting, moving"),
    ],
)
def test_operations_are_told_apart_by_name(operation: str, part: str) -> None:
    assert breakdown.part_of(operation) == part


def test_the_parts_of_a_step_add_up_to_its_time() -> None:
    def step(number: int) -> torch.Tensor:
        return torch.nn.functional.conv2d(images, images).relu().sum()

    images = torch.randn(8, 4, 16, 16)
    parts = breakdown.breakdown(step, 3, torch.device("cpu"))
    assert all(taken > 0 for taken in parts.values())
    assert list(parts) == [*breakdown.PARTS, breakdown.REST]
