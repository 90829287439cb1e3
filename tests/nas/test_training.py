"""Trainings on proxies against plain loops, and the proxies themselves."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from condense import CondensedSet, Dataset, Images, Protocol, UserError
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select, start
from condense.networks.accelerate import InBfloat16
from condense.networks.build import initialise
from condense.randomness import derive, generator
from condense.training.train import train
from nas.proxies import FREE, Proxy, arms_of, make_proxies, seen_held_out
from nas.spaces import convnet720 as convnet_space
from nas.spaces import nasbench201
from nas.training import Regime, SearchBench, SearchTask, quick, settle

PLAIN = Protocol(epochs=3, batch=8, lr=0.05, augment="none")
ARCHITECTURE = convnet_space.architecture("convnet-d1-w32-none-relu-avg")
CELL = nasbench201.parse(
    "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|"
)


def _images(count: int, seed: int, classes: int = 3) -> Images:
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 8, 8), generator=draws, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % classes, tuple("abc")[:classes])


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset("toys", _images(90, 1), _images(30, 2))


def _bench(
    dataset: Dataset, space: str = "convnet720", steps: int | None = None, **regime
) -> SearchBench:
    rest = dataset.hold_out(30, seed=0)
    preprocess = make_preprocess("standard", rest)
    proxy = Proxy(
        "whole", rest.train.pixels[:20], rest.train.labels[:20], preprocess, "f00d", steps
    )
    sizes = {name: regime.pop(name) for name in ("cells", "width") if name in regime}
    regime = Regime(**{"protocol": PLAIN, "sizes": sizes, **regime})
    return SearchBench(space, 3, regime, {"whole": proxy}, rest.test, preprocess)


def _by_hand(
    bench: SearchBench, seed: int, steps: int, optimizer_options: dict, rates: list[float]
):
    """The network of a plain training loop, and the loss of every image it met, in order."""
    proxy = bench.proxies["whole"]
    network = ARCHITECTURE.build((3, 8, 8), 3)
    initialise(network, derive(seed, "nas/weights"), ARCHITECTURE.index)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=1, momentum=0.9, weight_decay=5e-4, **optimizer_options
    )
    losses, images, labels = [], proxy.preprocess.apply(proxy.images), proxy.labels
    key = derive(seed, "nas/train", ARCHITECTURE.index)
    for step in range(steps):
        epoch, first = step // 3 + 1, step % 3 * 8
        chosen = torch.randperm(20, generator=generator(key, "order", epoch))[first : first + 8]
        each = F.cross_entropy(network(images[chosen]), labels[chosen], reduction="none")
        losses += each.tolist()
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.zero_grad()
        each.mean().backward()
        optimizer.step()
    return network, losses


def _held_out_by_hand(bench: SearchBench, network) -> tuple[float, float]:
    logits = [
        network(bench.preprocess.apply(image[None]))[0].detach().double()
        for image in bench.held_out.pixels
    ]
    right = [
        int(row.argmax()) == int(label)
        for row, label in zip(logits, bench.held_out.labels, strict=True)
    ]
    losses = [
        float(row.logsumexp(0) - row[int(label)])
        for row, label in zip(logits, bench.held_out.labels, strict=True)
    ]
    return sum(right) / 30, sum(losses) / 30


def test_a_training_is_scored_as_a_plain_loop_says(dataset):
    bench = _bench(dataset, protocol=Protocol(epochs=2, batch=8, lr=0.05, augment="none"))
    trial = bench.run(SearchTask(1, ARCHITECTURE.index, "whole"))
    network, losses = _by_hand(bench, 1, 6, {}, [0.05] * 6)  # the rate drops after the last pass
    curve = [sum(losses[at : at + 20]) / 20 for at in (0, 20)]
    accuracy, held_loss = _held_out_by_hand(bench, network)
    assert trial["curve"]["loss"] == pytest.approx(curve, rel=1e-4)
    assert trial["scores"]["summed_loss"] == pytest.approx(sum(curve), rel=1e-4)
    assert trial["scores"]["accuracy"] == pytest.approx(accuracy)
    assert trial["scores"]["held_loss"] == pytest.approx(held_loss, rel=1e-4)
    assert trial["scores"]["diverged"] == 0


def test_early_stopping_stops_after_its_steps_and_counts_the_part_of_the_last_pass(dataset):
    bench = _bench(
        dataset,
        steps=5,
        protocol=Protocol(
            epochs=99, batch=8, lr=0.05, augment="none", schedule="cosine", nesterov=True
        ),
    )
    trial = bench.run(SearchTask(0, ARCHITECTURE.index, "whole"))
    rates = [0.05 * (1 + math.cos(math.pi * step / 5)) / 2 for step in range(5)]
    network, losses = _by_hand(bench, 0, 5, {"nesterov": True}, rates)
    assert len(losses) == 36
    assert trial["curve"]["loss"] == pytest.approx(
        [sum(losses[:20]) / 20, sum(losses[20:]) / 16], rel=1e-4
    )
    assert trial["scores"]["summed_loss"] == pytest.approx(sum(losses) / 20, rel=1e-4)
    assert trial["scores"]["held_loss"] == pytest.approx(
        _held_out_by_hand(bench, network)[1], rel=1e-4
    )


def test_a_trial_depends_on_its_task_alone(dataset):
    bench = _bench(dataset, "nasbench201", cells=1, width=4)
    first = bench.run(SearchTask(3, CELL.index, "whole"))
    bench.run(SearchTask(0, 5, "whole"))
    again = bench.run(SearchTask(3, CELL.index, "whole"))
    assert again == first
    assert bench.run(SearchTask(4, CELL.index, "whole"))["curve"] != first["curve"]


def test_soft_labels_are_trained_on(dataset):
    bench = _bench(dataset)
    proxy = bench.proxies["whole"]
    soft = F.one_hot(proxy.labels, 3).float()
    bench.proxies["soft"] = Proxy(
        "soft", proxy.preprocess.apply(proxy.images), soft, proxy.preprocess, "50f7"
    )
    bench = SearchBench(
        "convnet720", 3, bench.regime, bench.proxies, bench.held_out, bench.preprocess
    )
    hard, same = (bench.run(SearchTask(0, ARCHITECTURE.index, name)) for name in ("whole", "soft"))
    assert same["curve"]["loss"] == pytest.approx(hard["curve"]["loss"], rel=1e-5)
    assert "50f7" in bench.key(SearchTask(0, ARCHITECTURE.index, "soft")).task


def test_what_diverges_is_scored_nan_and_flagged(dataset):
    bench = _bench(dataset, protocol=Protocol(epochs=3, batch=8, lr=1e30, augment="none"))
    scores = bench.run(SearchTask(0, ARCHITECTURE.index, "whole"))["scores"]
    assert scores.pop("diverged") == 1
    assert set(scores) == {"accuracy", "held_loss", "summed_loss"}
    assert all(math.isnan(value) for value in scores.values())


def test_a_reference_is_tested_too(dataset):
    bench = _bench(dataset)
    tested = SearchBench(
        "convnet720",
        3,
        bench.regime,
        bench.proxies,
        bench.held_out,
        bench.preprocess,
        test=bench.held_out,
    )
    scores = tested.run(SearchTask(0, ARCHITECTURE.index, "whole"))["scores"]
    assert scores["test"] == scores["accuracy"]
    assert tested.keys.of(SearchTask(0, 0, "whole")) != bench.keys.of(SearchTask(0, 0, "whole"))


def test_keys_tell_apart_what_differs(dataset):
    task = SearchTask(0, CELL.index, "whole")
    benches = [
        _bench(dataset, "nasbench201", cells=1),
        _bench(dataset, "nasbench201", cells=2),
        _bench(dataset, "nasbench201", cells=1, statistics="batch"),
        _bench(dataset, "nasbench201", cells=1, protocol=Protocol(epochs=4)),
        _bench(Dataset("toys", _images(90, 7), dataset.test), "nasbench201", cells=1),
    ]
    assert len({bench.keys.of(task) for bench in benches}) == len(benches)
    assert benches[0].keys.of(task) == _bench(dataset, "nasbench201", cells=1).keys.of(task)
    assert (
        len({bench.keys.of(SearchTask(0, CELL.index, FREE)) for bench in benches}) == 2
    )  # those look at images alone


@pytest.mark.parametrize("statistics", ["proxy", "running", "batch"])
def test_statistics_reach_the_scores(dataset, statistics):
    bench = _bench(dataset, "nasbench201", cells=1, width=4, statistics=statistics)
    found = bench.run(SearchTask(0, CELL.index, "whole"))["scores"]["held_loss"]
    others = {"proxy", "running", "batch"} - {statistics}
    for other in others:
        assert (
            found
            != _bench(dataset, "nasbench201", cells=1, width=4, statistics=other).run(
                SearchTask(0, CELL.index, "whole")
            )["scores"]["held_loss"]
        )


def test_settled_averages_are_those_of_the_proxy(dataset):
    proxy = _bench(dataset).proxies["whole"]
    network = CELL.build((3, 8, 8), 3, 1, 4)
    network.stem[1].running_mean.fill_(7)
    settle(network, proxy, seed=0)
    maps = network.stem[0](proxy.preprocess.apply(proxy.images)).detach().double()
    torch.testing.assert_close(
        network.stem[1].running_mean.double(), maps.mean((0, 2, 3)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        network.stem[1].running_var.double(), maps.var((0, 2, 3)), rtol=1e-4, atol=0
    )
    assert network.stem[1].momentum == 0.1


def test_the_drop_schedule_is_as_before():
    """`schedule`, `nesterov` and `steps` change nothing unless asked for.

    4 passes, a tenth of the rate for the last.
    """
    images, labels = (
        torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.arange(6) % 3,
    )
    network, twin = (ARCHITECTURE.build((3, 8, 8), 3) for _ in range(2))
    train(
        network,
        images,
        labels,
        Protocol(epochs=4, batch=6, lr=0.1, augment="none", momentum=0, weight_decay=0),
        0,
    )
    for rate in (0.1, 0.1, 0.1, 0.01):
        gradient = torch.autograd.grad(
            F.cross_entropy(twin(images), labels), list(twin.parameters())
        )
        with torch.no_grad():
            for parameter, change in zip(twin.parameters(), gradient, strict=True):
                parameter -= rate * change
    for ours, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"schedule": "step"}, {"nesterov": True, "momentum": 0}, {"steps": 0}]
)
def test_wrong_protocols(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Protocol(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"statistics": "none"}, {"sizes": {"cells": 0}}, {"sizes": {"width": 0}}]
)
def test_wrong_regimes(wrong):
    with pytest.raises(UserError):
        Regime(protocol=PLAIN, **wrong)


# ---- proxies by name


def _proxies(dataset, *names, protocol=PLAIN):
    rest = dataset.hold_out(30, seed=0)
    return make_proxies(names, dataset, rest, make_preprocess("standard", rest), protocol)


def test_sizes_follow_the_first_condensed_set(dataset, tmp_path):
    condensed = select(
        "random", dataset, 4, preprocess=make_preprocess("standard", dataset), seed=5
    )
    condensed.save(tmp_path / "ipc4")
    found = _proxies(
        dataset,
        "random",
        "early-stop",
        "whole",
        "whole:9",
        "random:2",
        "early-stop:7",
        str(tmp_path / "ipc4"),
    )
    assert list(found) == [
        "random",
        "early-stop",
        "whole",
        "whole:9",
        "random:2",
        "early-stop:7",
        "ipc4",
    ]
    assert [len(proxy) for proxy in found.values()] == [12, 60, 60, 9, 6, 60, 12]
    assert found["early-stop"].steps == 3 * math.ceil(12 / 8)
    assert found["early-stop"].protocol(PLAIN).epochs == 1  # of 8 steps each
    assert found["early-stop:7"].steps == 7
    assert found["whole"].steps is None
    assert found["whole:9"].labels.bincount().tolist() == [3, 3, 3]
    assert found["ipc4"].fingerprint == condensed.fingerprint
    assert (
        len({proxy.fingerprint for proxy in found.values()}) == 5
    )  # early stopping and the whole are the same images


def test_the_steps_of_a_regime_hold_for_every_proxy(dataset):
    protocol = replace(PLAIN, steps=12)
    found = _proxies(dataset, "random:1", "random:8", "early-stop:7", protocol=protocol)
    steps = [(p.protocol(protocol).epochs, p.protocol(protocol).steps) for p in found.values()]
    assert steps == [(12, 12), (4, 12), (1, 7)]  # 1, 3 and 8 batches a pass
    bench = _bench(dataset, protocol=protocol)
    trial = bench.run(SearchTask(0, ARCHITECTURE.index, "whole"))
    assert len(trial["curve"]["loss"]) == 4  # 3 batches a pass, where the epochs say 3 passes


def test_draws_differ_and_belong_to_one_arm(dataset):
    names = ["random:4", "random:4@1", "whole:9", "whole:9@2", "mine=random:4@7", "mine=whole"]
    found = _proxies(dataset, *names)
    assert list(found) == ["random:4", "random:4@1", "whole:9", "whole:9@2", "random:4@7", "whole"]
    assert arms_of(found.values()) == {
        "random:4": ("random:4", "random:4@1"),
        "whole:9": ("whole:9", "whole:9@2"),
        "mine": ("random:4@7", "whole"),
    }
    assert len({proxy.fingerprint for proxy in found.values()}) == 6
    again = _proxies(dataset, "random:4@1")["random:4@1"]
    assert torch.equal(again.images, found["random:4@1"].images)


def test_networks_that_are_not_scored_leave_the_other_images_alone(dataset, monkeypatch):
    bench = replace(_bench(dataset), scored=False)
    monkeypatch.setattr("nas.training.look", lambda *args, **how: pytest.fail("it looked"))
    scores = bench.run(SearchTask(0, ARCHITECTURE.index, "whole"))["scores"]
    assert set(scores) == {"summed_loss", "diverged"}
    task = SearchTask(0, ARCHITECTURE.index, "whole")
    assert bench.keys.of(task) != _bench(dataset).keys.of(task)


def test_mosaics_are_trained_on_decoded_and_others_take_as_much_room_or_as_many_steps(
    dataset, tmp_path
):
    mosaics = start(
        "random", dataset, 4, formation=2, preprocess=make_preprocess("standard", dataset), seed=5
    )
    mosaics.save(tmp_path / "mosaics")
    found = _proxies(dataset, "random", "early-stop", str(tmp_path / "mosaics"))
    assert torch.equal(found["mosaics"].images, mosaics.decoded().images)
    assert len(found["random"]) == 12
    assert found["early-stop"].steps == 3 * math.ceil(48 / 8)


def test_no_real_proxy_has_a_held_out_image(dataset):
    rest = dataset.hold_out(30, seed=0)
    held = {image.numpy().tobytes() for image in rest.test.pixels}
    for proxy in _proxies(dataset, "random:20", "whole").values():
        pixels = (
            proxy.images
            if proxy.images.dtype == torch.uint8
            else proxy.preprocess.quantise(proxy.images)
        )
        own = {image.numpy().tobytes() for image in pixels}
        assert len(own) == len(proxy)
        assert not own & held


def test_sets_made_from_held_out_images_are_known(dataset, tmp_path):
    rest = dataset.hold_out(30, seed=0)
    for name, origin in (("all", dataset), ("rest", rest)):
        select("random", origin, 2, preprocess=make_preprocess("standard", origin), seed=0).save(
            tmp_path / name
        )
    names = [str(tmp_path / "all"), str(tmp_path / "rest" / "set.safetensors"), "random:2"]
    assert seen_held_out(names, rest) == ("all",)
    assert list(_proxies(dataset, *names)) == ["all", "rest", "random:2"]


def test_proxies_of_other_data_are_refused(dataset, tmp_path):
    other = Dataset("others", _images(30, 9), _images(9, 9))
    two = Dataset("two", _images(30, 1, classes=2), _images(9, 1, classes=2))
    wide = Dataset(
        "wide",
        Images(torch.zeros(30, 3, 16, 16, dtype=torch.uint8), other.train.labels, other.classes),
        other.test,
    )
    for origin, message in (
        (other, "was made from others"),
        (two, "has classes 2, toys has 3"),
        (wide, "images of shape"),
    ):
        select("random", origin, 2, preprocess=make_preprocess("standard", dataset), seed=0).save(
            tmp_path / origin.name
        )
        with pytest.raises(UserError, match=message):
            _proxies(dataset, str(tmp_path / origin.name))
    images = torch.zeros(3, 3, 8, 8)
    named = CondensedSet(
        images, torch.arange(3), ("x", "y", "z"), make_preprocess("standard", dataset), {}
    )
    named.save(tmp_path / "named")
    with pytest.raises(UserError, match="other classes"):
        _proxies(dataset, str(tmp_path / "named"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["randm"], "unknown proxy `randm`"),
        (["random:x"], "must be a number"),
        (["random:2@x"], "what follows `@` must be a number, 0 or more"),
        (["random:2", "random:2@0"], "two proxies are called `random:2`"),
        (["free=random:2"], "two proxies are called `free`"),
        (["a + b=random:2"], "` . ` stands between columns"),
        (["early-stop:0"], "must be a number, 1 or more"),
        (["whole:2"], "3 classes need at least 3 images"),
        (["random:2", "random:2"], "two proxies are called `random:2`"),
        (["random:999"], "more than class"),
        ([], "no proxy to train on"),
    ],
)
def test_wrong_names_of_proxies(dataset, names, message):
    with pytest.raises(UserError, match=message):
        _proxies(dataset, *names)


def test_a_network_is_never_compiled_and_on_a_gpu_trained_in_bfloat16(monkeypatch):
    """Compiling takes longer than the training of the largest candidate."""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    network = torch.nn.Linear(4, 2)
    assert quick(network, torch.device("cpu")) is network
    fast = quick(network, torch.device("meta"))  # stands for a GPU: it is moved there
    assert (type(fast), network.weight.device.type) == (InBfloat16, "meta")


def test_in_bfloat16_weights_and_logits_stay_float32(monkeypatch):
    monkeypatch.setattr("condense.networks.accelerate.fast_bfloat16", lambda device: True)
    network, types = torch.nn.Linear(4, 2), []
    network.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    logits = InBfloat16(network, torch.device("cpu"))(torch.ones(1, 4))
    assert (types, logits.dtype) == ([torch.bfloat16], torch.float32)
    logits.sum().backward()
    assert network.weight.grad.dtype == torch.float32
