"""The registered experiment on ConvNets at a tiny size: it goes on, and is silent until the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import results
from benchmarks.nas_convnets import REGISTERED, Asked, Experiment, Registration, ceiling, publish
from condense.study.workers import Workers

PAGE = Path(__file__).parents[2] / "benchmarks" / "nas" / "registered_convnets.md"
_TINY = {"real_batch": 4, "network": "convnet-d1-w4", "steps": 2}
TINY = Registration(
    dataset="digits",
    resolution=16,
    sample=4,
    most_mflops=0.3,
    held_out=100,
    reference_images=50,
    reference_epochs=1,
    ceiling=3,
    ceiling_seeds=2,
    ipc=2,
    steps=2,
    sets=2,
    runs=2,
    families={
        "condensed": {"recipe": "best", **_TINY, "pool": 1, "pool_steps": 2},
        "condensed-plain": {"recipe": "datadam", **_TINY},
    },
)


@pytest.mark.slow
def test_it_is_broken_off_gone_on_with_and_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    session = {"workers": Workers(workers=0, device="cpu"), "quiet": True}
    asked = Asked(out=tmp_path / "run")
    experiment = Experiment(asked=asked, session=session | {"minutes": None}, registered=TINY)
    short = replace(experiment, session=session | {"minutes": 1e-4})
    assert short.run() is None
    found = experiment.run()
    told = capsys.readouterr().out
    assert found is not None
    assert "rho" not in told
    ranking = found.ranked.ranking
    assert ranking is not None
    assert {arm: len(ranking.sets[f"{arm} accuracy"]) for arm in ranking.trainings} == {
        "random:2": 2, "condensed": 2, "condensed-plain": 2, "early-stop:2": 2,
    }  # fmt: skip
    assert not any("held out" in note for note in found.ranked.notes)
    assert found.accuracies.shape == (2, 3)
    publish(TINY, found, "nas_convnets")
    page = (tmp_path / "nas_convnets.md").read_text()
    assert page.splitlines()[2].startswith(("**yes**", "**no**", "**not shown**"))
    assert "| summed_loss + free, minus random:2 |" in page


def test_the_ceiling_is_the_agreement_between_trainings() -> None:
    trainings = np.random.default_rng(0).random((3, 9))
    agreements = sorted(one.value for one in ceiling(trainings))
    pairs = ((0, 1), (0, 2), (1, 2))
    expected = [spearmanr(trainings[a], trainings[b]).statistic for a, b in pairs]
    np.testing.assert_allclose(agreements, sorted(expected * 2))


def test_the_page_registers_the_numbers_that_run() -> None:
    page = PAGE.read_text()
    best, plain = REGISTERED.families.values()
    for told in (
        f"| {REGISTERED.sample} of the 720",
        f"{REGISTERED.most_mflops:g} million multiply-adds at {REGISTERED.resolution} px",
        f"{REGISTERED.reference_epochs} epochs on {REGISTERED.reference_images:,} real images",
        f"| {REGISTERED.ceiling} of them, trained three times",
        f"{REGISTERED.held_out:,} training images are held out",
        f"{REGISTERED.steps} steps of 25 images",
        f"recipe `{best['recipe']}` with {best['steps']} steps",
        f"recipe `{plain['recipe']}` with {plain['steps']} steps of {plain['real_batch']} real",
    ):
        assert told in page
    each = 3 * REGISTERED.sets + REGISTERED.runs
    assert f"{each} per architecture, {each * REGISTERED.sample} in all" in page
    again = REGISTERED.ceiling * (REGISTERED.ceiling_seeds - 1)
    assert f"and {REGISTERED.sample + again} of the reference" in page
