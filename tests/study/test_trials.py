"""The store of trainings: what is finished stays, whoever writes and whoever is killed."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condense.errors import UserError
from condense.study.trials import VERSION, Key, Trial, Trials
from condense.writing import in_use

SPAWN = multiprocessing.get_context(
    "spawn"
)  # forking a process with torch's threads is no test of ours


def _key(number: int, kind: str = "nets") -> Key:
    return Key.of(kind, net=number)


def _trial(number: int, kind: str = "nets") -> Trial:
    result = {"curve": {"loss": [2.0, 1.0 / (number + 1)]}, "accuracy": number / 7, "name": "a"}
    return Trial(_key(number, kind), result, 0.25, "here")


def test_a_store_in_a_removed_folder_takes_nothing(tmp_path):
    """SQLite would go on writing into a file that nobody can find any more."""
    with in_use(tmp_path / "run") as folder, Trials(folder / "trials.sqlite") as store:
        assert store.add(_trial(0))
        shutil.rmtree(folder)
        with pytest.raises(UserError, match="run was removed while a run worked in it"):
            store.add(_trial(1))
    assert not folder.exists()


def test_what_is_added_is_found(tmp_path):
    with Trials(tmp_path / "new" / "trials.sqlite") as store:
        assert len(store) == 0
        for number in (2, 0, 1):
            assert store.add(_trial(number))
        store.add(_trial(0, kind="cells"))
    with Trials(tmp_path / "new" / "trials.sqlite") as store:
        assert len(store) == 4
        assert list(store.find("nets").values()) == [_trial(0), _trial(1), _trial(2)]
        assert store.find("cells") == {_key(0, "cells"): _trial(0, "cells")}
        assert store.find("elsewhere") == {}
        assert store.keys("nets") == {_key(0), _key(1), _key(2)}


def test_the_first_trial_of_a_key_stays(tmp_path):
    with Trials(tmp_path / "t.sqlite") as store:
        assert store.add(_trial(0))
        assert not store.add(Trial(_key(0), {"accuracy": 1.0}, 9.0, "there"))
        assert store.find("nets")[_key(0)] == _trial(0)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans() | st.floats(0, 1)))
def test_a_key_is_its_facts_in_any_order(facts):
    assert Key.of("k", **facts) == Key.of("k", **dict(reversed(facts.items())))
    assert json.loads(Key.of("k", **facts).task) == facts


def test_diverged_numbers_come_back_as_nan(tmp_path):
    trial = Trial(_key(0), {"curve": {"loss": [1.0, inf, nan]}, "accuracy": nan}, 1.0, "here")
    with Trials(tmp_path / "t.sqlite") as store:
        store.add(trial)
        found = store.find("nets")[_key(0)].result
    assert found["curve"]["loss"][0] == 1.0
    assert all(isnan(value) for value in [*found["curve"]["loss"][1:], found["accuracy"]])


def test_a_changed_number_is_noticed(tmp_path):
    path = tmp_path / "t.sqlite"
    with Trials(path) as store:
        store.add(_trial(1))
    with sqlite3.connect(path) as database:
        database.execute("UPDATE trials SET result = replace(result, '0.14', '0.94')")
    database.close()
    with Trials(path) as store, pytest.raises(UserError, match="does not match its checksum"):
        store.find("nets")


@pytest.mark.parametrize("place", [0.3, 0.6, 0.9])
def test_a_damaged_file_is_an_error_of_one_line(tmp_path, place):
    path = tmp_path / "t.sqlite"
    with Trials(path) as store:
        for number in range(200):
            store.add(_trial(number))
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 512] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(UserError) as error, Trials(path) as store:
        store.find("nets")
    assert "\n" not in str(error.value)


def test_a_table_named_by_no_text_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "t.sqlite"
    with Trials(path):
        pass
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREA\x80E TABLE"))
    with pytest.raises(UserError, match="no text"), Trials(path):
        pass


@pytest.mark.parametrize("result", ["{", "[" * 100_000, b"\xff"])
def test_a_result_that_is_not_json_is_an_error(tmp_path, monkeypatch, result):
    monkeypatch.setattr("condense.study.trials._dump", lambda _: result)
    with Trials(tmp_path / "t.sqlite") as store:
        store.add(_trial(0))
        with pytest.raises(UserError, match="is not JSON"):
            store.find("nets")


def test_a_damaged_definition_of_two_lines_is_an_error_of_one(tmp_path):
    path = tmp_path / "t.sqlite"
    with Trials(path):
        pass
    path.write_bytes(path.read_bytes().replace(b"TABLE trials (", b"TABLE trials `"))
    with pytest.raises(UserError, match="malformed database schema") as error, Trials(path):
        pass
    assert "\n" not in str(error.value)


def _write_for_ever(path, announce):
    with Trials(path) as store:
        number = 0
        while True:
            store.add(_trial(number))
            os.write(
                announce.fileno(), number.to_bytes(4, "little")
            )  # only what `add` has returned from
            number += 1


@pytest.mark.parametrize("moment", [1, 40, 150])
def test_a_killed_writer_loses_nothing_finished(tmp_path, moment):
    path = tmp_path / "t.sqlite"
    reader, writer = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_write_for_ever, args=(path, writer))
    process.start()
    writer.close()
    finished = -1
    while finished < moment:
        finished = int.from_bytes(os.read(reader.fileno(), 4), "little")
    time.sleep(0.0007 * moment % 0.003)
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    while content := os.read(reader.fileno(), 4):
        finished = int.from_bytes(content, "little")
    reader.close()
    process.close()
    with Trials(path) as store:
        found = store.find("nets").values()
        assert len(found) in (
            finished + 1,
            finished + 2,
        )  # one may have been stored but not announced
        assert {trial.key for trial in found} >= {_key(n) for n in range(finished + 1)}
        assert all(trial == _trial(json.loads(trial.key.task)["net"]) for trial in found)
        assert store.add(_trial(10**6))  # and the next search goes on
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def _write_range(path, start, stop):
    with Trials(path) as store:
        for number in range(start, stop):
            store.add(_trial(number))


def test_two_processes_share_a_store_from_its_making_on(tmp_path):
    """Their work overlaps in 40..59: those are there once."""
    path = tmp_path / "t.sqlite"
    processes = [
        SPAWN.Process(target=_write_range, args=(path, start, start + 60)) for start in (0, 40)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with Trials(path) as store:
        assert store.keys("nets") == {_key(n) for n in range(100)}
        assert len(store) == 100


def test_other_files_are_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no database, but long enough to be read as one " * 100)
    with pytest.raises(UserError, match="cannot be used as a store"):
        Trials(text)
    assert text.read_text().startswith("no database")

    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    database.close()
    before = foreign.read_bytes()
    with pytest.raises(UserError, match="another program"):
        Trials(foreign)
    assert foreign.read_bytes() == before

    for place in (tmp_path, text / "t.sqlite"):  # a folder; below a file
        with pytest.raises(UserError, match="cannot be used as a store"):
            Trials(place)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "t.sqlite"
    with Trials(path) as store:
        store.add(_trial(0))
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with pytest.raises(
        UserError, match=f"version {VERSION + 1}, this program writes version {VERSION}"
    ):
        Trials(path)
