"""The example script, for each of its strategies; and the page that lists all of them."""

import inspect
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.avalanche_example import STRATEGIES, main
from condense.data.preprocess import make_preprocess
from condense.methods.selection import select
from continual import plugins

PAGE = Path(__file__).parents[2] / "docs" / "continual.md"


@pytest.mark.parametrize(
    "strategy", [pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES]
)
def test_the_example_script_runs(digits, tmp_path, strategy) -> None:
    preprocess = make_preprocess("standard", digits)
    memory = select("random", digits, 4, preprocess=preprocess, seed=0)
    path = memory.save(tmp_path / "set.safetensors")
    flags = ["--seeds", "1", "--strategy", strategy, "--memory", str(path)]
    result = CliRunner().invoke(main, flags, catch_exceptions=False)
    assert result.exit_code == 0
    told = re.findall(r"^(\w+) +40 images, 2560 bytes +([\d.]+)%", result.stdout, re.MULTILINE)
    assert [name for name, _ in told] == ["ClassBalancedBuffer", "CondensedBuffer"]
    if strategy != "mir":  # one seed and five passes are little for it
        assert all(float(accuracy) > 20 for _, accuracy in told)


def test_the_page_shows_what_the_script_does_for_each_strategy() -> None:
    """Each line of the script that hands the memory over, under the strategy's name."""
    page = PAGE.read_text()
    [shown] = re.findall(r"```python\n(plugin = .*?)```", page, re.DOTALL)
    assert set(re.findall(r"[\w-]+", " ".join(re.findall("# (.*)", shown)))) >= set(STRATEGIES)
    for make in STRATEGIES.values():
        for line in inspect.getsource(make).splitlines():
            if "# <--" in line:
                assert line.partition("#")[0].strip() in shown


def test_the_page_lists_every_strategy_of_the_command() -> None:
    rows = re.findall(r"^\| [^|]+ \| (?:method )?`([\w+-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted({**plugins.STRATEGIES, **plugins.BOUNDS})
