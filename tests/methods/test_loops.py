"""Methods with an outer loop of their own.

Each step against the paper's algorithm written plainly in float64.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from condense import UserError, condense, evaluate, load_dataset, recipe_for
from condense.data.images import Dataset
from condense.data.preprocess import make_preprocess
from condense.methods import selection as select
from condense.methods.base import Learner, Problem, Recipe
from condense.methods.dc import gradient_distance
from condense.networks import build as networks
from condense.randomness import generator
from condense.training.experts import Training, train_experts
from condense.training.protocol import Protocol

NETWORK = "convnet-d2-w8"
SMALL = {
    "dc": {"outer_loops": 3, "inner_loops": 2, "real_batch": 8, "lr": 0.5},
    "dsa": {"outer_loops": 3, "inner_loops": 2, "real_batch": 8, "lr": 0.5},
    "mtt": {
        "student_steps": 5,
        "max_start": 3,
        "batch": 8,
        "lr": 100.0,
        "rate_lr": 1e-3,
        "preprocess": "standard",
    },
    "dd": {"real_batch": 8, "lr": 0.1, "halve_every": 2},
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def experts(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("experts")
    train_experts(
        digits, Training(network=NETWORK, preprocess="standard", passes=4), 2, folder, quiet=True
    )
    return str(folder)


@pytest.fixture
def small(digits: Dataset, experts: str) -> Callable[..., Recipe]:
    def recipe(method: str, **changes: object) -> Recipe:
        settings = {
            "network": NETWORK,
            "steps": 3,
            **SMALL[method],
            **({"experts": experts} if method == "mtt" else {}),
            **changes,
        }
        return recipe_for(method, digits.name, digits.shape, 2).override(settings)

    return recipe


def learner_of(digits: Dataset, recipe: Recipe) -> Learner:
    start = select.select(
        "random", digits, 2, preprocess=make_preprocess("standard", digits), seed=3
    )
    return recipe.method.learner(
        Problem(dataset=digits, recipe=recipe, start=start, seed=3, device=torch.device("cpu"))  # type: ignore[union-attr]
    )


def network_at(digits: Dataset, weights: Tensor) -> nn.Module:
    """The network in float64 with the given weights."""
    network = networks.build(NETWORK, digits.shape, len(digits.classes)).double()
    vector_to_parameters(weights.double(), network.parameters())
    return network


def error_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy by its definition."""
    return sum(
        -row.log_softmax(dim=0)[label] for row, label in zip(logits, labels, strict=True)
    ) / len(labels)


def descended(
    network: nn.Module, weights: Tensor, images: Tensor, labels: Tensor, rate: Tensor
) -> Tensor:
    """A step of gradient descent, differentiable in everything."""
    names = [name for name, _ in network.named_parameters()]
    parts = weights.split([p.numel() for p in network.parameters()])
    layers = {
        name: part.view_as(p)
        for name, part, p in zip(names, parts, network.parameters(), strict=True)
    }
    error = error_of(torch.func.functional_call(network, layers, images), labels)
    return weights - rate * torch.autograd.grad(error, weights, create_graph=True)[0]


def naive_distance(a: list[Tensor], b: list[Tensor]) -> float:
    """D by its definition, in Python floats: over layers, over output nodes, 1 - cos."""
    total = 0.0
    for of_a, of_b in zip(a, b, strict=True):
        if of_a.ndim == 1:
            continue
        for row_a, row_b in zip(of_a.flatten(1).tolist(), of_b.flatten(1).tolist(), strict=True):
            dot = sum(x * y for x, y in zip(row_a, row_b, strict=True))
            total += 1 - dot / math.sqrt(sum(x * x for x in row_a) * sum(y * y for y in row_b))
    return total


def test_distance_is_the_papers() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"conv": (4, 3, 3, 3), "bias": (4,), "linear": (5, 7)}
    a, b = (
        {
            name: torch.randn(shape, dtype=torch.float64, generator=draw)
            for name, shape in shapes.items()
        }
        for _ in range(2)
    )
    wanted = naive_distance(list(a.values()), list(b.values()))
    assert gradient_distance(a, b).item() == pytest.approx(wanted, rel=1e-5)
    assert gradient_distance(a, a).item() == pytest.approx(0, abs=1e-4)
    scaled = {name: 3 * part for name, part in b.items()}
    assert gradient_distance(a, scaled).item() == pytest.approx(wanted, rel=1e-5)
    leaves = tuple(part.requires_grad_() for part in b.values())
    assert torch.autograd.gradcheck(
        lambda *parts: gradient_distance(a, dict(zip(b, parts, strict=True))), leaves
    )


