"""What is refused in one line, where no other test looks for the words."""

import dataclasses
import json
import logging
import socketserver
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from cli import cli
from condense import (
    CondensedSet,
    UserError,
    as_dataset,
    condense,
    evaluate,
    load_dataset,
    recipe_for,
)
from condense.data.foreign import read_tensors
from condense.data.preprocess import Standardize, make_preprocess
from condense.methods import DM
from condense.methods.base import Recipe
from condense.methods.selection import check_ipc, select, start
from condense.randomness import keys
from condense.report.history import History
from condense.sets import transforms
from condense.sets.formats import npz, pictures, pt
from condense.study.record import locked
from condense.training.protocol import Protocol, protocol_for
from continual.plan import Plan

PLAIN = Standardize(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))


def condensed(side: int = 8, **changes: object) -> CondensedSet:
    whole = CondensedSet(
        torch.zeros(2, 1, side, side), torch.tensor([0, 1]), ("zero", "one"), PLAIN, {}
    )
    return dataclasses.replace(whole, **changes)


def refused(words: str, call: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_names_and_values_of_settings() -> None:
    digits = load_dataset("digits")
    refused(
        "unknown training of a pool `idk`",
        lambda: Recipe(name="a", method=DM(), pool_training="idk"),
    )
    refused(
        "unknown starting point `noice`: did you mean `noise`",
        lambda: start("noice", digits, 1, formation=1, preprocess=PLAIN, seed=0),
    )
    refused(
        "`real_batch` is 1000001: it must be 1,000,000 or fewer",
        lambda: Recipe(name="a", method=DM(), real_batch=1_000_001),
    )
    refused(
        "`epochs` is 1000001: it must be 1,000,000 or fewer", lambda: Protocol(epochs=1_000_001)
    )
    refused("ipc 1 in formation 4611686018427387904", lambda: check_ipc(digits, 1, 2**62))
    refused("`strategy` is 'derr': .* left out, but", lambda: Plan(steps=2, strategy="derr"))
    refused("unknown schedule `dropp`", lambda: Protocol(schedule="dropp"))
    refused("unknown optimizer `sdg`", lambda: Protocol(optimizer="sdg"))
    refused("unknown protocol `dmm`", lambda: protocol_for("dmm", "digits"))
    refused(
        "unknown recipe `beest`: did you mean `best`",
        lambda: recipe_for("beest", "digits", (1, 8, 8), 1),
    )
    with pytest.raises(ValueError, match="too many for a draw"):
        keys(0, "real", 0, torch.arange(1), 2**24 + 1)


def test_sets_that_cannot_be() -> None:
    refused(
        "takes uint8 pixels, and these are torch.float32",
        lambda: PLAIN.apply(torch.zeros(1, 1, 8, 8)),
    )
    refused("must be plain JSON", lambda: condensed(provenance={"when": {1, 2}}))
    refused("must be plain JSON", lambda: condensed(provenance={"loss": float("nan")}))
    refused("different image shapes", lambda: condensed().merge(condensed(side=12)))
    refused("different formations", lambda: condensed().merge(condensed(formation=2)))
    refused(
        "different classes: zero, one and one, zero",
        lambda: condensed().merge(condensed(classes=("one", "zero"))),
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"out": ""}, "an empty text is not a path"),
        ({"pools": "a\0b"}, "NUL"),
        ({"recipe": 5}, "`recipe` is 5: it must be a name, or a `Recipe`"),
        ({"preprocess": "zca"}, "`preprocess` is 'zca': it must be a transform"),
        ({"seed": "1"}, "`seed` is '1': it must be a whole number"),
        ({"source": "digits"}, "`source` is 'digits'"),
        ({"chunk": 1.5}, "`chunk` is 1.5: it must be a whole number or null"),
        ({"checkpoint_every": 0}, "`checkpoint_every` is 0: it must be 1 or more"),
        ({"ipc": 10**30}, "is more than class"),
        ({"minutes": "1"}, "`--minutes` is '1': it must be a number"),
        ({"minutes": float("nan")}, "`--minutes` is nan: it must be a number"),
        ({"minutes": -1}, "--minutes -1: it must be above 0"),
    ],
)
def test_arguments_of_condense(given: dict[str, Any], words: str) -> None:
    usual = {"ipc": 1, "recipe": "dm", "device": "cpu", "quiet": True}
    refused(words, lambda: condense(load_dataset("digits"), **(usual | given)))


def test_arguments_of_evaluate_and_of_sets() -> None:
    digits = load_dataset("digits")
    small = select("random", digits, 1, preprocess=make_preprocess("standard", digits), seed=0)
    refused("`protocol` is None", lambda: evaluate(small, digits, "mlp", protocol=None))
    refused("an empty text is not a path", lambda: evaluate(small, digits, "mlp", store=""))
    refused("an empty text is not a path", lambda: CondensedSet.load(""))
    refused("`name` is None: it must be text", lambda: load_dataset(None))
    for images in (None, np.zeros((2, 1, 8, 8)), torch.zeros(2, 1, 8, 8, device="meta")):
        refused(
            "`images` must be an ordinary tensor", lambda images=images: condensed(images=images)
        )


