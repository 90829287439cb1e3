"""The ledger says what the records say; what is published is what was measured."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import ledger, publish
from benchmarks.campaign import __main__ as campaign
from condense import CondensedSet, UserError
from condense.reading import read_json
from condense.sets import published


def test_the_ledger_in_the_docs_is_that_of_the_records() -> None:
    text = ledger.PAGE.read_text()
    assert ledger.page(text, ledger.current()) == text


def test_every_published_set_is_the_one_that_was_measured() -> None:
    root = Path(ledger.__file__).parents[1]
    for name, card in published.cards().items():
        record = read_json(root / card.measured)
        assert card.accuracies == tuple(record["score"]["accuracies"])
        assert (card.dataset, card.ipc, card.seed) == tuple(
            record[key] for key in ("dataset", "ipc", "seed")
        )
        made = read_json(ledger.FULL / f"{record.get('of', record['name'])}.json")
        measured = CondensedSet.load(ledger.FULL / made["set"])
        assert CondensedSet.load(name).fingerprint == measured.fingerprint
        assert measured.provenance["steps"] == card.steps


def test_published_sets_are_small() -> None:
    assert sum(path.stat().st_size for path in published.FOLDER.glob("*")) < 8_000_000


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full")
    flags = ["--scale", "smoke", "--only", "digits-ipc1-datadam-seed0", "--out", str(out)]
    assert CliRunner().invoke(campaign.main, flags).exit_code == 0
    return out


def test_a_measured_set_is_published_with_its_card_and_found_by_name(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "FOLDER", tmp_path / "shipped")
    publish.publish("digits-ipc1-datadam-seed0", full, tmp_path / "shipped")
    (card,) = published.cards().values()
    assert (card.dataset, card.ipc, card.recipe, card.steps) == ("digits", 1, "datadam", 8)
    assert "--recipe datadam --seed 0 --set network=convnet-d2-w8" in card.command
    assert card.protocol == "dm with epochs 4, augment dsa-noflip"
    assert len(CondensedSet.load("digits-ipc1-datadam")) == 10
    with pytest.raises(UserError, match="did you mean `digits-ipc1-datadam`"):
        CondensedSet.load("digits-ipc1-datadm")


def test_what_is_not_finished_or_a_selection_is_not_published(full: Path, tmp_path: Path) -> None:
    name = "digits-ipc1-datadam-seed0"
    record = read_json(full / f"{name}.json")
    for change, message in (
        ({"finished": False}, "is not finished"),
        ({"how": {"method": "random"}}, "selection of real images"),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(record | change))
        with pytest.raises(UserError, match=message):
            publish.publish(name, tmp_path, tmp_path / "shipped")
