"""Sets of run folders, written for other tools with a card that tells what was measured of them."""

from pathlib import Path

from condense.runs.evaluations import rows
from condense.sets import published
from condense.sets.card import Result
from condense.sets.condensed import CondensedSet
from condense.sets.exchange import export_set, read_set
from condense.training.score import Score
from condense.words import counted


def export_run(run: str | Path, path: str | Path, form: str, *, force: bool = False) -> Path:
    """Write the set of a run folder (a set file, a published name) as `export_set` does.

    The card has what `condensekit evaluate` has measured of the set so far, or what was published
    with it.

    >>> file = export_run("cifar10-ipc1-best", "ten.npz", "npz")
    >>> [line] = [line for line in Path("ten.npz.md").read_text().splitlines() if "44.1" in line]
    >>> print(line)
    | convnet-d3-w128-... | idc | the test images of cifar10 | 44.1 % (... to 45.0; 5 networks) |
    """
    condensed = read_set(run)
    return export_set(condensed, path, form, force=force, results=_results(run, condensed))


def _results(run: str | Path, condensed: CondensedSet) -> list[Result]:
    if published.is_name(run):
        card = published.cards()[str(run)]
        return [
            Result(
                network=card.network,
                protocol=card.protocol,
                tested_on=f"the test images of {card.dataset}",
                accuracy=_text(Score(card.accuracies)),
            )
        ]
    return [
        Result(
            network=row.network,
            protocol=row.protocol_text,
            tested_on=row.tested_on,
            accuracy=_text(row.score),
        )
        for row in rows(run, condensed)
    ]


def _text(score: Score) -> str:
    count = len(score.accuracies)
    if score.interval is None:
        return f"{100 * score.mean:.1f} % ({counted(count, 'network')})"
    low, high = (100 * end for end in score.interval)
    return f"{100 * score.mean:.1f} % (95 % interval {low:.1f} to {high:.1f}; {count} networks)"
