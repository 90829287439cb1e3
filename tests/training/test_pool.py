"""Trained networks to match under.

What a step draws, the loss they calibrate, and that a resumed run finds them again.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from condense import UserError, condense, load_dataset, recipe_for, resume
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.files import load_tensors, save_tensors
from condense.methods.base import Recipe
from condense.networks.base import Network
from condense.networks.build import build
from condense.runs.engine import Engine
from condense.runs.pools import protocol_of
from condense.runs.rehearsal import rehearse
from condense.sets.mosaics import decode
from condense.training.pool import Pool, begin, train_pool, training_of
from condense.training.protocol import Protocol

CPU, NAME, IPC = torch.device("cpu"), "convnet-d2-w8", 2


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def small(digits: Dataset, **changes: object) -> Recipe:
    settings = {
        "network": NAME,
        "real_batch": 8,
        "steps": 6,
        "loss_scale": 100.0,
        "pool": 2,
        "pool_steps": 5,
        **changes,
    }
    return recipe_for("paper", digits.name, digits.shape, IPC).override(settings)


def trained(digits: Dataset, folder: Path | None = None, **changes: object) -> Tensor:
    recipe, preprocess = small(digits, **changes), make_preprocess("standard", digits)
    how = {"preprocess": preprocess, "seed": 3, "device": CPU, "folder": folder}
    return train_pool(digits, recipe.network, recipe.pool, protocol_of(recipe, digits), **how)


def weights(network: Network) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


def test_a_step_matches_under_a_point_between_the_first_and_the_last_weights_of_one(
    digits: Dataset,
) -> None:
    pool, network = trained(digits), build(NAME, digits.shape, 10)
    ways = []
    for which in range(2):
        begin(network, 3, which)
        ways.append((weights(network), pool[which]))
    seen = []
    for step in range(40):
        Pool(pool, 3).draw(network, step)
        drawn = weights(network)
        # The share of the way that explains the first weight explains all of them, for exactly one
        # network.
        shares = [
            ((drawn - first) @ (last - first) / (last - first).square().sum()).item()
            for first, last in ways
        ]
        fits = [
            (first.lerp(last, share) - drawn).abs().max() < 1e-5
            for share, (first, last) in zip(shares, ways, strict=True)
        ]
        assert sum(fits) == 1
        seen.append((fits.index(True), shares[fits.index(True)]))
        Pool(pool, 3).draw(network, torch.tensor(step))
        assert torch.equal(weights(network), drawn)
    assert {which for which, _ in seen} == {0, 1}
    assert all(0 <= share <= 1 for _, share in seen)
    assert len({round(share, 4) for _, share in seen}) > 30


def test_a_stage_is_a_part_of_the_way(digits: Dataset) -> None:
    pool, network = trained(digits, pool=1), build(NAME, digits.shape, 10)
    begin(network, 3, 0)
    first = weights(network)
    whole, late = [], []
    for stage, shares in (((0.0, 1.0), whole), ((0.6, 0.8), late)):
        for step in range(10):
            Pool(pool, 3, stage).draw(network, step)
            shares.append(
                (
                    ((weights(network) - first) @ (pool[0] - first))
                    / (pool[0] - first).square().sum()
                ).item()
            )
    assert late == pytest.approx([0.6 + 0.2 * share for share in whole], abs=1e-5)
    with pytest.raises(UserError, match=r"`pool_from` is 0\.9: it must be in \[0, 0\.8\]"):
        small(digits, pool_from=0.9, pool_to=0.8)


def test_training_a_pool_repeats_differs_by_network_and_learns(digits: Dataset) -> None:
    first, again = trained(digits), trained(digits)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    network = build(NAME, digits.shape, 10)
    vector_to_parameters(trained(digits, pool=1, pool_steps=150)[0], network.parameters())
    images = make_preprocess("standard", digits).apply(digits.test.pixels)
    assert (network(images).argmax(dim=1) == digits.test.labels).float().mean() > 0.5


def test_networks_are_kept_and_only_the_missing_and_damaged_are_trained(
    digits: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = trained(digits, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["network-00.safetensors", "network-01.safetensors"]
    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    assert torch.equal(trained(digits, tmp_path), whole)
    assert files[0].stat().st_mtime_ns == before
    files[0].write_bytes(files[0].read_bytes()[:-1])
    save_tensors(files[1], {"images": torch.zeros(2)}, {})
    assert torch.equal(trained(digits, tmp_path), whole)
    said = capsys.readouterr().err
    assert f"{files[0]} is damaged" in said
    assert f"{files[1]} holds no `weights`" in said


def test_a_run_with_a_pool_resumes_to_the_same_set(digits: Dataset, tmp_path: Path) -> None:
    recipe = small(digits, calibration=0.5, formation=2, discrepancy="cf", attention="both")
    undisturbed = condense(
        digits, ipc=IPC, recipe=recipe, out=tmp_path, checkpoint_every=3, quiet=True
    )
    (tmp_path / "set.safetensors").unlink()
    sorted((tmp_path / "checkpoints").iterdir())[-1].unlink()
    sorted((tmp_path / "pool").iterdir())[0].unlink()
    assert resume(tmp_path, quiet=True).fingerprint == undisturbed.fingerprint
    assert (
        condense(digits, ipc=IPC, recipe=recipe, quiet=True).fingerprint == undisturbed.fingerprint
    )


@pytest.mark.parametrize("method", ["datadam", "dm"])
@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_calibration_is_the_mean_cross_entropy_of_a_class_under_the_drawn_network(
    digits: Dataset, method: str, chunk: int
) -> None:
    recipe = small(digits, calibration=0.7, formation=2, augment="none")
    if method == "dm":
        recipe = dataclasses.replace(
            recipe, method=recipe_for("dm", digits.name, digits.shape, IPC).method
        )
    start = torch.randn(10 * IPC, *digits.shape, generator=torch.Generator().manual_seed(1))
    pool = Pool(trained(digits), 7)
    with_it, without = (
        Engine(
            digits,
            one,
            make_preprocess("standard", digits),
            start,
            seed=7,
            device=CPU,
            chunk=chunk,
            pool=pool,
        )
        for one in (recipe, recipe.override({"calibration": 0.0}))
    )
    network = build(NAME, digits.shape, 10).double()
    leaf = start.double().requires_grad_()
    Pool(pool._trained.double(), 7).draw(network, 4)
    expected = []
    for c in range(10):
        images = decode(leaf[IPC * c : IPC * (c + 1)], 2)
        answers = [network(image[None])[0] for image in images]
        expected.append(
            0.7 * sum(logits.exp().sum().log() - logits[c] for logits in answers) / len(answers)
        )
    (reference,) = torch.autograd.grad(torch.stack(expected).sum(), leaf)
    for engine in (with_it, without):
        pool.draw(engine.network, 4)
    for classes in with_it.chunks:
        rows = slice(int(classes[0]) * IPC, (int(classes[-1]) + 1) * IPC)
        found, gradient = with_it.gradient(classes, start[rows], 4)
        _, plain = without.gradient(classes, start[rows], 4)
        wanted = torch.stack([expected[c] for c in classes.tolist()]).float()
        torch.testing.assert_close(found["calibration"], wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradient - plain, reference[rows].float(), rtol=1e-2, atol=2e-4)


def test_soft_labels_are_half_hard_and_half_the_mean_answer_of_the_trained(
    digits: Dataset, tmp_path: Path
) -> None:
    changes = {"formation": 2, "pool_steps": 60}
    hard, soft = (
        condense(
            digits,
            ipc=IPC,
            recipe=small(digits, soft_labels=labels, **changes),
            out=out,
            quiet=True,
        )
        for labels, out in ((False, None), (True, tmp_path))
    )
    assert torch.equal(hard.images, soft.images)
    network, images = build(NAME, digits.shape, 10), hard.decoded().images
    answers = torch.zeros(20, 10)
    for file in sorted((tmp_path / "pool").iterdir()):
        vector_to_parameters(load_tensors(file)[0]["weights"], network.parameters())
        for n, image in enumerate(images):
            answers[n // 4] += network(image[None])[0].detach().softmax(dim=0) / 8
    assert soft.labels.dtype == torch.float32
    torch.testing.assert_close(soft.labels, (torch.eye(10)[hard.labels] + answers) / 2)
    assert torch.equal(soft.class_of(), hard.labels)


def test_what_a_pool_is_needed_for_is_refused_without_it(digits: Dataset) -> None:
    with pytest.raises(
        UserError, match=r"`calibration` is 0\.5: it must be 0, but for datadam and dm with a pool"
    ):
        small(digits, pool=0, calibration=0.5)
    with pytest.raises(
        UserError, match="`soft_labels` is True: it must be false, or with a pool true"
    ):
        small(digits, pool=0, soft_labels=True)


def test_a_rehearsal_counts_the_training_of_the_pool(digits: Dataset) -> None:
    told = rehearse(digits, ipc=IPC, recipe=small(digits, pool_epochs=10_000, steps=1))
    assert told.total > 100


def test_the_images_that_a_pool_is_trained_on_lie_on_its_device(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that have to be fetched keep a step from becoming a CUDA graph."""
    seen = []

    def trained(network: Network, images: Tensor, *_: object, **__: object) -> None:
        seen.append(images.device.type)
        raise InterruptedError

    monkeypatch.setattr("condense.training.pool.train", trained)
    with pytest.raises(InterruptedError):
        train_pool(
            digits, "convnet-d1-w4", 1, Protocol(epochs=1), seed=0, folder=None,
            preprocess=make_preprocess("standard", digits), device=torch.device("meta"),
        )  # fmt: skip
    assert seen == ["meta"]


def test_few_images_are_passed_over_sixty_times_at_most() -> None:
    few, many = (training_of("idc", images, augment="dsa", steps=6256) for images in (96, 50_000))
    assert (few.epochs, few.length(96)) == (60, 120)
    assert (many.epochs, many.length(50_000)) == (8, 6256)
