"""The store of trainings: what is finished stays, whoever writes and whoever is killed."""

import multiprocessing
import os
import signal
import sqlite3
import time
from math import inf, isnan, nan

import pytest

from condense.errors import UserError
from condense.study.trials import VERSION, Key, Trial, Trials

SPAWN = multiprocessing.get_context(
    "spawn"
)  # forking a process with torch's threads is no test of ours


def _trial(number: int, seed: int = 0) -> Trial:
    key = Key("convnet720", f"net-{number}", "a1b2", seed, "epochs=20")
    return Trial(key, {"loss": [2.0, 1.0 / (number + 1)]}, {"accuracy": number / 7}, 0.25, "here")


def test_what_is_added_is_found(tmp_path):
    with Trials(tmp_path / "new" / "trials.sqlite") as store:
        assert len(store) == 0
        for number in (2, 0, 1):
            assert store.add(_trial(number))
        store.add(_trial(0, seed=1))
    with Trials(tmp_path / "new" / "trials.sqlite") as store:
        assert len(store) == 4
        assert store.get(_trial(1).key) == _trial(1)
        assert store.get(_trial(9).key) is None
        assert store.find(seed=0) == [_trial(0), _trial(1), _trial(2)]
        assert store.find(space="nasbench201") == []
        assert store.keys(architecture="net-0") == {_trial(0).key, _trial(0, seed=1).key}
        with pytest.raises(TypeError, match="arch"):
            store.find(arch="net-0")


@pytest.mark.parametrize("field", ["space", "architecture", "proxy", "seed", "recipe"])
def test_every_part_of_the_key_tells_trainings_apart(tmp_path, field):
    trial = _trial(0)
    other = Trial(
        Key(**{**vars(trial.key), field: 5 if field == "seed" else "other"}), {}, {}, 1.0, "there"
    )
    with Trials(tmp_path / "t.sqlite") as store:
        assert store.add(trial)
        assert store.add(other)
        assert not store.add(
            Trial(trial.key, {}, {"accuracy": 1.0}, 9.0, "there")
        )  # the first one stays
        assert store.get(trial.key) == trial
        assert store.get(other.key) == other
        assert len(store) == 2


def test_diverged_numbers_come_back_as_nan(tmp_path):
    trial = Trial(_trial(0).key, {"loss": [1.0, inf, nan]}, {"accuracy": nan}, 1.0, "here")
    with Trials(tmp_path / "t.sqlite") as store:
        store.add(trial)
        found = store.get(trial.key)
    assert found is not None
    assert found.curve["loss"][0] == 1.0
    assert all(isnan(v) for v in [*found.curve["loss"][1:], found.scores["accuracy"]])


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
        found = store.find()
        assert len(found) in (
            finished + 1,
            finished + 2,
        )  # one may have been stored but not announced
        assert {trial.key for trial in found} >= {_trial(n).key for n in range(finished + 1)}
        assert all(trial == _trial(int(trial.key.architecture[4:])) for trial in found)
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
        assert store.keys() == {_trial(n).key for n in range(100)}
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
