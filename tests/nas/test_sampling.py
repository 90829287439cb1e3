"""Which architectures are ranked: numbers, lists, the best of a reference, restricted factors."""

import numpy as np
import pytest

from condense.errors import UserError
from nas.reference import Reference
from nas.sampling import candidates, read_indices
from nas.spaces import convnet720, nasbench201


def _reference(space, known: int, seed: int = 0) -> Reference:
    """Random accuracies of some of the architectures of a space."""
    draws = np.random.default_rng(seed)
    values = np.full(space.SIZE, np.nan)
    chosen = draws.choice(space.SIZE, known, replace=False)
    values[chosen] = 90 + draws.normal(size=known)
    return Reference(space.NAME, "a table", {"digits_test": values})


TABLE = _reference(nasbench201, 1000)
ACCURACIES = TABLE.columns["digits_test"]


def _drawn(sample: str, seed: int = 0, **others) -> tuple[int, ...]:
    how = {"reference": TABLE, "truth": "digits_test", **others}
    return candidates("nasbench201", sample, seed, **how)


def test_plain_numbers_are_the_draws_they_were():
    for count in (4, "4"):
        assert list(candidates("nasbench201", count, 3)) == nasbench201.sample(4, 3)
    assert len(candidates("nasbench201", None, 0)) == nasbench201.SAMPLE
    assert len(candidates("convnet720", "0", 0)) == 720


def test_the_best_are_drawn_at_random_from_the_top_of_the_reference():
    known = np.flatnonzero(~np.isnan(ACCURACIES))
    top = set(known[np.argsort(-ACCURACIES[known])][:200].tolist())
    drawn = _drawn("top20:100")
    assert len(drawn) == 100
    assert set(drawn) < top
    assert np.mean(ACCURACIES[list(drawn)]) == pytest.approx(
        np.mean(ACCURACIES[list(top)]), abs=0.1
    )  # no best of the best
    assert set(_drawn("top20:30")) < set(drawn)
    assert _drawn("top20:100", seed=1) != drawn
    assert len(_drawn("top5:50")) == 50
    with pytest.raises(UserError, match="200 of nasbench201 are left"):
        _drawn("top20:201")


def test_strata_are_one_of_each_part_of_the_reference():
    known = np.flatnonzero(~np.isnan(ACCURACIES))
    place = {index: at for at, index in enumerate(known[np.argsort(-ACCURACIES[known])].tolist())}
    drawn = _drawn("stratified:50")
    assert sorted(place[index] // 20 for index in drawn) == list(range(50))
    assert drawn != _drawn("stratified:50", seed=1)


def test_factors_restrict_a_space():
    only = {"depth": ["1", "2"], "pool": ["none"]}
    found = candidates("convnet720", 20, 0, only=only)
    assert len(found) == 20
    for index in found:
        convnet = convnet720.architecture(index)
        assert convnet.depth in (1, 2)
        assert convnet.pool == "none"
        assert convnet.parameters((1, 8, 8), 10) > 0  # none is too deep for small images
    assert set(found) < set(candidates("convnet720", 40, 0, only=only))
    assert len(candidates("convnet720", None, 0, only=only)) == 120  # all there are
    widths = [convnet720.architecture(index).width for index in found]
    assert {widths.count(width) for width in (32, 64, 128, 256)} <= {4, 5, 6}  # still balanced


@pytest.mark.parametrize(
    ("space", "sample", "more", "message"),
    [
        ("nasbench201", "top20", {}, "it must be a number, top20:NUMBER"),
        ("nasbench201", "top20:0", {}, "must be 1 or more"),
        ("nasbench201", "best:3", {}, "it must be a number"),
        ("nasbench201", "top20:3", {}, "needs a --reference with `digits_test`"),
        ("nasbench201", "stratified:3", {}, "needs a --reference"),
        ("nasbench201", 4, {"only": {"depth": ["1"]}}, "has no factor `depth`"),
        ("convnet720", 4, {"only": {"depth": ["9"]}}, "unknown depth of convnet720: `9`"),
        ("convnet720", 99, {"only": {"depth": ["1"], "norm": ["none"]}}, "36 of convnet720"),
    ],
)
def test_bad_samples(space, sample, more, message):
    with pytest.raises(UserError, match=message):
        candidates(space, sample, 0, truth="digits_test", **more)


def test_indices_come_from_a_file(tmp_path):
    name = nasbench201.architecture(7).name
    (tmp_path / "chosen.txt").write_text(f"# mine\n5\n\n{name}  # by its name\n")
    assert candidates("nasbench201", read_indices(tmp_path / "chosen.txt"), 0) == (5, 7)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="names no architecture"):
        read_indices(tmp_path / "empty.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match="is damaged or no text"):
        read_indices(tmp_path / "binary.txt")
