"""Networks of timm, of torchvision and of users: built, matched under, trained, and refused."""

import json
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from cli import main
from condense import Protocol, condense, evaluate, load_dataset, recipe_for, resume
from condense.data.preprocess import make_preprocess
from condense.errors import UserError
from condense.methods.selection import select
from condense.networks import factories
from condense.networks.build import build, canonical, initialise
from condense.study.workers import Workers
from condense.training.evaluate import Evaluation

DIGITS = load_dataset("digits")
QUICK = Protocol(epochs=2, augment="none")


def small(shape, classes):
    """Two convolutions with a PReLU, dropout and a linear layer."""
    side = shape[1] // 2
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1), nn.PReLU(4), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(8 * side * side, classes),
    )  # fmt: skip


def headless(shape, classes):
    """Ends in a convolution."""
    return nn.Sequential(nn.Conv2d(shape[0], classes, 8), nn.Flatten())


def flat(shape, classes):
    """No layer of it has maps."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def few():
    return select("random", DIGITS, 2, preprocess=make_preprocess("standard", DIGITS), seed=0)


SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "stages", "width"),
    [
        ("torchvision/resnet18", [(64, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)], 512),
        ("timm/resnet18", [(64, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)], 512),
        ("timm/vit_tiny_patch16_224", [(192, 2, 2)], 192),
        ("torchvision/squeezenet1_1", None, 0),
    ],
)
def test_networks_of_others_show_their_stages_and_embedding(name, stages, width):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network = build(name, SHAPE, 10)
    assert network.embedding_size == width
    images = torch.rand(2, *SHAPE)
    assert network(images).shape == (2, 10)
    if stages is not None:
        seen = network._seen(images)
        assert [tuple(seen[path].shape[1:]) for path in network._stages] == stages
    if width:
        network.eval()
        logits = network.classifier(network.embed(images))
        torch.testing.assert_close(logits, network(images))
    state = torch.get_rng_state()
    build(name, SHAPE, 10)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_grey_images_are_taken(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    assert build(name, (1, 28, 28), 10)(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_fresh_weights_follow_from_seed_and_step_alone():
    name = factories.adopt(small)
    network, other = build(name, DIGITS.shape, 10), build(name, DIGITS.shape, 10)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network(torch.rand(4, *DIGITS.shape))  # moves the statistics of the normalisation
    initialise(network, 3, 5)
    initialise(other, 3, 5)
    for (key, ours), theirs in zip(
        network.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key
    assert network.module[1].weight.tolist() == [0.25] * 4
    initialise(other, 3, 6)
    assert not torch.equal(network.module[0].weight, other.module[0].weight)
    assert network.module[5].p == 0


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda shape, classes: nn.Linear(3, classes), r"fails for images \(1, 8, 8\)"),
        (lambda shape, classes: flat(shape, 7), r"gives \[2, 7\] for two images: it must be"),
        (lambda shape, classes: "a network", "makes a str, not a torch Module"),
        (lambda shape: flat(shape, 10), "must be a function of .*: too many positional"),
        (lambda shape, classes: nn.Sequential(Noise(), flat(shape, classes)), "two answers"),
    ],
)
def test_what_is_no_network_is_one_line(factory, message):
    with pytest.raises(UserError, match=message) as caught:
        build(factories.adopt(factory), DIGITS.shape, 10)
    assert "\n" not in str(caught.value)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet19", "unknown torchvision network `resnet19`: did you mean `resnet1"),
        ("timm/resnet19", "unknown timm network `resnet19`"),
        ("somewhere:net", "is a function of your own, which this program was not given"),
        ("torchvision/vit_b_16", "cannot be made for images|fails for images"),
    ],
)
def test_names_that_build_nothing_are_one_line(name, message):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=message) as caught:
        build(name, DIGITS.shape, 10)
    assert "\n" not in str(caught.value)


def test_an_object_is_no_factory():
    for one in (flat(DIGITS.shape, 10), 3):
        with pytest.raises(UserError, match="is no network: give a name, or a function"):
            evaluate(few(), DIGITS, one)


@pytest.mark.parametrize("one", [lambda: flat(DIGITS.shape, 10), models.resnet18])
def test_a_function_of_something_else_is_refused_before_it_is_called(one):
    with pytest.raises(UserError, match="must be a function of the image shape and the number"):
        evaluate(few(), DIGITS, one)


def test_functions_are_evaluated_here_and_by_workers():
    how = {"repeats": 2, "protocol": QUICK}
    scores = evaluate(few(), DIGITS, [small, "mlp"], device="cpu", **how)
    assert list(scores) == [f"{__name__}:small", "mlp"]
    again = evaluate(few(), DIGITS, small, workers=Workers(workers=0, device="cpu"), **how)
    assert again[f"{__name__}:small"] == scores[f"{__name__}:small"]


def test_a_worker_that_never_saw_a_function_is_sent_it(monkeypatch):
    bench = Evaluation.of(few(), DIGITS, lambda *sizes: small(*sizes), 1, QUICK, seed=0)
    packed = pickle.dumps(bench)
    monkeypatch.setattr(factories, "_ADOPTED", {})
    with pytest.raises(UserError, match="not given"):
        bench.run(bench.tasks[0])
    assert pickle.loads(packed).run(bench.tasks[0])["accuracy"] > 0


def test_the_name_of_a_result_changes_with_the_layers():
    def net(shape, classes, hidden):
        return nn.Sequential(flat(shape, hidden), nn.Linear(hidden, classes))

    names = {canonical(factories.adopt(partial(net, hidden=n)), DIGITS.shape) for n in (5, 6, 5)}
    assert len(names) == 2


@pytest.mark.parametrize("method", ["dm", "datadam"])
def test_sets_are_condensed_under_a_function_and_resumed(method, tmp_path):
    recipe = recipe_for(method, "digits", DIGITS.shape, 1)
    recipe = recipe.override({"steps": 2, "real_batch": 4, "preprocess": "standard"})
    how = {"ipc": 1, "recipe": recipe, "network": small, "device": "cpu", "quiet": True}
    made = condense(DIGITS, out=tmp_path / "run", **how)
    assert made.provenance["recipe"]["network"] == f"{__name__}:small"
    (tmp_path / "run" / "set.safetensors").unlink()
    assert resume(tmp_path / "run", network=small, quiet=True).fingerprint == made.fingerprint


def test_a_function_in_a_file_of_a_run_is_never_imported(tmp_path, monkeypatch):
    """A run folder of others names code; going on with it does not run that."""
    recipe = recipe_for("dm", "digits", DIGITS.shape, 1).override({"steps": 2, "real_batch": 4})
    how = {"ipc": 1, "recipe": recipe, "network": small, "device": "cpu", "quiet": True}
    condense(DIGITS, out=tmp_path / "run", **how)
    (tmp_path / "run" / "set.safetensors").unlink()
    monkeypatch.setattr(factories, "_ADOPTED", {})
    with pytest.raises(UserError, match="which this program was not given"):
        resume(tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("method", "network", "message"),
    [
        ("datadam", flat, r"shows maps .* of 0 size, and this method compares the layers"),
        ("datadam", headless, r"shows maps .* of 0 size"),
        ("dm", headless, "does not end in a linear layer, so that it has no embedding"),
    ],
)
def test_a_method_says_what_a_network_lacks(method, network, message, tmp_path):
    recipe = recipe_for(method, "digits", DIGITS.shape, 1)
    recipe = recipe.override({"steps": 1, "real_batch": 4, "preprocess": "standard"})
    with pytest.raises(UserError, match=message) as caught:
        condense(
            DIGITS, ipc=1, recipe=recipe, network=network, out=tmp_path / "run", device="cpu",
            quiet=True,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_gradients_are_matched_under_any_network():
    recipe = recipe_for("dc", "digits", DIGITS.shape, 1)
    recipe = recipe.override({"steps": 1, "real_batch": 4, "outer_loops": 1, "inner_loops": 1})
    how = {"ipc": 1, "recipe": recipe, "device": "cpu", "quiet": True}
    assert len(condense(DIGITS, network=headless, **how)) == 10


# ---- the command


def run(capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["condensekit", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_takes_a_function_in_a_file(tmp_path, capsys, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n\ndef net(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))\n"
    )
    data = ["--dataset", "digits", "--method", "dm", "--ipc", "1", "--steps", "2"]
    data += ["--real-batch", "4", "--device", "cpu"]
    out = tmp_path / "run"
    network = ["--network", f"{file}:net"]
    code, _, err = run(capsys, monkeypatch, "condense", *data, *network, "--out", out)
    assert code == 0, err
    (out / "set.safetensors").unlink()
    monkeypatch.setattr(factories, "_ADOPTED", {})
    code, _, err = run(capsys, monkeypatch, "condense", "--resume", out)
    assert (code, "name it by --network of `condense`" in err) == (2, True)
    assert run(capsys, monkeypatch, "condense", "--resume", out, *network)[0] == 0
    quick = ["--repeats", "1", "--epochs", "1", "--json", "--device", "cpu"]
    code, told, err = run(capsys, monkeypatch, "evaluate", out, *network, *quick)
    assert code == 0, err
    assert list(json.loads(told)["networks"]) == [f"{file}:net"]
    for wrong, message in (
        (f"{file}:no", "there is no function `no`"),
        (f"{tmp_path / 'none.py'}:net", "none.py does not exist"),
        ("no.such.module:net", "cannot be imported (ModuleNotFoundError"),
    ):
        code, _, err = run(capsys, monkeypatch, "evaluate", out, "--network", wrong, *quick)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err


def test_a_file_that_fails_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text("1 / 0")
    name = f"{Path(tmp_path, 'mine.py')}:net"
    code, _, err = run(capsys, monkeypatch, "evaluate", "cifar10-ipc1-best", "--network", name)
    assert (code, err.count("\n")) == (2, 1)
    assert "cannot be imported (ZeroDivisionError" in err
