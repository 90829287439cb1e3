"""The ledger of full-length results: what authors claim, beside what was measured here.

`python -m benchmarks.ledger` writes it into docs/results.md, from the records that
`python -m benchmarks.campaign` keeps. Each row names its files.
"""

import re
from collections.abc import Iterable
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import click

from benchmarks import results
from condense import Score, UserError
from condense.command import guard
from condense.networks.build import canonical
from condense.reading import read_json
from condense.report.papers import MAIN
from condense.report.tables import markdown, percent
from condense.runs.evaluations import protocol_text
from condense.writing import write_bytes

FULL = results.FOLDER / "full"
PAGE = Path(__file__).parents[1] / "docs" / "results.md"
HEADERS = (
    "dataset", "IPC", "line", "protocol", "network", "claimed, %", "measured, %", "95 % interval",
    "sets x networks", "steps", "real images a step", "hours a set", "record",
)  # fmt: skip
_ORIGINS = {"datadam-256": "datadam", "official-code": "datadam", "paper": "datadam"}
"""The method whose claim a line is held against, where it has another name."""
_BLOCK = re.compile(r"(?<=<!-- ledger -->\n).*?(?=<!-- end of the ledger -->)", re.DOTALL)


def lines(records: Iterable[dict[str, Any]], folder: str = "") -> list[str]:
    """A Markdown table of the records, a row for each dataset, IPC, line, protocol and network.

    A row is over the finished sets; where there is none, over the networks of the first one so far.
    `folder` is where the records are, seen from the page.

    >>> record = {
    ...     "name": "cifar10-ipc1-random-seed0", "finished": True, "dataset": "cifar10", "ipc": 1,
    ...     "seed": 0,
    ...     "line": "random", "how": {"method": "random"}, "condense": [{"seconds": 1.5}],
    ...     "network": "convnet", "protocol": {"epochs": 1001},
    ...     "score": {"accuracies": [0.14, 0.16]},
    ... }
    >>> print(lines([record])[2])
    | cifar10 | 1 | random | dm | convnet | 14.4 ± 2.0 | 15.0 | 2.3 to 27.7 | 1 x 2 | | | 0.0 | ...
    """
    judged = sorted((one for one in records if _accuracies(one)), key=_row)
    groups = [(row, _comparable(list(group))) for row, group in groupby(judged, key=_row)]
    return markdown(HEADERS, [_cells(row, group, folder) for row, group in groups])


def _accuracies(record: dict[str, Any]) -> list[float]:
    """Those of the networks that were trained so far; none for a record that is of no set."""
    if "line" not in record:
        return []
    if record["finished"]:
        return record["score"]["accuracies"]
    return [one for leg in record.get("evaluate", []) for one in leg["accuracies"]]


def _comparable(group: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The finished records; where there is none, the first one as far as it is."""
    return [one for one in group if one["finished"]] or group[:1]


def _cells(row: "Row", group: list[dict[str, Any]], folder: str) -> list[Any]:
    dataset, ipc, line, protocol, network = row
    runs = [_accuracies(one) for one in group]
    score, how = Score(tuple(chain(*runs)), len(runs)), group[0]["how"]
    hours = sum(leg["seconds"] for one in group for leg in one["condense"]) / len(group) / 3600
    files = ", ".join(f"[{one['seed']}]({folder}{one['name']}.json)" for one in group)
    claimed = MAIN.get((_ORIGINS.get(line, line), f"{dataset} IPC {ipc}"), "")
    return [
        dataset,
        ipc,
        line,
        protocol,
        network,
        claimed if (protocol, network) == ("dm", "convnet") else "",
        percent([score.mean], digits=1),
        percent(score.ci95, digits=1) if len(score.accuracies) > 1 else "",
        f"{len(runs)} x {len(runs[0])}",
        how.get("steps", ""),
        how.get("real_batch", ""),
        f"{hours:.1f}",
        files,
    ]


Row = tuple[str, int, str, str, str]
"""Dataset, IPC, line, protocol and network."""


def _row(record: dict[str, Any]) -> Row:
    network = canonical(record["network"], (3, 32, 32))
    short = "convnet" if network == canonical("convnet", (3, 32, 32)) else network
    protocol = protocol_text(record["protocol"])
    return record["dataset"], record["ipc"], record["line"], protocol, short


def page(text: str, table: list[str]) -> str:
    """The text of docs/results.md with its table replaced.

    >>> page("<!-- ledger -->\\nold\\n<!-- end of the ledger -->", ["new"])
    '<!-- ledger -->\\nnew\\n<!-- end of the ledger -->'
    """
    if not _BLOCK.search(text):
        raise UserError(f"{PAGE.name} has no place for the ledger: its two comments are missing")
    return _BLOCK.sub(lambda _: "\n".join([*table, ""]), text)


def current(folder: Path = FULL) -> list[str]:
    """The table as the records in a folder have it, with links from docs/."""
    records = [read_json(path) for path in sorted(folder.glob("*.json"))]
    return lines(records, "../benchmarks/results/full/")


@click.command()
def main() -> None:
    """Write the ledger into docs/results.md."""
    write_bytes(PAGE, page(PAGE.read_text(), current()).encode())


if __name__ == "__main__":
    guard.run(main)
