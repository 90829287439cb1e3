"""Named recipes say what the paper and the published code say, and survive their files."""

import dataclasses
import json
import math

import pytest

from condense.errors import UserError
from condense.methods import DM, DataDAM, recipes
from condense.methods.recipes import RECIPES, recipe_for

CIFAR = ("cifar10", (3, 32, 32))


def test_paper_is_taken_literally() -> None:
    recipe = recipe_for("paper", *CIFAR, 10)
    assert recipe.method == DataDAM(
        power=4.0, normalise="l2", error="mse", task_balance=0.01, loss_scale=1.0
    )
    assert recipe.method == DataDAM()  # whoever calls it without settings gets the paper's
    assert (recipe.real_batch, recipe.steps, recipe.lr, recipe.momentum, recipe.preprocess) == (
        256,
        8000,
        1.0,
        0.5,
        "zca",
    )
    assert recipe_for("paper", "tinyimagenet", (3, 64, 64), 10).method.task_balance == 0.02
    assert recipe_for("paper", "tinyimagenet", (3, 64, 64), 10).preprocess == "standard"
    assert [recipe_for("paper", *CIFAR, ipc).lr for ipc in (50, 51)] == [1.0, 10.0]


def test_datadam_is_the_paper_but_for_the_scale() -> None:
    recipe, paper = recipe_for("datadam", *CIFAR, 10), recipe_for("paper", *CIFAR, 10)
    assert recipe.method == dataclasses.replace(paper.method, loss_scale=100.0)
    assert recipe == dataclasses.replace(paper, name="datadam", method=recipe.method)


def test_official_code_differs_as_published() -> None:
    recipe = recipe_for("official-code", *CIFAR, 10)
    assert recipe.method == DataDAM(power=1.0, loss_scale=100.0, task_balance=0.01)
    assert (recipe.network, recipe.real_batch, recipe.steps, recipe.preprocess) == (
        "convnet-d3-batch",
        64,
        20_000,
        "standard",
    )


def test_best_is_dance_with_a_shorter_pool_and_fewer_steps() -> None:
    best, dance = recipe_for("best", *CIFAR, 10), recipe_for("dance", *CIFAR, 10)
    shorter = ("name", "real_batch", "steps", "pool", "pool_epochs", "pool_steps")
    assert best == dataclasses.replace(dance, **{name: getattr(best, name) for name in shorter})
    assert (best.real_batch, best.steps, best.pool, best.pool_epochs) == (64, 1000, 2, None)
    assert best.pool_steps == 8 * math.ceil(50_000 / 64)


def test_dance_is_as_published_with_a_rate_for_standardised_pixels() -> None:
    recipe = recipe_for("dance", *CIFAR, 10)
    assert recipe.method == DM()
    assert (recipe.real_batch, recipe.steps, recipe.momentum, recipe.augment, recipe.formation) == (
        128, 10_000, 0.5, "idc", 2,
    )  # fmt: skip
    assert (recipe.pool, recipe.pool_training, recipe.pool_epochs) == (5, "idc", 60)
    assert (recipe.calibration, recipe.calibrate_under, recipe.clamp) == (1.0, "last", True)
    # A pixel p of a channel is (p - mean) / std: 0.01 * IPC on p is 0.01 * IPC / std^2 on that.
    for std in (0.2023, 0.1994, 0.2010):
        assert recipe.lr == pytest.approx(0.01 * 10 / std**2, rel=0.025)
    assert recipe_for("dance", *CIFAR, 50).lr == pytest.approx(5 * recipe.lr)
    assert recipe_for("dance", "mnist", (1, 28, 28), 1).augment == "idc-noflip"
    assert recipe_for("dance", "mine", (3, 32, 32), 1).lr == pytest.approx(0.25)


def test_dd_and_dsa_train_their_networks_as_their_code_does() -> None:
    assert recipe_for("dd", *CIFAR, 10).method.first_rate == 0.001
    assert recipe_for("dd", "mnist", (1, 28, 28), 10).method.first_rate == 0.02
    momenta = {name: recipe_for(name, *CIFAR, 10).method.net_momentum for name in ("dc", "dsa")}
    assert momenta == {"dc": 0.5, "dsa": 0.0}


def test_digits_are_not_mirrored() -> None:
    assert recipe_for("paper", "mnist", (1, 28, 28), 10).augment == "dsa-noflip"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = recipe_for(name, *CIFAR, 10)
    assert recipes.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_overrides_reach_the_recipe_and_its_method_as_text_or_values() -> None:
    recipe = recipe_for("paper", *CIFAR, 10).override(
        {"loss_scale": "100", "steps": "20", "lr": 2, "layers": "[0]", "error": "mae"}
    )
    assert recipe.method == DataDAM(loss_scale=100.0, layers=(0,), error="mae")
    assert (recipe.steps, recipe.lr) == (20, 2.0)
    assert recipe_for("paper", *CIFAR, 10, method="dm").method == DM()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"los_scale": 1}, "did you mean `loss_scale`"),
        ({"steps": "many"}, "`steps` is 'many'"),
        ({"steps": 1.5}, "`steps` is 1.5"),
        ({"lr": "-1"}, "`lr` is -1.0"),
        ({"error": "kl"}, "`error` is 'kl'"),
        ({"momentum": 1.0}, r"in \[0, 1\)"),
    ],
)
def test_wrong_overrides_are_named(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_for("paper", *CIFAR, 10).override(changes)


def test_unknown_names_show_the_known() -> None:
    with pytest.raises(UserError, match="did you mean `paper`"):
        recipe_for("papr", *CIFAR, 10)
    with pytest.raises(UserError, match="unknown method `datadm`"):
        recipe_for("paper", *CIFAR, 10, method="datadm")


def test_recipes_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe_for("paper", *CIFAR, 10).steps = 1  # type: ignore[misc]
