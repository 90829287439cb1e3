"""What people read while they wait."""

import pytest

from condense import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the progress sees, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_follows_from_the_units_after_the_first(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """The first unit takes a minute, since it begins with preparations; each other a second."""
    with progress.progress("training", total=81) as report:
        for number in range(1, 82):
            clock[0] = 60.0 + number - 1
            report(number)
    first, *later, last = capsys.readouterr().err.splitlines()
    assert first.strip() == "training: 1/81, 60 s so far"
    left = [line.partition("so far, ")[2].partition(" left")[0] for line in later]
    assert left == [f"{81 - done} s" for done in range(11, 81, 10)]
    assert last.strip() == "training: 81/81, 2 min so far"


def test_what_an_earlier_run_has_done_does_not_count_as_fast(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress("condense", total=100, start=90) as report:
        for number in (91, 92):
            clock[0] += 20
            report(number)
    assert "condense: 92/100, 40 s so far, 3 min left" in capsys.readouterr().err
