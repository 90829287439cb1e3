"""The engine against a plain step.

The same draws, but loops over classes and images, eager, in the default layout.
"""

from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from torch._subclasses import FakeTensorMode

from condense.data.augment import make_augment
from condense.data.batches import RealImages
from condense.data.images import Dataset, Images
from condense.data.preprocess import make_preprocess
from condense.errors import UserError
from condense.methods import DataDAM
from condense.methods.base import Diverged, Recipe
from condense.networks.accelerate import Compiled
from condense.networks.build import build, initialise
from condense.runs.chunks import chunks_of
from condense.runs.engine import Engine

CPU = torch.device("cpu")
CLASSES, IPC, SIDE = 6, 3, 16


def dataset_of(counts: list[int], side: int = SIDE) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (sum(counts), 3, side, side), dtype=torch.uint8, generator=generator
    )
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = Images(pixels, labels, tuple(f"class {c}" for c in range(len(counts))))
    return Dataset("made up", images, images)


def recipe(**changes: object) -> Recipe:
    method = DataDAM(loss_scale=10.0, task_balance=0.1)
    return Recipe(
        name="test", method=method, network="convnet-w16", real_batch=8, steps=10
    ).override(changes)


def engine(changes: dict | None = None, **options: object) -> Engine:
    dataset, chosen = dataset_of([20] * CLASSES), recipe(**(changes or {}))
    start = torch.randn(CLASSES * IPC, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    return Engine(
        dataset, chosen, make_preprocess("standard", dataset), start, seed=7, device=CPU, **options
    )  # type: ignore[arg-type]


def plain_step(images: Tensor, changes: dict, step: int) -> tuple[dict[str, list[float]], Tensor]:
    """Loss parts of each class and the gradient, by the definitions, one class and one image at a
    time, in float64.
    """
    dataset, chosen = dataset_of([20] * CLASSES), recipe(**changes)
    network = build(chosen.network, dataset.shape, CLASSES)
    initialise(network, 7, step)
    network.double().requires_grad_(False)
    batches = RealImages(dataset, make_preprocess("standard", dataset), chosen.real_batch, 7, CPU)
    augment = make_augment(chosen.augment)
    leaf = images.double().requires_grad_()
    joint = "batch" in chosen.network
    classes = [torch.tensor([c]) for c in range(CLASSES)]
    real = [augment.matching(batches.batch(c, step).double(), c, 7, step) for c in classes]
    synthetic = [
        augment.matching(leaf[c * IPC : (c + 1) * IPC], torch.tensor([c]), 7, step)
        for c in range(CLASSES)
    ]

    def observe(batch: list[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
        if not joint:
            return [network.observe(of_class) for of_class in batch]
        maps, embedding = network.observe(torch.cat(batch))
        size = len(batch[0])
        return [
            ([m[c * size : (c + 1) * size] for m in maps], embedding[c * size : (c + 1) * size])
            for c in range(CLASSES)
        ]

    parts: dict[str, list[float]] = {"attention": [], "mmd": []}
    total = torch.zeros((), dtype=torch.float64)
    for (real_maps, real_embedding), (maps, embedding) in zip(
        observe(real), observe(synthetic), strict=True
    ):
        attention = torch.zeros((), dtype=torch.float64)
        for real_map, one_map in zip(real_maps[:-1], maps[:-1], strict=True):
            means = []
            for layer in (real_map, one_map):
                vectors = [image.abs().pow(4).sum(0).flatten() for image in layer]
                means.append(torch.stack([v / v.norm() for v in vectors]).mean(0))
            attention = attention + ((means[0] - means[1]) ** 2).sum()
        mmd = 0.1 * ((real_embedding.mean(0) - embedding.mean(0)) ** 2).sum()
        parts["attention"].append(10 * attention.item())
        parts["mmd"].append(10 * mmd.item())
        total = total + 10 * (attention + mmd)
    total.backward()
    assert leaf.grad is not None
    return parts, leaf.grad


def check_against_plain(
    fast: Engine, changes: dict, rtol: float, gradient_tolerance: float
) -> None:
    parts, gradient = plain_step(fast.images.clone(), changes, 3)
    initialise(fast.network, 7, 3)
    found_gradient = []
    for classes in fast.chunks:
        found, of_chunk = fast.gradient(
            classes, fast.images[classes[0] * IPC : (classes[-1] + 1) * IPC], 3
        )
        found_gradient.append(of_chunk)
        for name, values in found.items():
            wanted = torch.tensor([parts[name][c] for c in classes.tolist()])
            torch.testing.assert_close(values, wanted, rtol=rtol, atol=1e-6)
    assert (torch.cat(found_gradient) - gradient).norm() < gradient_tolerance * gradient.norm()


@pytest.mark.parametrize("chunk", [1, 2, 4, None])
def test_a_step_is_the_plain_one(chunk: int | None) -> None:
    check_against_plain(engine(chunk=chunk), {}, 1e-4, 1e-4)


def test_a_step_is_the_plain_one_under_batch_norm() -> None:
    changes = {"network": "convnet-w16-batch"}
    check_against_plain(engine(changes), changes, 1e-4, 1e-4)


@pytest.mark.slow
def test_a_compiled_step_is_the_plain_one() -> None:
    # bfloat16 rounds to 2**-9 of a value. The fourth power of the attention makes it four times as
    # much, and the gradient goes twice through three layers: some 6 % of it, where the gradients of
    # two steps differ by more than 100 %.
    check_against_plain(engine(compiled=True), {}, 0.05, 0.1)


def test_pixels_move_by_sgd_with_momentum() -> None:
    fast = engine()
    pixels, momentum = fast.images.clone(), torch.zeros_like(fast.images)
    for step in range(3):
        _, gradient = plain_step(pixels, {}, step)
        momentum = 0.5 * momentum + gradient.float()
        pixels = pixels - 1.0 * momentum
        fast.step(step)
        torch.testing.assert_close(fast.images, pixels, rtol=1e-3, atol=1e-4)


def test_chunks_change_rounding_only_and_none_changes_the_draws() -> None:
    whole, chunked, again = engine(chunk=CLASSES), engine(chunk=2), engine(chunk=2)
    for step in range(3):
        for one in (whole, chunked, again):
            one.step(step)
    torch.testing.assert_close(whole.images, chunked.images, rtol=1e-4, atol=1e-5)
    assert torch.equal(chunked.images, again.images)


def test_going_on_from_a_saved_state_gives_the_same_bits() -> None:
    undisturbed, stopped, resumed = engine(), engine(), engine()
    for step in range(4):
        undisturbed.step(step)
    stopped.step(0)
    stopped.step(1)
    resumed.load_state(stopped.state())
    resumed.step(2)
    resumed.step(3)
    assert torch.equal(undisturbed.images, resumed.images)


def test_a_state_saved_before_the_first_step_is_a_start() -> None:
    undisturbed, resumed = engine(), engine()
    resumed.load_state(resumed.state())
    undisturbed.step(0)
    resumed.step(0)
    assert torch.equal(undisturbed.images, resumed.images)


@pytest.mark.parametrize("ranks", [2, 3])
def test_every_rank_has_classes_unless_the_user_asks_for_larger_chunks(ranks: int) -> None:
    shares = [engine(rank=rank, ranks=ranks).classes.tolist() for rank in range(ranks)]
    assert all(shares)
    assert sorted(chain(*shares)) == list(range(CLASSES))


@pytest.mark.parametrize(
    ("classes", "ipc", "size", "ranks", "wanted"),
    [
        (10, 50, 32, 1, 10),  # CIFAR-10 in one
        (10, 50, 32, 8, 1),
        (100, 1, 32, 1, 25),  # 256 real images of 32 classes at most
        (1000, 50, 64, 1, 2),
        (1000, 1, 224, 1, 1),  # not even one class fits: one it is
    ],
)
def test_on_a_gpu_a_chunk_has_few_enough_real_and_synthetic_images(
    classes: int, ipc: int, size: int, ranks: int, wanted: int
) -> None:
    place, loads = torch.device("cuda"), (ipc * size * size, 256 * size * size)
    with FakeTensorMode():
        chunks = chunks_of(classes, *loads, joint=False, device=place, ranks=ranks)
    assert {len(chunk) for chunk in chunks} == {wanted}
    assert len(chunks) >= ranks


def test_batch_norm_refuses_chunks() -> None:
    with pytest.raises(UserError, match="BatchNorm joins all 6 classes"):
        engine({"network": "convnet-w16-batch"}, chunk=2)
    assert len(engine({"network": "convnet-w16-batch"}).chunks) == 1
    with pytest.raises(UserError, match="ranks cannot share"):
        engine({"network": "convnet-w16-batch"}, ranks=2)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_classes_and_change_no_bit(ranks: int) -> None:
    alone = engine(chunk=1)
    together = [engine(chunk=1, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(3):
        for one in (alone, *together):
            one.step(step)
    gathered = torch.empty_like(alone.images).unflatten(0, (CLASSES, IPC))
    for one in together:
        gathered[one.classes] = one.images.unflatten(0, (-1, IPC))
    assert torch.equal(gathered.flatten(0, 1), alone.images)
    with pytest.raises(UserError, match="more than there are chunks"):
        engine(chunk=3, rank=2, ranks=3)


def test_out_of_memory_halves_the_chunk_and_changes_rounding_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    roomy, tight = engine(chunk=CLASSES), engine(chunk=CLASSES)
    gradient = tight.gradient

    def limited(classes: Tensor, images: Tensor, step: int) -> tuple[dict[str, Tensor], Tensor]:
        if len(classes) > 2:
            raise torch.OutOfMemoryError
        return gradient(classes, images, step)

    monkeypatch.setattr(tight, "gradient", limited)
    for step in range(3):
        losses = roomy.read(roomy.step(step), step)
        assert tight.read(tight.step(step), step) == pytest.approx(losses, rel=1e-3)
    torch.testing.assert_close(tight.images, roomy.images, rtol=1e-4, atol=1e-5)
    assert (
        capsys.readouterr().err.count("out of GPU memory") == 2
    )  # 6 classes, then 3: once each, not in every step


def test_a_hopeless_learning_rate_diverges_by_name() -> None:
    hopeless = engine({"lr": 1e12})
    with pytest.raises(Diverged, match="by step 1 "):
        hopeless.read(hopeless.step(0), 1)


@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    per_class=st.integers(1, 9),
    step=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_real_batches_hold_the_right_classes_and_repeat_none_before_all_are_used(
    counts: list[int], per_class: int, step: int
) -> None:
    dataset = dataset_of(counts, side=4)
    # Pixels that name their image, so that a batch tells what was drawn.
    names = (
        torch.arange(len(dataset.train), dtype=torch.uint8)[:, None, None, None]
        .expand(-1, 3, 4, 4)
        .contiguous()
    )
    named = Dataset("named", Images(names, dataset.train.labels, dataset.classes), dataset.test)
    preprocess = make_preprocess("standard", named)
    batches = RealImages(named, preprocess, per_class, 0, CPU)
    batch = preprocess.quantise(batches.batch(torch.arange(len(counts)), step))[:, 0, 0, 0].long()
    for c, of_class in enumerate(batch.view(len(counts), per_class)):
        assert (named.train.labels[of_class] == c).all()
        times = of_class.bincount(minlength=len(named.train))[named.train.of_class(c)]
        assert times.max() - times.min() <= 1
    alone = preprocess.quantise(batches.batch(torch.tensor([len(counts) - 1]), step))[
        :, 0, 0, 0
    ].long()
    assert torch.equal(alone, batch[-per_class:])


def test_every_image_of_a_class_is_as_likely() -> None:
    dataset = dataset_of([10], side=4)
    names = (
        torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).contiguous()
    )
    named = Dataset("named", Images(names, dataset.train.labels, dataset.classes), dataset.test)
    preprocess = make_preprocess("standard", named)
    batches = RealImages(named, preprocess, 3, 0, CPU)
    drawn = torch.cat(
        [
            preprocess.quantise(batches.batch(torch.tensor([0]), step))[:, 0, 0, 0]
            for step in range(1000)
        ]
    )
    assert chisquare(drawn.long().bincount(minlength=10).numpy()).pvalue > 1e-4


@pytest.mark.parametrize("chunk", [None, 4, 2])
def test_as_graphs_a_step_gives_the_same_bits_and_all_chunks_of_a_size_share_one(
    chunk: int | None, replays: Any
) -> None:
    plain, captured = engine(chunk=chunk), replays.engine(lambda: engine(chunk=chunk))
    for step in range(3):
        assert captured.step(step) == plain.step(step)
    assert torch.equal(captured.images, plain.images)
    assert replays.captured == 1 + len({len(classes) for classes in captured.chunks})


def test_a_step_never_waits_for_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a number from a GPU stalls it, and a CUDA graph cannot hold it."""
    fast, number, rate = engine(), torch.tensor(3), torch.tensor(1.0)

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a step read a value on the host")

    for name in (
        "item",
        "tolist",
        "numpy",
        "cpu",
        "nonzero",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
    ):
        monkeypatch.setattr(Tensor, name, read)
    fast._initialise(number)
    fast._move(fast.classes, fast.images, fast.momentum, number, rate)


def test_without_a_compiler_it_goes_on_eagerly_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda run, **_: no_compiler)
    monkeypatch.setattr(Compiled, "_warned", False)
    images = torch.randn(2, 3, 4, 4)
    for run in (torch.relu, torch.tanh):
        fallen_back = Compiled(run)
        for _ in range(2):
            assert torch.equal(fallen_back(images), run(images))
    told = capsys.readouterr().err
    assert told.count("torch.compile does not work here") == 1
    assert "no working C++ compiler" in told


def test_a_compiler_that_ctrl_c_has_killed_is_called_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the run would go on uncompiled, and end with other bits."""
    calls: list[str] = []

    def compiled(images: Tensor) -> Tensor:
        calls.append("compiled")
        if len(calls) == 1:
            raise RuntimeError("CppCompileError: C++ compile error")
        return images.relu()

    monkeypatch.setattr(torch, "compile", lambda run, **_: compiled)
    run = Compiled(lambda images: calls.append("plain"))
    images = torch.randn(2, 3, 4, 4)
    for _ in range(2):
        assert torch.equal(run(images), images.relu())
    assert calls == ["compiled"] * 3
    assert not capsys.readouterr().err


def test_an_error_of_the_function_itself_is_not_taken_for_the_compilers() -> None:
    def wrong(images: Tensor) -> Tensor:
        return images @ torch.ones(7, 7)

    with pytest.raises(RuntimeError, match="size"):
        Compiled(wrong)(torch.randn(2, 3, 4, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_the_captured_step_is_the_plain_one() -> None:
    dataset, chosen = dataset_of([20] * CLASSES), recipe()
    start = torch.randn(CLASSES * IPC, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    preprocess = make_preprocess("standard", dataset)

    def on_a_gpu() -> Engine:
        return Engine(
            dataset, chosen, preprocess, start, seed=7, device=torch.device("cuda"), compiled=False
        )

    captured = on_a_gpu()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condense.runs.engine.has_graphs", lambda device: False)
        plain = on_a_gpu()
    on_cpu = engine()
    for step in range(3):
        losses = captured.read(captured.step(step), step + 1)
        assert losses == pytest.approx(plain.read(plain.step(step), step + 1), rel=1e-4)
        assert losses == pytest.approx(on_cpu.read(on_cpu.step(step), step + 1), rel=1e-2)
    torch.testing.assert_close(captured.images, plain.images, rtol=1e-3, atol=1e-4)
