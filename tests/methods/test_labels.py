"""Learned labels.

Probabilities or regression targets, each trained on with its own loss and never with the other's.
"""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from cli import cli
from condense import CondensedSet, Protocol, condense, evaluate, load_dataset, recipe_for
from condense.errors import UserError
from condense.methods import METHODS
from condense.training.train import train

SMALL = {"network": "convnet-d2-w8", "real_batch": 8, "steps": 3}


def made(method: str, **changes: object) -> CondensedSet:
    digits = load_dataset("digits")
    return condense(
        digits,
        ipc=1,
        recipe=recipe_for(method, digits.name, digits.shape, 1).override({**SMALL, **changes}),
        quiet=True,
    )


def test_regression_targets_need_the_squared_error(tmp_path: Path) -> None:
    digits, learned = load_dataset("digits"), made("kip", learn_labels=True)
    assert learned.soft
    assert (learned.labels < 0).any()
    file = learned.save(tmp_path)
    assert torch.equal(CondensedSet.load(file).labels, learned.labels)
    with pytest.raises(UserError, match="--protocol kip"):
        evaluate(learned, digits, "convnet-d2-w8", 1, Protocol(epochs=1), device="cpu")
    score = evaluate(
        learned,
        digits,
        "convnet-d2-w8",
        1,
        Protocol(epochs=200, loss="squared-error", augment="none"),
        device="cpu",
    )
    assert score["convnet-d2-w8"].mean > 0.3


def test_probabilities_and_classes_are_trained_on_as_ever() -> None:
    digits, learned = load_dataset("digits"), made("ld")
    assert learned.soft
    for condensed in (learned, made("kip")):
        evaluate(condensed, digits, "convnet-d2-w8", 1, Protocol(epochs=1), device="cpu")


@pytest.mark.parametrize("hard", [False, True])
def test_the_squared_error_moves_weights_by_its_own_gradient(hard: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 1, 1, generator=generator)
    classes = torch.tensor([0, 1, 1, 0])
    targets = torch.eye(2)[classes] - 0.5 if hard else torch.randn(4, 2, generator=generator)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False))
    before = network[1].weight.detach().clone()
    residual = images.flatten(1) @ before.T - targets
    protocol = Protocol(epochs=1, lr=0.1, weight_decay=0.0, augment="none", loss="squared-error")
    train(network, images, classes if hard else targets, protocol, seed=0)
    torch.testing.assert_close(
        network[1].weight.detach(), before - 0.1 * residual.T @ images.flatten(1) / 4
    )


def test_a_wrong_loss_is_named() -> None:
    with pytest.raises(UserError, match="unknown loss `hinge`"):
        Protocol(loss="hinge")


def test_help_names_every_method() -> None:
    told = (
        CliRunner()
        .invoke(cli, ["condense", "--help"])
        .output.partition("--method TEXT")[2]
        .partition("--experts")[0]
    )
    assert set(METHODS) <= set(told.replace(",", " ").replace(";", " ").split())
