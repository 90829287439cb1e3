"""Charts as Vega-Lite specifications: plain data. The page adds width, colours and fonts."""

from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
Spec = dict[str, Any]

_FEW_TICKS: Spec = {"tickCount": {"expr": "ceil(width / 90)"}}
"""Ticks of a horizontal axis that leave room for their labels, also on a phone."""
_LONG_LABEL = 28
"""Characters of a label that fit into one line."""


def line(
    rows: Rows, x: str, y: str, color: str | None = None, *, log: bool = False, height: int = 220
) -> Spec:
    """Lines of `y` over `x`, one for each value of `color`; on a logarithmic scale if asked.

    >>> line([{"step": 1, "loss": 0.5}], "step", "loss")["encoding"]["x"]["field"]
    'step'
    """
    scale = {"type": "log", "nice": False} if log else {"zero": False}
    encoding: Spec = {
        "x": _across(x),
        "y": {"field": y, "type": "quantitative", "title": y, "scale": scale},
        "tooltip": [{"field": field, "title": field} for field in (x, y, color) if field],
    }
    if color:
        encoding["color"] = {"field": color, "type": "nominal", "title": None, "sort": None}
    mark = {"type": "line", "point": len(rows) < 20, "interpolate": "linear", "strokeWidth": 1.6}
    return {"data": {"values": list(rows)}, "height": height, "mark": mark, "encoding": encoding}


def series(rows: Rows, x: str, y: str, color: str, ticks: Sequence[int]) -> Spec:
    """Lines with intervals, one for each value of `color`; rows have `low` and `high`, or None.

    >>> row = {"classes": 2, "accuracy": 90.0, "low": None, "high": None, "method": "dm"}
    >>> series([row], "classes", "accuracy", "method", [2])["layer"][0]["mark"]["type"]
    'line'
    """
    tooltip = [{"field": field, "title": field} for field in (color, x)]
    tooltip += [{"field": field, "title": field, "format": ".2f"} for field in (y, "low", "high")]
    of_y: Spec = {"type": "quantitative", "title": y, "scale": {"zero": False}}
    named: Spec = {"field": color, "type": "nominal", "sort": None, "title": None}
    return {
        "data": {"values": list(rows)},
        "height": 300,
        "encoding": {
            "x": {
                "field": x,
                "type": "quantitative",
                "title": x,
                "axis": {"values": list(ticks)},
                "scale": {"zero": False, "nice": False, "padding": 12},
            },
            "color": named,
            "tooltip": tooltip,
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 1.8}, "encoding": {"y": {"field": y, **of_y}}},
            {
                "transform": [{"filter": "isValid(datum.low)"}],
                "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.7},
                "encoding": {"y": {"field": "low", **of_y}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {"y": {"field": y, **of_y}, "shape": named},
            },
        ],
    }


def stairs(
    rows: Rows, y: str, x: str, color: str, also: Sequence[str] = (), *, level: float
) -> Spec:
    """Values `y` that hold until the next, one line for each value of `color`.

    A dashed line marks the `level` that they are measured by. The fields `also` are told with them.

    >>> row = {"trainings": 2, "regret": 1.5, "strategy": "random"}
    >>> stairs([row], "regret", "trainings", "strategy", level=0)["layer"][1]["mark"]["interpolate"]
    'step-after'
    """
    of_y: Spec = {"field": y, "type": "quantitative", "title": y, "scale": {"zero": False}}
    named: Spec = {"field": color, "type": "nominal", "sort": None, "title": None}
    tooltip: list[Spec] = [{"field": color, "title": color}, {"field": x, "title": x}]
    tooltip += [{"field": y, "title": y, "format": ".2f"}]
    tooltip += [{"field": field, "title": field} for field in also]
    rule = {"type": "rule", "strokeDash": [5, 4]}
    line: Spec = {"type": "line", "interpolate": "step-after", "strokeWidth": 1.8}
    points: Spec = {"type": "point", "filled": True, "size": 60, "opacity": 1}
    return {
        "data": {"values": list(rows)},
        "height": 260,
        "layer": [
            {"mark": rule, "encoding": {"y": {"datum": level, "type": "quantitative"}}},
            {"mark": line, "encoding": {"x": _across(x), "y": of_y, "color": named}},
            {
                "mark": points,
                "encoding": {
                    "x": _across(x), "y": of_y, "color": named, "shape": named, "tooltip": tooltip,
                },
            },
        ],
    }  # fmt: skip


def intervals(
    rows: Rows, value: str, *, zero: bool = False, ends: tuple[float, float] | None = None
) -> Spec:
    """Values by name as dots with intervals from `low` to `high`, in colours by `source`.

    With `zero`, a line marks 0, as for differences. The axis goes from one of the `ends` to the
    other, so that charts can be compared; unless given, it fits the values.

    >>> row = {"name": "dm", "accuracy": 50.0, "low": 40.0, "high": 60.0, "source": "measured"}
    >>> intervals([row], "accuracy")["layer"][0]["encoding"]["y"]["field"]
    'name'
    """
    axis: Spec = {"format": ".6~g", **_FEW_TICKS}
    scale: Spec = {"domain": list(ends)} if ends else {"zero": zero}
    x: Spec = {"type": "quantitative", "title": value, "scale": scale, "axis": axis}
    source: Spec = {"field": "source", "type": "nominal", "sort": None, "title": None}
    if len({row["source"] for row in rows}) < 2:
        source["legend"] = None
    tooltip: list[Spec] = [{"field": "name", "title": "name"}]
    tooltip += [
        {"field": field, "title": field, "format": ".2f"} for field in (value, "low", "high")
    ]
    y: Spec = {"field": "name", "type": "nominal", "sort": None, "title": None}
    # A long label, or any on a narrow page, has a line for each part.
    whole = f"width > 480 && length(datum.label) <= {_LONG_LABEL}"
    y["axis"] = {"labelExpr": f"{whole} ? datum.label : split(datum.label, ', ')"}
    parts = max((str(row["name"]).count(", ") + 1 for row in rows), default=1)
    line_at_0: list[Spec] = [{"mark": {"type": "rule"}, "encoding": {"x": {"datum": 0}}}]
    return {
        "data": {"values": list(rows)},
        "height": {"step": max(30, 17 * parts)},
        "layer": [
            *(line_at_0 if zero else []),
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": {"field": "low", **x}, "x2": {"field": "high"}, "y": y, "color": source,
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
                "encoding": {
                    "x": {"field": value, **x}, "y": y, "color": source, "shape": source,
                    "tooltip": [*tooltip, {"field": "source", "title": "source"}],
                },
            },
        ],
    }  # fmt: skip


def _across(field: str) -> Spec:
    """A horizontal axis of whole numbers, such as steps."""
    axis: Spec = {"tickMinStep": 1, **_FEW_TICKS}
    return {
        "field": field, "type": "quantitative", "title": field, "scale": {"nice": False},
        "axis": axis,
    }  # fmt: skip
