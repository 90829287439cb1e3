"""What a continual run reports: statistics, intervals, paired differences, notes and bounds."""

import dataclasses
import json

import pytest

from condense.methods.selection import select
from condense.training.score import Statistic
from continual import Plan, class_order, plugins, run
from continual.results import Measure, Results, Row, differences, explained

# ---- statistics, against numbers worked out by hand


def test_statistics_of_a_stream_of_three_steps():
    results = Results(("m",), 3)
    results.add(Row("m", 0, 0, 0, (0.9,), (10,)))
    results.add(Row("m", 0, 0, 1, (0.6, 0.8), (10, 30)))
    results.add(Row("m", 0, 0, 2, (0.7, 0.5, 1.0), (10, 30, 10)))
    assert results.at("m", 1).mean == pytest.approx(0.75)  # (6 + 24) / 40
    assert results.final("m").mean == pytest.approx(0.64)  # (7 + 15 + 10) / 50
    assert results.average("m").mean == pytest.approx((0.9 + 0.75 + 0.64) / 3)
    assert results.forgetting("m").mean == pytest.approx((0.2 + 0.3) / 2)
    assert results.final("m").ci95 is None
    assert results.bwt("m").mean == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert results.fwt("m") is None  # nothing was measured ahead


def test_forward_transfer_is_over_the_steps_that_have_a_next_one():
    results = Results(("m",), 3)
    for step, ahead in enumerate((0.1, -0.2, None)):
        results.add(Row("m", 0, 0, step, (0.5,) * (step + 1), (10,) * (step + 1), ahead))
    assert results.fwt("m").mean == pytest.approx(-0.05)
    assert Results(("m",), 1).fwt("m") is None


@pytest.mark.parametrize("mode", ["scratch", "replay"])
def test_forward_transfer_is_what_a_network_gains_on_classes_before_their_step(
    world, tmp_path, mode
):
    """A network that learns nothing gains nothing, and one that learns names no class to come.

    An untrained network names one or a few classes, so over all orders it is as good as chance.
    """
    methods = ("class-balanced",) if mode == "replay" else ("random",)
    plan = Plan(
        steps=2, mode=mode, methods=methods, ipc=2, orders=2, repeats=1, network="mlp", epochs=0
    )
    idle = run(world.dataset, plan, tmp_path / "idle", quiet=True)
    learning = dataclasses.replace(plan, epochs=3, batch=16)
    busy = run(world.dataset, learning, tmp_path / "busy", quiet=True)
    assert idle.fwt(methods[0]).mean == 0
    assert busy.fwt(methods[0]).mean < 0
    assert busy.bwt(methods[0]).mean <= 0 or mode == "scratch"


def test_intervals_are_over_orders():
    over_orders = Statistic(
        ((0.4, 0.6), (0.5, 0.7), (0.6, 0.8))
    )  # means 0.5, 0.6, 0.7: t = 4.303 with 2 degrees of freedom
    assert over_orders.mean == pytest.approx(0.6)
    assert over_orders.ci95 == pytest.approx(
        (0.6 - 4.303 * 0.1 / 3**0.5, 0.6 + 4.303 * 0.1 / 3**0.5), abs=1e-4
    )
    one_order = Statistic(((0.5, 0.6, 0.7),))
    assert one_order.ci95 == pytest.approx(over_orders.ci95)


def test_a_difference_of_memories_is_taken_order_by_order():
    results = Results(("theirs", "ours"), 1)
    for order, (theirs, ours) in enumerate(
        ((0.1, 0.4), (0.5, 0.7), (0.3, 0.7))
    ):  # 30, 20 and 40 points
        results.add(Row("theirs", order, 0, 0, (theirs,), (10,)))
        results.add(Row("ours", order, 0, 0, (ours,), (10,)))
    half = 4.303 * 0.1 / 3**0.5
    paired = results.difference("ours", "theirs")
    assert paired.mean == pytest.approx(0.3)
    assert paired.ci95 == pytest.approx((0.3 - half, 0.3 + half), abs=1e-4)
    _, [row] = differences(results)
    told = [text.replace("\u00a0", " ") for text in row]
    assert told == ["ours", "theirs", f"30.0 ± {100 * half:.1f}", "+30.0, +20.0, +40.0"]