@pytest.mark.parametrize("method", ["dc", "dsa"])
def test_gradient_matching_is_algorithm_1(
    method: str, digits: Dataset, small: Callable[..., Recipe]
) -> None:
    recipe = small(method)
    learner = learner_of(digits, recipe)
    augment, real, classes = learner.augment, learner.real, len(digits.classes)  # type: ignore[attr-defined]
    images = learner.images.double().requires_grad_()
    labels = torch.arange(classes).repeat_interleave(2)
    pixels = torch.optim.SGD([images], lr=recipe.lr, momentum=recipe.momentum)
    for step in range(2):
        network = networks.build(NETWORK, digits.shape, classes)
        networks.initialise(network, 3, step)
        network = network.double()
        sgd = torch.optim.SGD(
            network.parameters(), lr=0.01, momentum=0.5 if method == "dc" else 0.0
        )
        distances = 0.0
        for loop in range(3):
            number, total = step * 3 + loop, torch.zeros((), dtype=torch.float64)
            for c in range(classes):
                one, own = torch.tensor([c]), images[2 * c : 2 * c + 2]
                given = [
                    augment.matching(x, one, 3, number)
                    for x in (real.batch(one, number).double(), own)
                ]
                of_real, of_own = (
                    torch.autograd.grad(
                        nn.functional.cross_entropy(network(x), one.expand(len(x))),
                        list(network.parameters()),
                        create_graph=True,
                    )
                    for x in given
                )
                for a, b in zip(of_real, of_own, strict=True):
                    if a.ndim > 1:
                        total = (
                            total
                            + (
                                1
                                - nn.functional.cosine_similarity(
                                    a.detach().flatten(1), b.flatten(1)
                                )
                            ).sum()
                        )
            pixels.zero_grad()
            total.backward()
            pixels.step()
            distances += total.item()
            if loop == 2:
                break
            for again in range(2):
                place = number * 2 + again
                order = torch.randperm(20, generator=generator(3, "network order", place))
                sgd.zero_grad()
                batch = augment.training(images.detach()[order], 3, place)
                nn.functional.cross_entropy(network(batch), labels[order]).backward()
                sgd.step()
        assert learner.step(step)["distance"].item() == pytest.approx(distances / 3, rel=1e-3)
        torch.testing.assert_close(learner.images.double(), images.detach(), rtol=1e-3, atol=1e-3)


def test_dsa_is_dc_with_augmentation(digits: Dataset, small: Callable[..., Recipe]) -> None:
    plain, siamese = (
        learner_of(digits, small(method, augment="none", net_momentum=0.5))
        for method in ("dc", "dsa")
    )
    augmented = learner_of(digits, small("dsa"))
    for learner in (plain, siamese, augmented):
        learner.step(0)
    assert torch.equal(plain.images, siamese.images)
    assert not torch.equal(plain.images, augmented.images)


def test_trajectory_matching_is_algorithm_1(digits: Dataset, small: Callable[..., Recipe]) -> None:
    recipe = small("mtt")
    learner = learner_of(digits, recipe)
    images, rate = learner.images.double().requires_grad_(), learner.rate.double().requires_grad_()  # type: ignore[attr-defined]
    optimizers = (
        torch.optim.SGD([images], lr=recipe.lr, momentum=0.5),
        torch.optim.SGD([rate], lr=1e-3, momentum=0.5),
    )
    labels = torch.arange(10).repeat_interleave(2)
    for step in range(3):
        draw = generator(3, "expert", step)
        expert, first = (int(torch.randint(most, (), generator=draw)) for most in (2, 3))
        start, target = (
            part.double() for part in learner.experts.weights(expert, first, first + 2)
        )  # type: ignore[attr-defined]
        network, weights = network_at(digits, start), start.clone().requires_grad_()
        batches: list[Tensor] = []
        while len(batches) < 5:  # 20 images in batches of 8: the third has 4
            batches += torch.randperm(
                20, generator=generator(3, "student order", step, len(batches))
            ).split(8)
        for number in range(5):
            drawn = learner.augment.training(images[batches[number]], 3, step * 5 + number)  # type: ignore[attr-defined]
            weights = descended(network, weights, drawn, labels[batches[number]], rate)
        loss = (weights - target).square().sum() / (start - target).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        assert learner.step(step)["trajectory"].item() == pytest.approx(loss.item(), rel=1e-4)
        torch.testing.assert_close(learner.images.double(), images.detach(), rtol=1e-3, atol=1e-4)
        assert learner.learned()["lr"] == pytest.approx(rate.item(), rel=1e-5)
    assert rate.item() != pytest.approx(0.01, rel=1e-4)


