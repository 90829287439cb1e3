"""A budget of minutes becomes steps, and is kept; how long a run takes is told before it starts."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from condense import UserError, condense, load_dataset, recipe_for
from condense.data.images import Dataset
from condense.runs import run as module
from condense.runs.pools import steps_of
from condense.runs.rehearsal import Rehearsal, fitted

SMALL = {"network": "convnet-d1-w8", "real_batch": 4}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def told(digits: Dataset, *, step: float, pool_step: float = 0.0, networks: int = 0) -> Rehearsal:
    name, changes = ("best", {"pool": networks}) if networks else ("dm", {})
    recipe = recipe_for(name, "digits", digits.shape, 1).override({**SMALL, **changes})
    return Rehearsal(
        recipe=recipe, ipc=1, device="cpu", chunk=10, steps=(step,), pool_step=pool_step,
        pool=pool_step * (steps_of(recipe, digits) if networks else 0), peak_memory=0,
    )  # fmt: skip


@given(
    step=some.floats(0.01, 10),
    pool_step=some.floats(0.001, 1),
    networks=some.integers(0, 5),
    seconds=some.floats(1, 1e5),
)
@settings(max_examples=60, deadline=None)
def test_what_is_planned_fits_and_uses_the_time(
    digits: Dataset, step: float, pool_step: float, networks: int, seconds: float
) -> None:
    whole = told(digits, step=step, pool_step=pool_step, networks=networks)
    try:
        planned = fitted(whole, digits, seconds)
    except UserError:
        # The pool has two fifths of the time, or one step of one network if that takes longer.
        assert 0.9 * (seconds - max(0.4 * seconds, pool_step)) < step
        return
    assert planned.recipe.steps >= 1
    assert planned.total <= seconds
    assert planned.total >= 0.85 * seconds - step
    assert planned.recipe.pool <= whole.recipe.pool
    if planned.pool < whole.pool:  # it was cut
        assert planned.pool <= 0.4 * seconds + networks * pool_step
        assert planned.pool == pytest.approx(pool_step * steps_of(planned.recipe, digits))


def test_a_pool_with_time_to_spare_is_left_alone(digits: Dataset) -> None:
    whole = told(digits, step=1.0, pool_step=0.001, networks=3)
    planned = fitted(whole, digits, seconds=1000)
    assert planned.recipe == whole.recipe.override({"steps": planned.recipe.steps})


def test_too_short_a_budget_is_one_line(digits: Dataset) -> None:
    with pytest.raises(
        UserError, match=r"^no step fits into the 0\.06 s that are left of the limit"
    ):
        fitted(told(digits, step=5.0), digits, seconds=0.06)


def test_a_run_ends_at_its_deadline_with_the_steps_that_it_did(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A plan that is far too hopeful: the deadline ends the run.
    whole = told(digits, step=1e-7)
    hopeful = dataclasses.replace(whole, recipe=whole.recipe.override({"steps": 10**6}))
    monkeypatch.setattr(module, "rehearse", lambda *_, **__: whole)
    monkeypatch.setattr(module, "fitted", lambda *_: hopeful)
    condensed = condense(digits, ipc=1, recipe=whole.recipe, minutes=0.02, device="cpu")
    assert 1 <= condensed.provenance["steps"] < 10**6
    said = capsys.readouterr().err
    assert "1,000,000 steps: 0.1 s, done about" in said
    assert f"the minutes were up after step {condensed.provenance['steps']:,} of 1,000,000" in said


def test_a_budget_that_timing_alone_uses_up_is_one_line(digits: Dataset) -> None:
    with pytest.raises(UserError, match=r"^no step fits into the 0 s that are left of the limit"):
        fitted(told(digits, step=5.0, pool_step=0.1, networks=2), digits, seconds=-3)
