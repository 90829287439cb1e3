"""Pictures of kept results are drawn again from their numbers."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import draw, results
from condense.errors import UserError
from condense.reading import read_json


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("breakdown", 1),
        ("continual_scratch", 1),
        ("nas_grid", 4),
        ("recipes", 1),
        ("scale_cpu", 1),
        ("tables_cost_cpu", 1),
        ("tables_embedding_cpu", 14),
        ("tables_order_cpu", 1),
    ],
)
def test_the_pictures_of_a_kept_result_are_drawn_again(
    name: str, pictures: int, tmp_path: Path
) -> None:
    result = CliRunner().invoke(draw.main, [name, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    drawn = list(tmp_path.glob(f"{name}*.png"))
    assert len(drawn) == pictures
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_a_kept_ranking_agrees_with_the_truth_as_it_did() -> None:
    document = read_json(results.FOLDER / "nas_grid.json")
    again = draw.ranking_of(document).agreements
    assert again.keys() == document["agreement"].keys()
    for name, found in again.items():
        claimed = found.to_json()
        kept = document["agreement"][name]
        # What is no longer claimed: intervals of the best, and tops of fewer than ten.
        for measure in ("top1", "regret"):
            assert claimed.pop(measure)["value"] == kept.pop(measure)["value"]
        for measure in ("spearman_top10", "kendall_top10"):
            assert claimed.pop(measure)["value"] is None
            kept.pop(measure)
        assert claimed == kept


def test_the_curves_of_a_study_that_kept_its_passes_are_drawn_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = read_json(results.FOLDER / "nas_size_32px.json")
    rho = {"value": 0.5, "low": 0.1, "high": None}
    document["passes"] = {"random:10": [rho] * 20, "random:25": [rho] * 20}
    monkeypatch.setattr(draw, "read_json", lambda path: document)
    draw.draw(tmp_path, "nas_size_32px")
    assert (tmp_path / "nas_size_32px_curve.png").exists()


def test_a_result_without_a_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown result with a picture `storage`"):
        draw.draw(tmp_path, "storage")