def test_distillation_is_algorithm_1(digits: Dataset, small: Callable[..., Recipe]) -> None:
    recipe = small("dd")
    learner = learner_of(digits, recipe)
    images = learner.images.double().requires_grad_()
    raw = learner.raw_rates.double().requires_grad_()  # type: ignore[attr-defined]
    torch.testing.assert_close(
        torch.nn.functional.softplus(raw), torch.full((6,), 0.02, dtype=torch.float64)
    )
    adam = torch.optim.Adam([images, raw], lr=0.1, betas=(0.5, 0.999))
    schedule = torch.optim.lr_scheduler.StepLR(adam, step_size=2, gamma=0.5)
    classes = torch.arange(10)
    for step in range(3):
        network = networks.build(NETWORK, digits.shape, 10)
        networks.initialise(network, 3, step)
        network = network.double()
        weights = parameters_to_vector(network.parameters()).detach().requires_grad_()
        for number in range(6):  # three passes over two images a class
            weights = descended(
                network,
                weights,
                images[number % 2 :: 2],
                classes,
                torch.nn.functional.softplus(raw)[number],
            )
        real = learner.real.batch(classes, step).double()  # type: ignore[attr-defined]
        names = [name for name, _ in network.named_parameters()]
        parts = weights.split([p.numel() for p in network.parameters()])
        layers = {
            name: part.view_as(p)
            for name, part, p in zip(names, parts, network.parameters(), strict=True)
        }
        loss = error_of(
            torch.func.functional_call(network, layers, real), classes.repeat_interleave(8)
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        assert learner.step(step)["real"].item() == pytest.approx(loss.item(), rel=1e-4)
        # Adam divides by the size of a gradient: where that is rounding, so is the direction. Hence
        # most, not all.
        near = (learner.images.double() - images.detach()).abs() < 0.01
        assert near.float().mean() > 0.98
        with torch.no_grad():  # and the next step from the same point
            images.copy_(learner.images)
            raw.copy_(learner.raw_rates)  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dc", "outer_loops": 1},
        {"method": "dsa", "outer_loops": 1},
        {"method": "dd", "halve_every": 1000},
    ],
)
def test_the_loss_falls(
    changes: dict[str, object], digits: Dataset, small: Callable[..., Recipe]
) -> None:
    learner = learner_of(digits, small(**changes))  # type: ignore[arg-type]
    losses = [sum(float(part) for part in learner.step(step).values()) for step in range(25)]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_a_set_brings_its_learned_rate(digits: Dataset, small: Callable[..., Recipe]) -> None:
    made = condense(
        digits, ipc=2, recipe=small("mtt", first_rate=0.05, rate_lr=0.0, steps=1), quiet=True
    )
    assert made.provenance["learned"]["lr"] == pytest.approx(0.05)
    own, given = (
        evaluate(made, digits, NETWORK, 1, Protocol(epochs=3, **how), device="cpu")[
            NETWORK
        ].accuracies
        for how in ({"learned_rate": True}, {"lr": made.provenance["learned"]["lr"]})
    )
    assert own == given
    plain = condense(digits, ipc=2, recipe=small("dc", steps=0), quiet=True)
    with pytest.raises(UserError, match="no learning rate of its own"):
        evaluate(plain, digits, NETWORK, 1, "mtt")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts": ""}, "`experts` is missing"),
        ({"experts": "nowhere"}, "nowhere holds no experts"),
        (
            {"network": "convnet-d2-w4"},
            "network convnet-d2-w8-instance-relu-avg, the run has convnet-d2-w4",
        ),
        ({"max_start": 4}, "need experts of 5 passes, those in .* have 4"),
    ],
)
def test_experts_that_do_not_fit_are_named(
    changes: dict[str, object],
    said: str,
    digits: Dataset,
    small: Callable[..., Recipe],
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=said):
        condense(digits, ipc=2, recipe=small("mtt", **changes), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_experts_of_other_images_are_refused(digits: Dataset, small: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match=r"dataset digits .*, the run has digits"):
        condense(digits.hold_out(100, seed=0), ipc=2, recipe=small("mtt"), quiet=True)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("dc", {"outer_loops": 0}),
        ("dc", {"inner_loops": 0}),
        ("dsa", {"net_lr": 0.0}),
        ("dc", {"net_momentum": 1.0}),
        ("mtt", {"student_steps": 0}),
        ("mtt", {"batch": 0}),
        ("mtt", {"rate_lr": -1.0}),
        ("dd", {"passes": 0}),
        ("dd", {"first_rate": 0.0}),
    ],
)
def test_hyperparameters_out_of_range_are_named(
    method: str, wrong: dict[str, object], small: Callable[..., Recipe]
) -> None:
    with pytest.raises(UserError, match=f"`{next(iter(wrong))}`"):
        small(method, **wrong)


def test_digits_are_not_mirrored_by_dsa() -> None:
    assert recipe_for("dsa", "digits", (1, 8, 8), 10).augment == "dsa-noflip"
