"""Settings go through JSON and back; what is wrong in a file is one line that names it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condense import Recipe, UserError
from condense.methods import METHODS
from condense.methods.recipes import RECIPES, from_json, recipe_for
from condense.settings import described, plain, read, replaced
from condense.training.experts import Training
from condense.training.protocol import Protocol
from continual.plan import Plan as StreamPlan
from nas.spaces import SPACES, space
from nas.training import Regime


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    """What stands within."""

    rate: float = 0.5
    """How fast."""
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    """One field of each type that settings have."""

    count: int
    """How many,
    over two lines."""
    inner: Inner
    flag: bool = False
    name: str = "x"
    limit: int | None = None
    layers: tuple[int, ...] | None = None
    pair: tuple[str, float] = ("a", 1.0)
    many: tuple[Inner, ...] = ()
    folder: Path = Path("here")
    named: dict[str, tuple[str, str]] = field(default_factory=dict)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
INNER = st.builds(Inner, rate=NUMBERS, kind=st.sampled_from(["a", "b"]))
OUTER = st.builds(
    Outer,
    count=WHOLE,
    inner=INNER,
    flag=st.booleans(),
    name=st.text(),
    limit=st.none() | WHOLE,
    layers=st.none() | st.lists(WHOLE, max_size=3).map(tuple),
    pair=st.tuples(st.text(), NUMBERS),
    many=st.lists(INNER, max_size=2).map(tuple),
    folder=st.sampled_from([Path("a"), Path("/b/c")]),
    named=st.dictionaries(st.text(), st.tuples(st.text(), st.text()), max_size=2),
)
ILL_TYPED: dict[str, list[Any]] = {
    "count": [None, True, 1.5, "1", [1], {}, 2**63],
    "inner": [
        *(None, 3, "rate", [], {"rate": "fast"}, {"kind": "c"}, {"speed": 1}, {"rate": 0.1}),
        *({"rate": rate, "kind": "a"} for rate in (float("nan"), float("inf"), 10**400)),
    ],
    "flag": [None, 0, 1, "true"],
    "name": [None, 3, ["x"]],
    "limit": [False, 1.5, "many"],
    "layers": [3, "34", [1, "2"], [True]],
    "pair": [["a"], ["a", "b"], ["a", 1.0, 2.0], "ab"],
    "many": [{"rate": 1.0}, [3]],
    "folder": [3, None, "", "a\0b"],
    "named": [[], {"a": "bc"}, {"a": ["b"]}],
}
WRONG = [(name, value) for name, values in ILL_TYPED.items() for value in values]


@given(OUTER)
def test_a_dataclass_goes_through_json_and_back_unchanged(config: Outer) -> None:
    assert read(Outer, json.loads(json.dumps(plain(config))), "a file") == config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_goes_through_json_and_back(name: str) -> None:
    recipe = recipe_for(name, "cifar10", (3, 32, 32), 10)
    assert from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


REGIMES = [part for name in SPACES for part in (space(name).REGIME, space(name).REFERENCE_REGIME)]


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_goes_through_json_and_back(regime: Regime) -> None:
    assert read(Regime, json.loads(json.dumps(plain(regime))), "a file") == regime


@given(OUTER, st.sampled_from(WRONG))
def test_an_ill_typed_value_is_one_line_that_names_file_field_and_what_it_accepts(
    config: Outer, wrong: tuple[str, Any]
) -> None:
    name, value = wrong
    with pytest.raises(UserError) as caught:
        read(Outer, plain(config) | {name: value}, "runs/a/run.json")
    line = str(caught.value)
    assert line.startswith("runs/a/run.json: ")
    assert f"`{name}" in line
    assert "it must be" in line or "known: " in line
    assert "\n" not in line


@given(OUTER, st.text().filter(lambda name: name not in ILL_TYPED))
def test_an_unknown_field_is_one_line_that_lists_the_known_ones(config: Outer, name: str) -> None:
    with pytest.raises(UserError, match=r"run.json: unknown field .*known: count, inner, flag"):
        read(Outer, plain(config) | {f"{name!r}": 1}, "run.json")


def test_a_missing_field_is_named_with_its_path() -> None:
    @dataclass(frozen=True)
    class Whole:
        part: Outer

    with pytest.raises(
        UserError, match=r"f.toml: `part.count` is missing: it must be a whole number"
    ):
        read(Whole, {"part": {"inner": {}}}, "f.toml")


@given(OUTER, st.sampled_from(sorted(ILL_TYPED)))
def test_a_missing_field_is_an_error_even_if_it_has_a_default(config: Outer, name: str) -> None:
    content = plain(config)
    del content[name]
    with pytest.raises(UserError, match=rf"^run.json: `{name}` is missing: it must be"):
        read(Outer, content, "run.json")


def test_a_value_that_the_dataclass_refuses_names_the_file() -> None:
    with pytest.raises(UserError, match=r"^p.toml: .*`epochs` is -1: it must be 0 or more"):
        read(Protocol, plain(Protocol()) | {"epochs": -1}, "p.toml")


@pytest.mark.parametrize("content", [None, [], 3, "text"])
def test_what_is_no_mapping_is_refused(content: Any) -> None:
    with pytest.raises(UserError, match=r"p.toml: .*it must be a mapping of the fields epochs"):
        read(Protocol, content, "p.toml")


@pytest.mark.parametrize(
    ("field_name", "text", "value"),
    [
        ("count", "7", 7),
        ("flag", "true", True),
        ("name", "7", "7"),
        ("limit", "null", None),
        ("limit", "7", 7),
        ("layers", "[0, 2]", (0, 2)),
        ("inner", '{"rate": 2, "kind": "a"}', Inner(rate=2.0)),
        ("folder", "there", Path("there")),
    ],
)
def test_text_is_read_as_the_type_of_the_field(field_name: str, text: str, value: Any) -> None:
    before = Outer(count=1, inner=Inner())
    assert getattr(replaced(before, {field_name: text}), field_name) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": "many"}, "`count` is 'many': it must be a whole number"),
        ({"limit": "1.5"}, "`limit` is '1.5': it must be a whole number or null"),
        ({"layers": '[0, "a"]'}, r"`layers` is .*: it must be a list, each of it a whole number"),
        ({"flag": "maybe"}, "`flag` is 'maybe': it must be true or false"),
        ({"cuont": "3"}, "unknown setting `cuont`: did you mean `count`"),
    ],
)
def test_text_of_another_type_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replaced(Outer(count=1, inner=Inner()), changes)


def test_the_docstrings_under_fields_are_found_also_those_of_a_base() -> None:
    @dataclass(frozen=True, kw_only=True, slots=True)
    class Derived(Inner):
        extra: int = 0
        """More."""

    assert {setting.name: setting.doc for setting in described(Derived)} == {
        "rate": "How fast.",
        "kind": "",
        "extra": "More.",
    }
    assert described(Outer)[0].doc == "How many, over two lines."


@pytest.mark.parametrize(
    "kind", [*METHODS.values(), Protocol, Regime, Recipe, Training, StreamPlan]
)
def test_every_setting_has_a_docstring(kind: type) -> None:
    assert [setting.name for setting in described(kind) if not setting.doc] == []


def test_a_plan_of_a_stream_goes_through_json_and_back() -> None:
    plan = StreamPlan(steps=5, methods=("random", "dm"), epochs=3)
    assert read(StreamPlan, json.loads(json.dumps(plain(plan))), "plan.json") == plan