def test_an_interval_is_possible_or_withheld():
    """Two orders would give 27.8 ± 281.9."""
    assert str(Measure(((0.0563,), (0.5,)))) == "27.8"
    assert Measure(((0.1, 0.2, 0.3),)).ci95 is not None
    assert Measure(((0.1, 0.2), (0.3, 0.4))).ci95 is None
    low, high = Measure(((0.02,), (0.01,), (0.09,))).ci95
    assert low == 0.0
    assert high == pytest.approx(0.04 + 4.303 * 0.0436 / 3**0.5, abs=1e-3)
    assert Measure(((0.9,), (-0.9,), (0.0,)), least=-1.0).ci95 == (-1.0, 1.0)


def test_an_interval_of_one_memory_is_over_trainings():
    results = Results(("same", "other"), 1, same_at_end={"same"})
    values = ((0.5, 0.6), (0.55, 0.65))
    for method in results.methods:
        for order, repeats in enumerate(values):
            for repeat, value in enumerate(repeats):
                results.add(Row(method, order, repeat, 0, (value,), (10,)))
    same, other = results.final("same"), results.final("other")
    assert (same.over, other.over) == ("4 trainings", "2 orders")
    assert same.ci95 == pytest.approx(Statistic(((0.5, 0.6, 0.55, 0.65),)).ci95)
    assert other.ci95 is None
    assert any("memory of same is the same in all orders" in line for line in explained(results))
    assert not any("memory of other" in line for line in explained(results))


def test_what_is_not_complete_is_not_reported():
    results = Results(("m",), 2)
    results.add(Row("m", 0, 0, 1, (0.5, 0.5), (1, 1)))  # step 0 is missing
    assert results.average("m") is None
    assert results.at("m", 0) is None


# ---- runs


@pytest.mark.slow
def test_bounds_filled_memories_and_a_large_first_step(world, tmp_path):
    """The bounds need no memory; joint training sees all images so far, fine-tuning forgets."""
    plan = Plan(
        steps=2,
        base=(6,),
        mode="replay",
        strategy="der++",
        methods=("finetune", "joint", "class-balanced", "random+real"),
        ipc=2,
        orders=1,
        repeats=1,
        network="convnet-d2-w8",
        epochs=3,
        batch=32,
    )
    results = run(world.dataset, plan, tmp_path / "out", quiet=True)
    order = class_order(10, 0)
    assert results.rows["joint", 0, 0, 1].images == tuple(
        int(world.dataset.test.counts()[list(group)].sum()) for group in (order[:6], order[6:])
    )
    forgetting = {method: results.forgetting(method).mean for method in plan.methods}
    assert forgetting["joint"] < forgetting["finetune"]
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["memory"]["finetune"]["images"] == 0
    assert told["memory"]["joint"]["images"] == len(world.dataset.train)
    assert told["memory"]["joint"]["seconds"] is None
    assert all(results.bwt(method) and results.fwt(method) for method in plan.methods)
    assert told["memory"]["random+real"]["uint8"] == told["memory"]["class-balanced"]["uint8"]


def test_a_set_made_of_all_classes_at_once_is_told_of(world, tmp_path):
    joint = select(
        "herding", world.dataset, 1, preprocess=world.preprocess, seed=0, feature_epochs=1
    )
    path = str(joint.save(tmp_path / "set.safetensors"))
    plan = Plan(
        steps=2, methods=(path,), ipc=1, orders=1, repeats=1, network="convnet-d2-w8", epochs=0
    )
    results = run(world.dataset, plan, tmp_path / "out", quiet=True)
    assert any("made of all classes at once" in note for note in results.notes)
    assert any(note in (tmp_path / "out" / "report.html").read_text() for note in results.notes)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", sorted(plugins.STRATEGIES))
def test_every_strategy_of_the_command_with_every_kind_of_memory(world, tmp_path, strategy):
    plan = Plan(
        steps=2,
        mode="replay",
        strategy=strategy,
        methods=("class-balanced", "random", "random+real"),
        ipc=2,
        orders=1,
        repeats=1,
        network="convnet-d2-w8",
        epochs=2,
        batch=16,
    )
    results = run(world.dataset, plan, tmp_path / "out", quiet=True)
    assert results.left == 0
    # After one experience of five classes, every network is better than chance among them.
    for method in plan.methods:
        assert results.at(method, 0).mean > 0.2
