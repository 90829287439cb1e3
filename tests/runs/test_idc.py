"""What the family of IDC adds: clamped pixels, calibration in a step of its own, shared pools."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from condense import UserError, condense, load_dataset, recipe_for, resume
from condense.data.augment import make_augment
from condense.data.images import Dataset
from condense.data.preprocess import Preprocess, make_preprocess
from condense.files import load_tensors
from condense.methods.base import Recipe
from condense.networks.build import build
from condense.runs.engine import Engine
from condense.runs.pools import pool_of, protocol_of, steps_of
from condense.sets.mosaics import decode
from condense.training.descent import weights_of
from condense.training.pool import Pool, begin
from condense.training.protocol import Protocol

CPU, NAME, IPC = torch.device("cpu"), "convnet-d2-w8", 2
SMALL = {"network": NAME, "real_batch": 8, "steps": 6, "pool": 2, "pool_epochs": 1}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def small(digits: Dataset, **changes: object) -> Recipe:
    recipe = recipe_for("dance", digits.name, digits.shape, IPC)
    return recipe.override({**SMALL, **changes})


@pytest.fixture(scope="module")
def pool(digits: Dataset) -> Pool:
    recipe = small(digits)
    return pool_of(digits, recipe, make_preprocess("standard", digits), seed=7, device=CPU)


def engine(digits: Dataset, pool: Pool, **options: object) -> Engine:
    changes = options.pop("changes", {})
    preprocess = make_preprocess("standard", digits)
    pixels = torch.rand(10 * IPC, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    start = preprocess.apply((pixels * 255).to(torch.uint8))
    how = {"seed": 7, "device": CPU, "pool": pool, **options}
    return Engine(digits, small(digits, **changes), preprocess, start, **how)  # type: ignore[arg-type]


def outside(preprocess: Preprocess, images: Tensor) -> int:
    """How many values are not those of a pixel in [0, 1]."""
    pixels = preprocess.unapply(images)
    return int(((pixels < -1e-5) | (pixels > 1 + 1e-5)).sum())


@pytest.mark.parametrize("name", ["standard", "zca"])
def test_clamped_images_are_what_a_picture_can_hold(digits: Dataset, name: str) -> None:
    preprocess = make_preprocess(name, digits)
    images = 3 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = preprocess.unapply(images).clamp(0, 1)
    clamped = preprocess.clamp(images)
    torch.testing.assert_close(preprocess.unapply(clamped), wanted, rtol=1e-4, atol=1e-4)
    assert outside(preprocess, images) > 50


def test_standardised_pixels_within_bounds_keep_their_bits(digits: Dataset) -> None:
    preprocess = make_preprocess("standard", digits)
    images = 3 * torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    low, high = ((end - preprocess.mean) / preprocess.std for end in (0, 1))  # type: ignore[attr-defined]
    inside = (images >= low) & (images <= high)
    assert torch.equal(preprocess.clamp(images)[inside], images[inside])
    real = preprocess.apply(digits.train.pixels[:50])
    assert torch.equal(preprocess.clamp(real), real)


def test_every_step_is_clamped(digits: Dataset, pool: Pool) -> None:
    preprocess = make_preprocess("standard", digits)
    free = engine(digits, pool, changes={"clamp": False, "lr": 20.0})
    clamped = engine(digits, pool, changes={"lr": 20.0})
    for step in range(3):
        free.step(step)
        clamped.step(step)
        assert outside(preprocess, clamped.images) == 0
    assert outside(preprocess, free.images) > 0


@pytest.mark.parametrize("chunk", [1, 5, 10])
def test_a_step_matches_and_then_calibrates_under_the_last_weights(
    digits: Dataset, pool: Pool, chunk: int
) -> None:
    """Class by class in float64: matched, moved, calibrated where that has led, and moved again.

    Each move is clamped.
    """
    fast = engine(digits, pool, chunk=chunk)
    matched = engine(digits, pool, chunk=chunk, changes={"calibration": 0.0})
    preprocess, lr = make_preprocess("standard", digits), fast.recipe.lr
    augment, images = make_augment("idc-noflip"), fast.images.clone()
    parts = fast.step(4)
    pool.draw(matched.network, 4)
    last = build(NAME, digits.shape, 10)
    pool.draw_last(last, 4)
    last.double()
    total = 0.0
    for c in range(10):
        label, rows = torch.tensor([c]), slice(IPC * c, IPC * (c + 1))
        _, first = matched.gradient(label, images[rows], 4)
        moved = preprocess.clamp(images[rows] - lr * first)
        leaf = moved.double().requires_grad_()
        seen = augment.matching(decode(leaf, 2), label, 7, 4)
        losses = [F.cross_entropy(last(image[None]), label) for image in seen]
        loss = sum(losses) / len(losses)
        (second,) = torch.autograd.grad(loss, leaf)
        total += loss.item()
        momentum = 0.5 * first + second.float()
        wanted = preprocess.clamp(moved - lr * momentum)
        torch.testing.assert_close(fast.images[rows], wanted, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(fast.momentum[rows], momentum, rtol=1e-2, atol=1e-3)
    assert parts["calibration"].item() == pytest.approx(total, rel=1e-4)


@pytest.mark.slow
def test_a_compiled_step_is_the_plain_one(digits: Dataset, pool: Pool) -> None:
    # A compiled network may work in bfloat16, which rounds to 2**-9 of a value: after a pass
    # forward and one back that is some 6 % of a move.
    plain, compiled = (engine(digits, pool, compiled=how) for how in (False, True))
    before = plain.images.clone()
    parts = [one.read(one.step(0), 1) for one in (plain, compiled)]
    assert parts[0] == pytest.approx(parts[1], rel=0.02)
    moved = (plain.images - before).norm()
    assert (plain.images - compiled.images).norm() < 0.1 * moved


def test_a_rate_along_a_cosine_moves_the_images_by_as_much(digits: Dataset, pool: Pool) -> None:
    steps, lr = 4, 0.3
    changes = {"schedule": "cosine", "steps": steps, "lr": lr, "clamp": False, "calibration": 0.0}
    falling = engine(digits, pool, changes=changes)
    for step in range(steps):
        before = falling.images.clone()
        falling.step(step)
        rate = lr * (1 + torch.cos(torch.tensor(torch.pi * step / steps))) / 2
        torch.testing.assert_close(falling.images, before - rate * falling.momentum)


def test_the_last_weights_are_those_of_the_network_that_was_drawn(
    digits: Dataset, pool: Pool
) -> None:
    drawn, last = build(NAME, digits.shape, 10), build(NAME, digits.shape, 10)
    at_the_end = Pool(pool._trained, 7, (1.0, 1.0), origin=0)
    for step in range(8):
        at_the_end.draw(drawn, step)
        pool.draw_last(last, step)
        for a, b in zip(drawn.parameters(), last.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_step_may_match_under_the_weights_after_a_pass(digits: Dataset, tmp_path: Path) -> None:
    recipe = small(digits, pool_epochs=3, pool_points="passes")
    preprocess = make_preprocess("standard", digits)
    how = {"seed": 7, "device": CPU}
    stored = pool_of(digits, recipe, preprocess, shared=tmp_path, **how)
    kept = torch.stack(
        [load_tensors(path)[0]["weights"] for path in sorted(tmp_path.glob("*-passes/network-*"))]
    )
    assert (kept.shape[:2], kept.dtype) == ((2, 4), torch.float16)
    network, seen = build(NAME, digits.shape, 10), set()
    for which in range(
        2
    ):  # the first are what training starts from, and the last what it ends with
        begin(network, 0, which)
        torch.testing.assert_close(
            kept[which, 0].float(), weights_of(network), rtol=1e-3, atol=1e-4
        )
    plain = pool_of(digits, recipe.override({"pool_points": "line"}), preprocess, **how)
    torch.testing.assert_close(kept[:, -1].float(), plain._trained[:, 0], rtol=1e-3, atol=1e-4)
    for step in range(60):
        stored.draw(network, step)
        drawn = weights_of(network)
        seen |= {(p, t) for p in range(2) for t in range(4) if drawn.equal(kept[p, t].float())}
        stored.draw(network, torch.tensor(step))
        assert weights_of(network).equal(drawn)
    assert seen == {(p, t) for p in range(2) for t in range(4)}
    late = Pool(kept, 7, (0.5, 1.0))
    for step in range(20):
        late.draw(network, step)
        assert any(weights_of(network).equal(one.float()) for one in kept[:, 2:].flatten(0, 1))
        late.draw_last(network, step)
        assert any(weights_of(network).equal(one.float()) for one in kept[:, -1])
    runs = [condense(digits, ipc=1, recipe=recipe, pools=tmp_path, quiet=True) for _ in range(2)]
    assert runs[0].fingerprint == runs[1].fingerprint


def test_replayed_and_resumed_steps_give_the_same_bits(
    digits: Dataset, pool: Pool, replays: Any
) -> None:
    undisturbed, resumed = (engine(digits, pool) for _ in range(2))
    again = replays.engine(lambda: engine(digits, pool))
    for step in range(3):
        undisturbed.step(step)
        again.step(step)
    resumed.step(0)
    state = resumed.state()
    resumed = engine(digits, pool)
    resumed.load_state(state)
    resumed.step(1)
    resumed.step(2)
    assert torch.equal(undisturbed.images, again.images)
    assert torch.equal(undisturbed.images, resumed.images)


def test_ranks_share_the_classes_and_change_no_bit(digits: Dataset, pool: Pool) -> None:
    alone = engine(digits, pool, chunk=2)
    together = [engine(digits, pool, chunk=2, rank=rank, ranks=2) for rank in range(2)]
    for step in range(2):
        for one in (alone, *together):
            one.step(step)
    gathered = torch.empty_like(alone.images).unflatten(0, (10, IPC))
    for one in together:
        gathered[one.classes] = one.images.unflatten(0, (-1, IPC))
    assert torch.equal(gathered.flatten(0, 1), alone.images)


def test_a_step_never_waits_for_a_value(
    digits: Dataset, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, number, rate = engine(digits, pool), torch.tensor(3), torch.tensor(1.0)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a step read a value on the host")

    for name in ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__index__"):
        monkeypatch.setattr(Tensor, name, read)
    fast._initialise(number)
    fast._move(fast.classes, fast.images, fast.momentum, number, rate)


def test_the_pool_is_trained_as_the_family_trains_it(digits: Dataset) -> None:
    recipe = small(digits, pool_epochs=60)
    assert protocol_of(recipe, digits) == Protocol(
        epochs=60, batch=64, lr=0.01, momentum=0.9, weight_decay=5e-4,
        augment="color+crop", cutmix=0.5, schedule="stairs",
    )  # fmt: skip
    a_pass = -(-len(digits.train) // 64)
    assert steps_of(recipe, digits) == 2 * 60 * a_pass
    protocol, steps = protocol_of(recipe, digits), 60 * a_pass
    rates = [protocol.rate(1 + step // a_pass, step, steps) for step in range(steps)]
    for epoch, rate in ((1, 0.01), (40, 0.01), (41, 0.002), (50, 0.002), (51, 0.0004)):
        assert rates[(epoch - 1) * a_pass : epoch * a_pass] == pytest.approx([rate] * a_pass)


def test_runs_of_all_seeds_and_sizes_share_a_pool(digits: Dataset, tmp_path: Path) -> None:
    recipe, pools = small(digits, steps=2), tmp_path / "pools"
    first = condense(digits, ipc=2, recipe=recipe, out=tmp_path / "a", pools=pools, quiet=True)
    (folder,) = (path for path in pools.iterdir() if path.is_dir())
    assert not (tmp_path / "a" / "pool").exists()
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(made) == 2
    for ipc, seed in ((2, 1), (1, 0)):
        condense(digits, ipc=ipc, recipe=recipe, seed=seed, pools=pools, quiet=True)
    larger = recipe.override({"pool": 3})
    condense(digits, ipc=1, recipe=larger, pools=pools, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert len(list(folder.iterdir())) == 3
    condense(digits, ipc=1, recipe=recipe.override({"pool_seed": 1}), pools=pools, quiet=True)
    assert len([path for path in pools.iterdir() if path.is_dir()]) == 2
    # Where it is kept changes nothing, and a pool of one's own is the same.
    own = condense(digits, ipc=2, recipe=recipe, out=tmp_path / "b", quiet=True)
    assert own.fingerprint == first.fingerprint
    for number in range(2):
        name = f"network-{number:02}.safetensors"
        ours, theirs = (load_tensors(at / name)[0] for at in (tmp_path / "b" / "pool", folder))
        assert torch.equal(ours["weights"], theirs["weights"])


def test_a_run_resumes_to_the_same_file_and_finds_its_shared_pool(
    digits: Dataset, tmp_path: Path
) -> None:
    run, pools = tmp_path / "run", tmp_path / "pools"
    undisturbed = condense(
        digits, ipc=IPC, recipe=small(digits), out=run, pools=pools, checkpoint_every=3, quiet=True
    )
    (run / "set.safetensors").unlink()
    sorted((run / "checkpoints").iterdir())[-1].unlink()
    next(pools.glob("*/network-01*")).unlink()  # one has to be trained again
    assert resume(run, quiet=True).fingerprint == undisturbed.fingerprint
    assert len(list(pools.glob("*/network-*"))) == 2


def test_what_cannot_be_is_named(digits: Dataset) -> None:
    for changes, message in (
        ({"calibrate_under": "end"}, "`calibrate_under` is 'end': it must be drawn or last"),
        ({"pool_training": "idcc"}, "did you mean `idc`"),
        ({"pool_points": "all"}, "`pool_points` is 'all': it must be line or passes"),
        ({"pool_epochs": 0}, "`pool_epochs` is 0: it must be 1 or more"),
    ):
        with pytest.raises(UserError, match=message):
            small(digits, **changes)
    recipe = recipe_for("dc", digits.name, digits.shape, 1).override({"clamp": True, "steps": 1})
    with pytest.raises(UserError, match="no mosaics, no pool, no clamping"):
        condense(digits, ipc=1, recipe=recipe, quiet=True)
