"""The protocol.

What memories are made of, what is measured, what a crash costs; and that both ways of training
agree.
"""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
import torch

from condense import UserError, load_dataset, recipe_for
from condense.data.images import Dataset, Images
from condense.runs.shelf import Shelf
from continual import Plan, resume, run
from continual import study as protocol
from continual.memories import FEATURE_EPOCHS, memories, parse, quantised, separable

TINY = "datadam:loss_scale=100,real_batch=8,network=convnet-d2-w16"
PLAN = Plan(
    steps=5,
    methods=("random", TINY),
    ipc=2,
    orders=2,
    repeats=2,
    network="convnet-d2-w16",
    epochs=3,
    batch=16,
    condense_steps=3,
)


@pytest.fixture
def shelf(world, tmp_path) -> Shelf:
    return Shelf(folder=tmp_path / "memories", preprocess=world.preprocess, quiet=True)


# ---- memories


def noise_in(images: Images, classes: list[int]) -> Images:
    """The images with those of some classes replaced by noise."""
    pixels = images.pixels.clone()
    spoilt = torch.isin(images.labels, torch.tensor(classes))
    pixels[spoilt] = torch.randint(
        0, 256, pixels[spoilt].shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Images(pixels, images.labels, images.classes)


BEST = "best:real_batch=8,network=convnet-d2-w8,pool=1,pool_steps=3"


@pytest.mark.parametrize(
    "method",
    [
        "random",
        "herding",
        TINY,
        BEST,
        f"{BEST},soft_labels=true",
        "official-code:network=convnet-d2-w16-batch,real_batch=8",
    ],
)
def test_no_future_class_and_no_test_image_reaches_a_memory(world, shelf, tmp_path, method):
    """Other images of the later classes, and other test images, leave the memories of the earlier
    steps bit for bit the same.
    """
    groups = [(3, 1), (4, 0), (5, 9), (2, 6), (8, 7)]
    other = Dataset(
        "digits",
        noise_in(world.dataset.train, [5, 9, 2, 6, 8, 7]),
        noise_in(world.dataset.test, list(range(10))),
    )
    made = []
    for number, dataset in enumerate((world.dataset, other)):
        how = parse(method, dataset, 2, 3)
        own = dataclasses.replace(shelf, folder=tmp_path / str(number))
        made.append(memories(how, dataset, groups, own, ipc=2))
    for step, group in enumerate(groups):
        ours, theirs = made[0][step], made[1][step]
        assert ours.counts().nonzero().flatten().tolist() == sorted(group)
        assert ours.classes == world.dataset.classes
        assert torch.equal(ours.class_of(), theirs.class_of())
        assert torch.equal(ours.labels, theirs.labels) == (step < 2 or not ours.soft)
        assert torch.equal(ours.images, theirs.images) == (step < 2)


def test_what_joins_classes_is_made_step_by_step(world):
    separate, joined = ("random", TINY), ("herding", "kcenter", "official-code", BEST)
    for method in (*separate, *joined):
        assert separable(parse(method, world.dataset, 2, None), world.dataset) == (
            method in separate
        )


def test_selected_memories_are_training_images_of_their_class(world, shelf):
    for method in ("random", "herding", "kcenter"):
        how = parse(method, world.dataset, 2, None)
        (memory,) = memories(how, world.dataset, [(4, 2)], shelf, ipc=2)
        for c in (2, 4):
            real = {
                image.numpy().tobytes()
                for image in world.dataset.train.pixels[world.dataset.train.of_class(c)]
            }
            assert {
                image.numpy().tobytes()
                for image in quantised(memory).preprocess.quantise(memory.per_class(c))
            } <= real
        if method != "random":
            assert memory.provenance["feature_epochs"] == FEATURE_EPOCHS


def test_methods_by_name(world, tmp_path):
    recipe = parse("datadam:loss_scale=7,lr=3", world.dataset, 2, 11)
    assert (recipe.method.loss_scale, recipe.lr, recipe.steps, recipe.preprocess) == (
        7.0,
        3.0,
        11,
        "standard",
    )
    assert parse("dm", world.dataset, 2, None) == recipe_for("dm", "digits", (1, 8, 8), 2)
    path = world.memory.save(tmp_path / "set.safetensors")
    assert parse(str(path), world.dataset, 2, None).fingerprint == world.memory.fingerprint
    with pytest.raises(UserError, match="unknown method `dadatam`"):
        parse("dadatam", world.dataset, 2, None)
    with pytest.raises(UserError, match="unknown setting of datadam `loss`"):
        parse("datadam:loss=3", world.dataset, 2, None)
    half = dataclasses.replace(
        world.memory, images=world.memory.images[:20], labels=world.memory.labels[:20]
    )
    with pytest.raises(UserError, match="no images of 5, 6, 7, 8, 9"):
        parse(str(half.save(tmp_path / "half.safetensors")), world.dataset, 2, None)
    foreign = dataclasses.replace(world.memory, classes=world.memory.classes[::-1])
    with pytest.raises(UserError, match="the set has classes"):
        parse(str(foreign.save(tmp_path / "foreign.safetensors")), world.dataset, 2, None)


# ---- runs


def test_a_run_is_complete_and_condenses_once(world, tmp_path, monkeypatch):
    results = run(world.dataset, PLAN, tmp_path / "a", quiet=True)
    assert len(results.rows) == 2 * 2 * 2 * 5
    made = [path.parent.name for path in (tmp_path / "a" / "memories").glob("*/set.safetensors")]
    assert sorted(name.split("-")[0] for name in made) == ["datadam", "random"]
    for name in ("accuracy.png", "report.html", "summary.json", "trials.sqlite"):
        assert (tmp_path / "a" / name).stat().st_size > 0
    told = json.loads((tmp_path / "a" / "summary.json").read_text())
    seconds = {method: memory.pop("seconds") for method, memory in told["memory"].items()}
    expected = {"images": 20, "bytes": 1280, "uint8": 1280, "float32": 5120}
    assert told["memory"]["random"] == expected
    assert 0 < seconds["random"] < seconds[TINY]
    values = [
        row.accuracies for row in results.rows.values() if row.method == TINY and row.step == 0
    ]
    assert told["differences"][f"{TINY} - random"]["mean"] == pytest.approx(
        results.final(TINY).mean - results.final("random").mean
    )
    assert results.same_at_end == {"random", TINY}
    assert any("fitted on the training images of all classes" in note for note in told["notes"])
    assert told["methods"][TINY]["steps"][0]["mean"] == pytest.approx(
        fmean(v for accuracies in values for v in accuracies)
    )
    for row in results.rows.values():
        assert len(row.accuracies) == len(row.images) == row.step + 1
        assert (row.ahead is None) == (row.step == 4)
        assert sum(row.images) <= len(world.dataset.test)
    last = [row for row in results.rows.values() if row.step == 4]
    assert all(sum(row.images) == len(world.dataset.test) for row in last)

    monkeypatch.setattr(
        "condense.runs.engine.Engine.step", lambda *_: pytest.fail("condensed again")
    )
    other = dataclasses.replace(PLAN, steps=2, methods=(TINY,), orders=1, repeats=1)
    run(world.dataset, other, tmp_path / "b", cache=tmp_path / "a" / "memories", quiet=True)
    (tmp_path / "b" / "trials.sqlite").unlink()
    (tmp_path / "a" / "memories").rename(tmp_path / "moved")
    resume(tmp_path / "b", world.dataset, cache=tmp_path / "moved", quiet=True)


def test_bad_input_is_named_before_anything_is_made(world, tmp_path):
    out = tmp_path / "out"
    for changes, message in (
        ({"steps": 3}, "3 steps do not divide 10 classes: give one of 1, 2, 5, 10"),
        ({"methods": ("herdings",)}, "unknown method `herdings`"),
        ({"methods": ("random", "random")}, "each once"),
        ({"mode": "replai"}, "unknown mode"),
        ({"mode": "replay", "strategy": "er-race"}, "unknown strategy `er-race`"),
        ({"methods": ("class-balanced",)}, "--mode replay"),
        ({"methods": ("joint",)}, "--mode replay"),
        ({"methods": ("random+real",)}, "--mode replay"),
        ({"methods": ("random+hard",)}, "--mode replay"),
        (
            {"methods": ("random+hard",), "mode": "replay", "strategy": "scr"},
            "scr classifies by means: give `+real`",
        ),
        ({"base": (10,)}, "a step of 10 of 10 classes, and 4 after it, cannot be"),
        ({"base": (3, 0)}, "a step of 0 of 7 classes"),
        ({"base": (1, 1, 1, 1, 1, 5)}, "a step of 1 of 6 classes, and 0 after it"),
        ({"base": (5,)}, "4 steps do not divide 5 classes"),
        ({"ipc": 500}, "ipc 500 is more than class"),
        ({"orders": 0}, "`orders` is 0"),
        ({"classes": 11}, "cannot take 11 classes of digits: it has 10"),
        ({"storage": "float16"}, "unknown storage"),
        ({"network": "convnet-d9"}, "d9"),
        ({"device": "tpu"}, "--device"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            run(world.dataset, dataclasses.replace(PLAN, **changes), out, quiet=True)
        assert not out.exists()
    with pytest.raises(UserError, match="--minutes 0: it must be above 0"):
        run(world.dataset, PLAN, out, minutes=0, quiet=True)
    with pytest.raises(UserError, match="holds no run"):
        resume(out)
    assert not out.exists()
    quick = dataclasses.replace(PLAN, methods=("random",), orders=1, repeats=1, epochs=0)
    run(world.dataset, quick, out, quiet=True)
    with pytest.raises(UserError, match="--resume"):
        run(world.dataset, quick, out, quiet=True)
    with pytest.raises(UserError, match=r"holds another run \(plan.methods"):
        run(world.dataset, PLAN, out, quiet=True)
    with pytest.raises(UserError, match="found now has content"):
        resume(out, load_dataset("digits"))


def test_a_part_of_the_classes(world, tmp_path):
    plan = dataclasses.replace(PLAN, classes=4, steps=2, methods=("random",), orders=1, repeats=1)
    results = run(world.dataset, plan, tmp_path / "out", quiet=True)
    (row,) = [row for row in results.rows.values() if row.step == 1]
    chosen = sorted(protocol.class_order(10, 0)[:4])
    assert sum(row.images) == int(world.dataset.test.counts()[chosen].sum())


# ---- Avalanche


def test_avalanches_path_and_the_fast_path_agree(digits, tmp_path):
    """GDumb in Avalanche and training from scratch give mean accuracies within 4 points.

    Memories, protocol and network are the same. The deviation of a difference of two means of
    three networks is about one and a half points here.
    """
    plan = Plan(
        steps=2,
        methods=("random",),
        ipc=5,
        orders=1,
        repeats=3,
        network="convnet-d2-w32",
        epochs=100,
        batch=32,
    )
    fast = run(digits, plan, tmp_path / "fast", quiet=True)
    replay = dataclasses.replace(plan, mode="replay", strategy="gdumb")
    slow = run(digits, replay, tmp_path / "avalanche", quiet=True)
    for step in range(2):
        ours, theirs = fast.at("random", step), slow.at("random", step)
        assert ours.mean > 0.6  # both have learnt
        assert theirs.mean == pytest.approx(ours.mean, abs=0.04)


def test_replay_runs_any_memory_and_avalanches_own(world, tmp_path):
    plan = dataclasses.replace(
        PLAN,
        mode="replay",
        strategy="er-ace",
        methods=("random", "class-balanced"),
        orders=1,
        repeats=1,
        epochs=1,
    )
    state = torch.get_rng_state()
    first = run(world.dataset, plan, tmp_path / "a", quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)  # the clock and the global generators decide nothing
    second = run(world.dataset, plan, tmp_path / "b", quiet=True)
    torch.set_rng_state(state)
    assert first.rows == second.rows
    assert len(first.rows) == 2 * 5
    assert list((tmp_path / "a" / "tensorboard").rglob("events.*"))
    told = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert told["memory"]["class-balanced"]["uint8"] == told["memory"]["random"]["uint8"]


def test_without_avalanche_the_fast_path_works_and_the_rest_says_what_to_install(tmp_path):
    code = f"""
import sys
sys.modules["avalanche"] = None
from condense import UserError, load_dataset
from continual import Plan, run
small = dict(ipc=1, orders=1, repeats=1, epochs=1, network="convnet-d2-w16")
plan = Plan(steps=2, methods=("random",), **small)
run(load_dataset("digits"), plan, {str(tmp_path / "out")!r}, quiet=True)
try:
    from continual import CondensedBuffer
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert (
        done.stdout.strip()
        == "`CondensedBuffer` needs Avalanche, which is not installed: pip install avalanche-lib"
    )