LABELS = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.full((4, 8, 8), "a"), LABELS, "its values are <U1"),
        (np.full((4, 8, 8), None), LABELS, "its values are object"),
        (np.zeros((4, 8, 8)), np.array(["a", "b"] * 2), "the labels: its values are <U1"),
        (torch.zeros(4, 8, 8, device="meta"), LABELS, "no ordinary tensor"),
        (torch.zeros(4, 8, 8).to_sparse(), LABELS, "no ordinary tensor"),
        (np.zeros((4, 8, 8)), torch.zeros(4).to_sparse(), "the labels: it is no ordinary tensor"),
    ],
)
def test_arrays_that_are_no_dataset(images: Any, labels: Any, words: str) -> None:
    refused(words, lambda: as_dataset((images, labels)))


def test_arrays_that_are_turned_or_of_another_machine_are_a_dataset() -> None:
    images = np.linspace(0, 1, 4 * 64).reshape(4, 8, 8)
    whole = as_dataset((np.ascontiguousarray(images[:, ::-1]), LABELS))
    turned = as_dataset((images[:, ::-1].astype(">f8"), LABELS.astype(">i8")))
    assert turned.fingerprint == whole.fingerprint
    assert as_dataset((images[:, ::-1], LABELS)).fingerprint == whole.fingerprint


def test_a_transform_that_is_not_the_one_that_its_file_is_named_after(tmp_path: Path) -> None:
    transforms.keep(PLAIN, tmp_path)
    wrong = "0" * len(PLAIN.fingerprint)
    (file,) = tmp_path.iterdir()
    file.rename(file.with_name(f"standard-{wrong}.safetensors"))
    refused(
        f"holds another transform, {PLAIN.fingerprint}",
        lambda: transforms.find(tmp_path, "standard", wrong),
    )


def test_files_of_other_programs(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8), np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    refused("lacks the arrays `train_images`", lambda: npz.read(tmp_path / "bare.npz"))
    np.savez(tmp_path / "words.npz", train_images=images, train_labels=np.array(["a", "b"]))
    refused("`train_labels` of .* must be numbers", lambda: npz.read(tmp_path / "words.npz"))
    torch.save(torch.zeros(2, 1, 8, 8), tmp_path / "images_best.pt")
    refused("its other half does", lambda: pt.read(tmp_path / "images_best.pt", experiment=0))
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    refused("holds neither `data:", lambda: pt.read(tmp_path / "other.pt", experiment=0))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    refused(
        "has no pictures in folders named by class",
        lambda: pictures.read_folder(tmp_path / "pets", ("cat", "dog")),
    )
    Image.new("L", (8, 8)).save(tmp_path / "pets" / "cat" / "1.png")
    (tmp_path / "pets" / "dgo").mkdir()
    refused(
        "unknown class folder in .* did you mean `dog`",
        lambda: pictures.read_folder(tmp_path / "pets", ("cat", "dog")),
    )


def test_an_archive_that_holds_something_twice(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "twice.pt")
    with zipfile.ZipFile(tmp_path / "twice.pt", "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python notices, too
        archive.writestr(archive.namelist()[0], b"again")
    refused("twice", lambda: read_tensors(tmp_path / "twice.pt"))


def test_folders_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused("no class folders", lambda: load_dataset(f"folder:{tmp_path}"))
    pytest.importorskip("pyarrow")
    refused("no Parquet files", lambda: load_dataset(f"hf:{tmp_path}"))
    for name in ("plain", "noisy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-0.parquet").touch()
    refused(
        r"holds 2 configurations \(noisy, plain\)|\(plain, noisy\)",
        lambda: load_dataset(f"hf:{tmp_path}"),
    )
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("Parquet files need pyarrow", lambda: load_dataset(f"hf:{tmp_path / 'plain'}"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What asks a hub that answers nobody, since it hangs up at once; it grows by each attempt."""
    datasets, attempts = pytest.importorskip("datasets"), list[Any]()

    class HangsUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            attempts.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), HangsUp) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", place)
        yield attempts
        server.shutdown()
        thread.join()


def test_the_hub_when_it_is_out_of_reach(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    refused(
        "somebody/pets: no such folder, and not loaded from the hub .which cannot be reached: ",
        lambda: load_dataset("hf:somebody/pets"),
    )
    assert len(asked) == 1
    assert not sys.modules["datasets"].config.HF_HUB_OFFLINE
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("the hub needs `datasets`", lambda: load_dataset("hf:somebody/pets"))


def test_what_the_hub_tries_again_is_not_told(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(repository: str) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s")
        raise ConnectionError("far away")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", warned)
    level = logging.getLogger("huggingface_hub").level
    refused("not loaded from the hub", lambda: load_dataset("hf:somebody/pets"))
    assert caplog.text == ""
    assert logging.getLogger("huggingface_hub").level == level


def test_run_folders(tmp_path: Path) -> None:
    curves = {"steps": [1, 2], "seconds": [0.5], "losses": {"mmd": [1.0, 0.5]}}
    (tmp_path / "history.json").write_text(json.dumps(curves))
    refused("its lists differ in length", lambda: History.of(tmp_path))
    (tmp_path / "file").touch()
    refused("cannot make the folder", lambda: locked(tmp_path / "file" / "run").__enter__())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("condense --dataset digits", "--out is missing: name the run folder"),
        ("condense", "--dataset is missing"),
        ("pool --recipe dm --dataset digits --out never", "recipe `dm` has no pool"),
        ("report .", "holds no run: it has none of"),
        ("watch .", "has no curves"),
    ],
)
def test_commands(
    command: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(words, lambda: CliRunner().invoke(cli, command.split(), catch_exceptions=False))
    assert not list(tmp_path.iterdir())
