"""Training and accuracy, against a loop written out by hand in float64."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from condense.data.cutmix import cutmix
from condense.data.preprocess import Standardize
from condense.errors import UserError
from condense.networks import accelerate
from condense.networks.build import build, initialise
from condense.randomness import generator
from condense.training.protocol import PROTOCOLS, Protocol, protocol_for
from condense.training.train import accuracy, train

SHAPE, CLASSES = (2, 8, 8), 3
PLAIN = Protocol(epochs=5, batch=4, lr=0.05, augment="none")


def some_images(count, seed=0, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, generator=draw, dtype=dtype), torch.randint(
        CLASSES, (count,), generator=draw
    )


def network(name="convnet-d1-w4", dtype=torch.float64):
    model = build(name, SHAPE, CLASSES).to(dtype)
    initialise(model, 3, 0)
    return model


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Recorder:
    """An augmentation that changes nothing and remembers what it was asked."""

    def __init__(self):
        self.calls = []

    def training(self, images, seed, step):
        self.calls.append((len(images), seed, step))
        return images


def test_train_is_the_published_protocol():
    """SGD with momentum and L2 written out.

    Asked for 4 epochs, the published loop makes 5 passes; after pass 4 // 2 + 2 = 4 a tenth of the
    rate and the momentum from zero.
    """
    images, labels = some_images(10)
    ours, reference = network(), network()
    train(ours, images, labels, PLAIN, seed=7)

    parameters = list(reference.parameters())
    velocities, rate = [0.0] * len(parameters), 0.05
    for epoch in (1, 2, 3, 4, 5):
        order = torch.randperm(10, generator=generator(7, "order", epoch)).tolist()
        for batch in (order[:4], order[4:8], order[8:]):
            loss = sum(
                F.cross_entropy(reference(images[i : i + 1]), labels[i : i + 1]) for i in batch
            ) / len(batch)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for k, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                    velocities[k] = 0.9 * velocities[k] + gradient + 5e-4 * parameter
                    parameter -= rate * velocities[k]
        if epoch == 4:
            velocities, rate = [0.0] * len(parameters), 0.005

    assert not torch.allclose(weights(ours), weights(network()), atol=1e-3)
    torch.testing.assert_close(weights(ours), weights(reference), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["convnet-d1-w4", "convnet-d1-w4-batch"])
def test_a_mixed_batch_learns_each_label_by_its_share_of_the_pixels(name):
    """CutMix and the rate in stairs, written out: x 0.2 at 2/3 and at 5/6 of 6 steps."""
    images, labels = some_images(6)
    protocol = Protocol(
        epochs=6, batch=6, lr=0.1, augment="none", cutmix=0.6, schedule="stairs", momentum=0.0
    )
    ours, reference = network(name), network(name)
    train(ours, images, labels, protocol, seed=7)
    mixed_steps = 0
    for step, rate in enumerate((0.1, 0.1, 0.1, 0.1, 0.02, 0.004)):
        order = torch.randperm(6, generator=generator(7, "order", step + 1))
        batch, others, own = cutmix(images[order], 0.6, 7, step)
        mixed_steps += bool(own < 1)
        log_p = reference(batch).log_softmax(dim=1)
        truth = labels[order]
        loss = sum(
            -(own * log_p[n, truth[n]] + (1 - own) * log_p[n, truth[others[n]]]) for n in range(6)
        )
        parameters = list(reference.parameters())
        gradients = torch.autograd.grad(loss / 6, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= rate * (gradient + 5e-4 * parameter)
    assert 0 < mixed_steps < 6
    torch.testing.assert_close(weights(ours), weights(reference), rtol=1e-8, atol=1e-9)


def test_adamw_with_a_rate_that_halves_after_each_fifth():
    """The protocol `ncfm`, shortened, beside PyTorch's optimiser and scheduler."""
    images, labels = some_images(6)
    protocol = dataclasses.replace(
        PROTOCOLS["ncfm"], epochs=10, batch=3, augment="none", cutmix=0.0
    )
    ours, reference = network("convnet-d1-w4"), network("convnet-d1-w4")
    train(ours, images, labels, protocol, seed=7)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)  # 2 of 10 passes
    for epoch in range(1, 11):
        order = torch.randperm(6, generator=generator(7, "order", epoch))
        for batch in order.split(3):
            optimizer.zero_grad()
            F.cross_entropy(reference(images[batch]), labels[batch]).backward()
            optimizer.step()
            scheduler.step()
    assert not torch.allclose(weights(ours), weights(network("convnet-d1-w4")), atol=1e-3)
    torch.testing.assert_close(weights(ours), weights(reference), rtol=1e-5, atol=1e-6)


