"""Small HTML reports: one file without scripts, which loads nothing from elsewhere.

A report is made of blocks (`paragraph`, `command`, `table`, `scores`, `facts`, `image`). Each is a
fragment of escaped HTML. Blocks are grouped in sections:

    accuracy = section("Accuracy", scores(results), command("condensekit evaluate ..."))
    html_report("report.html", "Digits", accuracy)
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NewType

from condense.report.figures import png_bytes
from condense.training.score import Measured
from condense.writing import write_bytes

if TYPE_CHECKING:
    from PIL import Image

Html = NewType("Html", str)
"""Escaped HTML. Only the functions of this module make it."""


# ---- blocks of a report


def paragraph(text: str) -> Html:
    """A paragraph of plain text.

    >>> paragraph("3 < 4")
    '<p>3 &lt; 4</p>'
    """
    return Html(f"<p>{escape(text)}</p>")


def command(text: str) -> Html:
    """A command line, as it is typed.

    >>> command("condensekit data --list")
    '<pre><code>condensekit data --list</code></pre>'
    """
    return Html(f"<pre><code>{escape(text)}</code></pre>")


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Html:
    """A table of text and numbers. Numbers are aligned to the right.

    >>> "<td>dm</td>" in table(["method", "accuracy"], [["dm", 0.5]])
    True
    """
    rows = list(rows)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
    numeric = (
        [isinstance(value, int | float) for value in rows[0]] if rows else [False] * len(headers)
    )
    return _table(headers, numeric, body, caption)


def scores(results: Mapping[str, Measured], caption: str = "") -> Html:
    """A table of accuracies by name, each with its 95 % interval and a bar that shows both.

    It also gives the number of trainings.

    >>> from condense.training.score import Score
    >>> "50.0 %" in scores({"dm": Score((0.4, 0.6))})
    True
    """
    rows = []
    for name, score in results.items():
        low, high = (100 * min(max(end, 0.0), 1.0) for end in score.ci95)
        bar = (
            f'<div class="bar"><i style="width:{100 * score.mean:.2f}%"></i>'
            f'<b style="left:{low:.2f}%;width:{high - low:.2f}%"></b></div>'
        )
        numbers = [
            f"{100 * score.mean:.1f} %",
            f"{low:.1f} to {high:.1f}",
            str(len(score.accuracies)),
        ]
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        rows.append(f'<tr>{_cell(name)}{cells}<td class="wide">{bar}</td></tr>')
    headers = ["", "accuracy", "95 % interval", "trainings", "0 to 100 %"]
    return _table(headers, [False, True, True, True, False], "".join(rows), caption)


def facts(values: Mapping[str, Any]) -> Html:
    """A table of names and values, such as a provenance. Nested names become `outer.inner`.

    >>> "<th>dataset.name</th><td>digits</td>" in facts({"dataset": {"name": "digits"}})
    True
    """
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in _flat(values)
    )
    return Html(f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>')


def image(source: "Path | Image.Image", caption: str = "") -> Html:
    """An embedded picture: a PNG file or a Pillow image.

    >>> from PIL import Image
    >>> image(Image.new("L", (8, 8)), "a black square")[:43]
    '<figure><img src="data:image/png;base64,iVB'
    """
    content = source.read_bytes() if isinstance(source, Path) else png_bytes(source)
    data = base64.b64encode(content).decode()
    text = escape(caption)
    return Html(
        f'<figure><img src="data:image/png;base64,{data}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def section(title: str, *blocks: Html) -> Html:
    """A heading and the blocks below it.

    >>> section("Accuracy", paragraph("..."))
    '<section><h2>Accuracy</h2><p>...</p></section>'
    """
    return Html(f"<section><h2>{escape(title)}</h2>{''.join(blocks)}</section>")


def html_report(path: str | Path, title: str, *sections: Html) -> Path:
    """Write `section(...)`s as one self-contained HTML file; returns the file.

    >>> page = html_report("report.html", "Digits", section("Accuracy", paragraph("50 %")))
    >>> "<h1>Digits</h1>" in page.read_text()
    True
    """
    content = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )
    write_bytes(Path(path), content.encode())
    return Path(path)


def _table(headers: Sequence[str], numeric: Sequence[bool], body: str, caption: str) -> Html:
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f"<th{kind}>{escape(header)}</th>" for header, kind in zip(headers, kinds, strict=True)
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(
        f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if not isinstance(value, int | float):
        return f"<td>{escape(str(value))}</td>"
    return f'<td class="number">{f"{value:.4g}" if isinstance(value, float) else value}</td>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --dim: #5d6878; --paper: #f6f7f9;
  --card: #fff; --line: #dfe3e9; --bar: #5b7fb8; --mark: #1d2430; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --dim: #98a3b3; --paper: #14181e;
  --card: #1c222a; --line: #323b47; --bar: #5b7fb8; --mark: #f2f4f8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; }
h2 { font-size: 1.15rem; margin: 0 0 .75rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.25rem 1.5rem; margin: 0 0 1.25rem; }
p { margin: 0 0 .75rem; max-width: 46rem; }
section > :last-child { margin-bottom: 0; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; margin: 0 0 .75rem; }
.scroll { overflow-x: auto; margin: 0 0 .75rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--dim); padding-bottom: .4rem; }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
th { font-weight: 600; color: var(--dim); font-size: .85rem; white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
th.number, td.number { text-align: right; white-space: nowrap; padding-right: 1.5rem; }
td.wide { width: 35%; min-width: 8rem; }
.facts { font-size: .9rem; }
.facts th { width: 1%; padding-right: 2rem; }
.facts td { overflow-wrap: anywhere; }
.bar { position: relative; height: .8rem; border-radius: 3px; background: var(--line); }
.bar i, .bar b { position: absolute; top: 0; bottom: 0; left: 0; border-radius: 3px; }
.bar i { background: var(--bar); }
.bar b { top: 35%; bottom: 35%; min-width: 2px; background: var(--mark); border-radius: 0; }
figure { margin: 0 0 .75rem; }
img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { color: var(--dim); font-size: .9rem; padding-top: .4rem; }
figcaption:empty { display: none; }
"""
