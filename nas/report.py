"""The report of a search: how far its scores agree with the truth, and every candidate to look at.

Architectures are drawn where their space is a graph of a few operations, as NAS-Bench-201's is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from condense.report.blocks import Command, Explorer, Facts, Report, Section, Table, Text
from condense.runs.commands import command
from condense.words import counted
from nas.agreement import Agreement, Estimate
from nas.plan import SearchPlan
from nas.ranking import YARDSTICK, Ranking
from nas.spaces import space

INDICES = "indices.txt"
"""The candidates, one a line, for the command that ranks them again."""
_SHOWN = {
    "spearman": "Spearman",
    "spearman_top20": "top 20 %",
    "spearman_top10": "top 10 %",
    "kendall": "Kendall",
}
"""The measures that the tables show, with their headers."""
DRAWN = (
    "Cells are drawn from their input (left) to their output (right): 3 is a convolution of 3 x 3, "
    "1 one of 1 x 1, p average pooling, and a dashed line passes its input on."
)
"""How to read the drawings of NAS-Bench-201."""
SIGNS = "In every column higher is better: losses have their sign turned."
"""How to read the scores."""
DIFFERENCE_HEADERS = ("score", *_SHOWN.values())
"""The headers of `difference_rows`."""
AGREEMENT_HEADERS = ("score", *_SHOWN.values(), "top-1, %")
"""The headers of `agreement_rows`."""


def interval(estimate: Estimate, sign: str = "") -> str:
    """A value with its 95 % interval; with the `sign` "+", it is shown as a difference.

    >>> interval(Estimate(0.5, 0.25, 0.75))
    '0.50 [0.25, 0.75]'
    >>> interval(Estimate(0.5, -0.25, 0.75), "+")
    '+0.50 [-0.25, +0.75]'
    """
    if not isfinite(estimate.value):
        return "too few"
    if not isfinite(estimate.low):
        return f"{estimate.value:{sign}.2f}"
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def agreement_rows(agreements: dict[str, Agreement]) -> list[list[str]]:
    """The rows of a table of agreements, by `AGREEMENT_HEADERS`.

    A row has the name of the score, its correlations with their 95 % intervals, and the truth of
    the architecture that it ranks best, in percent.

    >>> from nas.agreement import agreement
    >>> rows = agreement_rows({"random accuracy": agreement([1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4])})
    >>> rows[0][:2], rows[0][-1]
    (['random accuracy', '1.00 [1.00, 1.00]'], '40.00')
    """
    return [
        [name, *(interval(a[m]) for m in _SHOWN), f"{100 * a['top1'].value:.2f}"]
        for name, a in agreements.items()
    ]


def difference_rows(differences: dict[str, Agreement]) -> list[list[str]]:
    """The rows of a table of differences between agreements, by `DIFFERENCE_HEADERS`.

    >>> from nas.agreement import difference
    >>> scores, truth = [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]
    >>> difference_rows({"a minus a": difference(scores, scores, truth)})[0][:2]
    ['a minus a', '+0.00 [+0.00, +0.00]']
    """
    return [[name, *(interval(a[m], "+") for m in _SHOWN)] for name, a in differences.items()]


def report(
    ranking: Ranking, notes: Sequence[str], facts: dict[str, Any], folder: Path, again: str | None
) -> Report:
    """What is told of a ranking: `notes` first, then the scores, and `facts` last.

    `again` is the command that ranks the same candidates again, if there is one.

    >>> import numpy as np
    >>> scores = {"random accuracy": np.array([0.2, 0.4])}
    >>> ranking = Ranking("nasbench201", (5, 7), scores, {}, {}, by="random accuracy")
    >>> report(ranking, ["no reference"], {"seeds": 3}, Path("run"), None).sections[0].title
    'To know'
    """
    sections = [Section("To know", *map(Text, notes))] if notes else []
    drawn = [Text(DRAWN)] if space(ranking.space).NAME == "nasbench201" else []
    sections.append(Section("The candidates", Text(SIGNS), *drawn, _candidates(ranking)))
    if ranking.agreements:
        sections += _agreement_sections(ranking)
    made = [Command(again)] if again else []
    sections.append(Section("How it was measured", *made, Facts(facts)))
    best = ranking.rows()[0]
    return Report(
        title=f"{counted(len(ranking), 'architecture')} of {space(ranking.space).NAME}",
        sections=sections,
        summary={
            "run": folder.name,
            "space": space(ranking.space).NAME,
            "candidates": len(ranking),
            "ranked by": ranking.by,
            "Spearman": _spearman(ranking),
            "best": best["index"],
            "truth of the best, %": 100 * best["truth"] if "truth" in best else None,
        },
    )


def command_of(plan: SearchPlan, folder: Path) -> str | None:
    """The command that ranks the candidates of a plan again; None for those that Python made.

    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="nasbench201", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=2, regime=space("nasbench201").REGIME,
    ...     held_out=100, num_classes=10, by="random accuracy",
    ... )
    >>> print(command_of(plan, Path("run")))
    condensekit nas --dataset digits --space nasbench201 --proxy random --indices run/indices.txt
      --seeds 2 --held-out 100 --by 'random accuracy' --out run
    """
    if plan.own:
        return None
    options = {"indices": folder / INDICES, "seeds": plan.seeds}
    return _command("nas", plan, options, folder)


def search_command(
    plan: SearchPlan,
    folder: Path,
    budget: int,
    strategies: Sequence[str],
    seed: int,
    only: Mapping[str, Sequence[str]] | None,
) -> str:
    """The command that searches again within a budget; `only` is as in `nas.search.search`.

    >>> from condense.data.catalogue import Source
    >>> plan = SearchPlan(
    ...     space="convnet720", source=Source(name="digits"), fingerprint="0123",
    ...     proxies=("random",), indices=(5, 7), seeds=1, regime=space("convnet720").REGIME,
    ...     held_out=100, num_classes=10, by="random accuracy",
    ... )
    >>> print(search_command(plan, Path("run"), 20, ["random"], 0, {"depth": ["1", "2"]}))
    condensekit nas search --dataset digits --space convnet720 --proxy random --depth 1,2
      --budget 20 --strategy random --seed 0 --held-out 100 --by 'random accuracy' --out run
    """
    flags = {"pool": "pooling"}
    options: dict[str, Any] = {
        flags.get(name, name): ",".join(values) for name, values in (only or {}).items()
    }
    options |= {"budget": budget, "strategy": strategies, "seed": seed}
    return _command("nas search", plan, options, folder)


def _command(name: str, plan: SearchPlan, how_much: Mapping[str, Any], folder: Path) -> str:
    """A command about the candidates of a plan, with its proxies and what judges them."""
    usual = _settings(space(plan.space).REGIME)
    options: dict[str, Any] = {"space": plan.space, "proxy": plan.proxies, **how_much}
    options |= {"held-out": plan.held_out, "by": plan.by}
    options |= {"reference": plan.reference, "truth": plan.reference and plan.truth}
    options["set"] = [
        f"{setting}={value}" for setting, value in _settings(plan.regime).items()
        if value != usual[setting]
    ]  # fmt: skip
    return command(name, plan.source, options, folder)


def _settings(regime: Any) -> dict[str, Any]:
    """Every setting of a regime by the name that `--set` has for it."""
    protocol = dataclasses.asdict(regime.protocol)
    return protocol | regime.sizes | {"statistics": regime.statistics}


def _candidates(ranking: Ranking) -> Explorer:
    rows = ranking.rows()
    truth = ["truth"] if ranking.truth is not None else []
    scores = [ranking.by, *(name for name in ranking.columns if name != ranking.by)]
    headers = ["rank", ranking.by, *truth, "arch", "index", *scores[1:]]
    other = next((name for name in (YARDSTICK, *scores[1:]) if name in ranking.columns), "rank")
    cells = [[_short(row[name]) for name in headers] for row in rows]
    return Explorer(headers, cells, ranking.by, "truth" if truth else other)


def _short(value: Any) -> Any:
    """Five digits of a number: thousands of candidates are then a page of a few megabytes."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _spearman(ranking: Ranking) -> str | None:
    found = ranking.agreements.get(ranking.by)
    return interval(found["spearman"]) if found else None


def _agreement_sections(ranking: Ranking) -> list[Section]:
    """What the truth says about the scores: agreements and differences."""
    explanation = (
        f"Agreement of each score with the true test accuracy of {len(ranking)} architectures, "
        "with bootstrap 95 % intervals. Ties share their mean rank; trainings that diverged rank "
        "last. A proxy is of no use if it does not beat the scores that cost nothing."
    )
    sections = [
        Section(
            "How far the rankings can be trusted",
            Text(explanation),
            Table(AGREEMENT_HEADERS, agreement_rows(ranking.shown)),
        )
    ]
    caption = "An interval that excludes 0 means a real difference."
    for title, differences in (
        (f"Compared with {YARDSTICK}", ranking.gains),
        ("Proxy against proxy, and what a proxy adds", ranking.contrasts),
    ):
        rows = difference_rows(differences)
        sections.append(Section(title, Table(DIFFERENCE_HEADERS, rows, caption)))
    return sections