def test_every_pass_meets_every_image_once_in_an_order_of_its_own():
    images, labels = some_images(10)
    met, augment = [], Recorder()
    train(
        network(),
        images,
        labels,
        PLAIN,
        0,
        augment=augment,
        watch=lambda chosen, logits: met.append((chosen, logits.shape)),
    )
    assert [len(chosen) for chosen, _ in met] == [4, 4, 2] * 5
    assert all(shape == (len(chosen), CLASSES) for chosen, shape in met)
    orders = [
        torch.cat([chosen for chosen, _ in met[first : first + 3]]) for first in range(0, 15, 3)
    ]
    assert all(order.sort().values.equal(torch.arange(10)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 5
    assert augment.calls == [(size, 0, step) for step, size in enumerate([4, 4, 2] * 5)]


def test_the_seed_decides():
    images, labels = some_images(10, dtype=torch.float32)
    protocol = Protocol(epochs=3, batch=4)
    results = []
    for seed in (1, 1, 2):
        model = network(dtype=torch.float32)
        train(model, images, labels, protocol, seed)
        results.append(weights(model))
    assert results[0].equal(results[1])
    assert not results[0].equal(results[2])


def test_one_hot_targets_are_hard_labels():
    images, labels = some_images(10)
    hard, soft = network(), network()
    train(hard, images, labels, PLAIN, seed=0)
    train(soft, images, F.one_hot(labels, CLASSES).double(), PLAIN, seed=0)
    torch.testing.assert_close(weights(hard), weights(soft), rtol=1e-10, atol=1e-12)


def test_pixels_are_prepared_batch_by_batch():
    pixels = torch.randint(
        256, (10, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = some_images(10)[1]
    preprocess = Standardize.fit(pixels)
    whole, batched = network(dtype=torch.float32), network(dtype=torch.float32)
    train(whole, preprocess.apply(pixels), labels, PLAIN, seed=0)
    train(batched, pixels, labels, PLAIN, seed=0, prepare=preprocess.apply)
    assert weights(whole).equal(weights(batched))
    assert accuracy(whole, preprocess.apply(pixels), labels) == accuracy(
        whole, pixels, labels, prepare=preprocess.apply
    )


def test_divergence_is_reported():
    images, labels = some_images(10, dtype=torch.float32)
    with pytest.raises(UserError, match=r"diverged.*lower the learning rate \(now 1e\+30\)"):
        train(
            network("convnet-d1-w4-nonorm", torch.float32),
            images,
            labels,
            Protocol(epochs=3, lr=1e30, augment="none"),
            seed=0,
        )


@pytest.mark.parametrize("name", ["convnet-d1-w4", "convnet-d1-w4-batch"])
@pytest.mark.parametrize("batch", [1, 7, None])
def test_accuracy_counts_right_answers_one_by_one(name, batch):
    images, labels = some_images(60, seed=1)
    model = network(name)
    train(model, images[:20], labels[:20], PLAIN, seed=0)
    model.train()
    counted = accuracy(model, images, labels, batch)
    assert model.training  # as it was
    model.eval()
    with torch.no_grad():
        right = sum(
            int(
                model(images[i : i + 1])[0]
                .tolist()
                .index(max(model(images[i : i + 1])[0].tolist()))
                == labels[i]
            )
            for i in range(60)
        )
    assert counted == right / 60
    assert 0 < right < 60


def test_named_protocols():
    assert PROTOCOLS["dm"] == Protocol(
        epochs=1001, batch=256, lr=0.01, momentum=0.9, weight_decay=5e-4, augment="dsa"
    )
    assert (PROTOCOLS["datadam-code"].epochs, PROTOCOLS["datadam-code"].batch) == (1801, 64)
    assert PROTOCOLS["dc"] == Protocol(epochs=301, batch=256, augment="none")
    assert protocol_for("dc", "mnist").augment == "none"
    assert PROTOCOLS["idc"] == Protocol(
        epochs=1500, batch=64, lr=0.01, momentum=0.9, weight_decay=5e-4,
        augment="idc", cutmix=0.5, schedule="stairs",
    )  # fmt: skip
    assert PROTOCOLS["ncfm"] == Protocol(
        epochs=2000, batch=64, optimizer="adamw", lr=1e-3, momentum=0.9, weight_decay=0.01,
        augment="idc", cutmix=0.5, schedule="fifths",
    )  # fmt: skip
    assert protocol_for("idc", "mnist").augment == "idc-noflip"
    assert protocol_for("dm", "cifar10").augment == "dsa"
    assert protocol_for("dm", "mnist") == Protocol(augment="dsa-noflip")
    with pytest.raises(UserError, match="did you mean `datadam-code`"):
        protocol_for("datadam", "cifar10")


@pytest.mark.parametrize("asked", [2, 3, 4, 5, 300, 1000, 1800])
def test_the_rate_drops_where_the_published_loops_drop_it(asked):
    """They count passes from 0 to E inclusive, and drop the rate after pass number E // 2 + 1."""
    passes = list(range(asked + 1))
    assert Protocol(epochs=len(passes)).drop_after == 1 + passes[asked // 2 + 1]


def test_the_drops_of_the_named_protocols():
    drops = {name: PROTOCOLS[name].drop_after for name in ("dm", "dc", "datadam-code")}
    assert drops == {"dm": 502, "dc": 152, "datadam-code": 902}


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": -1},
        {"batch": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"cutmix": 1.5},
        {"nesterov": True, "optimizer": "adamw"},
    ],
)
def test_a_protocol_out_of_range_is_refused(wrong):
    with pytest.raises(UserError, match=f"`{next(iter(wrong))}` is"):
        Protocol(**wrong)


def test_a_compiled_network_is_tested_in_batches_of_one_shape(monkeypatch):
    shapes = set()

    class Compiled:
        def __init__(self, run):
            self.run = run

        def __call__(self, images):
            shapes.add(tuple(images.shape))
            return self.run(images)

    monkeypatch.setattr(accelerate, "Compiled", Compiled)
    network = build("convnet-d1-w8", (1, 8, 8), 3)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(25, 1, 8, 8, generator=draw)
    labels = torch.randint(3, (25,), generator=draw)
    fast = accelerate.Accelerated(network, torch.device("cpu"))
    assert accuracy(fast, images, labels, 10) == accuracy(network, images, labels, 10)
    assert accuracy(fast, images[:4], labels[:4], 10) == accuracy(network, images[:4], labels[:4])
    assert shapes == {(10, 1, 8, 8), (4, 1, 8, 8)}
