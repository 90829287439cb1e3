"""The registered experiment at a tiny size: it resumes, and is silent until it is done."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.nas_registered import REGISTERED, Asked, Experiment, Registration, publish
from condense.study.workers import Workers
from nas.spaces import nasbench201

PAGE = Path(__file__).parents[2] / "benchmarks" / "nas" / "registered.md"
TINY = Registration(
    dataset="digits",
    resolution=8,
    cells=4,
    draw=3,
    sizes=(2,),
    decides=2,
    steps=2,
    sets=2,
    runs=2,
    recipe={"steps": 2, "real_batch": 4, "network": "convnet-d1-w4", "pool": 1, "pool_steps": 2},
    families={"condensed": {}, "condensed-batch": {"network": "convnet-d1-w4-batch"}},
    changes={"width": 4},
)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setattr("nas.spaces.nasbench201.CELLS", 1)
    free = {"parameters": 1.0, "flops": 1.0, "synflow": 1.0, "naswot": 1.0, "grad_norm": 1.0}
    free |= dict.fromkeys(("jacob_cov", "snip", "grasp", "fisher", "zen"), 1.0)
    monkeypatch.setattr(
        "nas.free.scores", lambda one, *rest, **how: free | {"parameters": one.parameters()}
    )
    path = tmp_path / "truth.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "arch", "digits_test"])
        sampled = nasbench201.sample(40, TINY.draw)
        writer.writerows([i, nasbench201.architecture(i).name, 80 + i / 1e4] for i in sampled)
    asked = Asked(reference=str(path), out=tmp_path / "run")
    session = {"workers": Workers(workers=0, device="cpu"), "minutes": None, "quiet": True}
    return Experiment(asked=asked, session=session, registered=TINY)


@pytest.mark.slow
def test_it_is_broken_off_gone_on_with_and_published(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    short = replace(experiment, session={**experiment.session, "minutes": 1e-4})
    assert short.run() is None  # before the sets are made
    found = experiment.run()
    told = capsys.readouterr().out
    assert found is not None
    assert "not all made" in told
    assert "yes" not in told
    assert "rho" not in told
    assert found.keys() == {(s, n) for s in ("uniform", "top20") for n in (2,)}
    ranking = found["uniform", 2].ranking
    assert ranking is not None
    assert {arm: len(ranking.sets[f"{arm} summed_loss"]) for arm in ranking.trainings} == {
        "random:2": 2, "condensed": 2, "condensed-batch": 2, "early-stop:2": 2,
    }  # fmt: skip
    truths = found["top20", 2].ranking.truth, ranking.truth  # type: ignore[union-attr]
    assert truths[0].mean() > truths[1].mean()
    trainings = (experiment.asked.out / "trials.sqlite").stat().st_mtime_ns
    again = experiment.run()  # everything is there
    assert (experiment.asked.out / "trials.sqlite").stat().st_mtime_ns == trainings
    assert again is not None
    publish(TINY, again, "nas_registered")
    page = (tmp_path / "nas_registered.md").read_text()
    assert len(re.findall(r"^- (uniform|top20): \*\*(yes|no|not shown)\*\*", page, re.M)) == 2
    assert "| top20 | 2 |" in page


def test_the_page_registers_the_numbers_that_run() -> None:
    page = PAGE.read_text()
    for told in (
        f"{REGISTERED.cells} cells of all",
        f"drawn by seed {REGISTERED.draw}",
        f"{REGISTERED.steps} steps of 25 images",
        f"CIFAR-10 at {REGISTERED.resolution} px",
        f"recipe `best` with {REGISTERED.recipe['steps']:,} steps",
        f"minus that of `random:{REGISTERED.decides} summed_loss + free`",
        *(f"| `random:{size}` |" for size in REGISTERED.sizes),
    ):
        assert told in page
    arms = 1 + len(REGISTERED.families)
    per_cell = len(REGISTERED.sizes) * arms * REGISTERED.sets + REGISTERED.runs
    assert f"{per_cell} per cell, {2 * REGISTERED.cells * per_cell:,} in all" in page
