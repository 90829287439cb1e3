"""The help of the commands, and the commands that tell what there is."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import cli
from condense import CondensedSet
from condense.methods.recipes import RECIPES, recipe_for
from condense.options import Heading
from condense.threads import PASSIVE

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> Result:
    """One command, in this process."""
    return CliRunner().invoke(cli.cli, arguments)


def headings(text: str) -> list[str]:
    """The headings of the sections of a help text."""
    return re.findall(r"^(\S.*):$", text, re.M)


def _commands() -> dict[str, click.Command]:
    nas = cli.cli.commands["nas"]
    assert isinstance(nas, click.Group)
    return dict(cli.cli.commands) | {f"nas {name}": one for name, one in nas.commands.items()}


def test_help_of_condense_is_in_groups() -> None:
    assert headings(run("condense", "--help").output) == [
        "What",
        "How much",
        "How it is matched",
        "Where it runs",
        "Output",
        "Other",
    ]


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_option_has_a_help_and_stands_under_a_heading(name: str) -> None:
    command = _commands()[name]
    with click.Context(command, **command.context_settings) as context:
        options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    text = run(*name.split(), "--help").output
    for option in options:
        assert option.help, f"{name}: {option.name} has no help"
        assert option.opts[0] in text
    order = [*map(str, Heading), "Commands"]
    assert headings(text) == sorted(headings(text), key=order.index)


@pytest.mark.parametrize("name", sorted(_commands()))
def test_no_function_of_a_command_takes_more_than_six_arguments(name: str) -> None:
    callback = _commands()[name].callback
    while hasattr(callback, "__wrapped__"):
        callback = callback.__wrapped__
    assert callback is not None
    assert callback.__code__.co_argcount + callback.__code__.co_kwonlyargcount <= 6


@pytest.mark.parametrize(
    "arguments",
    [["--method", "dsa", "--help"], ["--help", "--method=dsa"], ["--recipe", "dsa", "-h"]],
)
def test_the_help_of_a_method_shows_its_own_settings(arguments: list[str]) -> None:
    text = CliRunner().invoke(cli.cli, ["condense", *arguments]).output
    assert "Settings of dsa, each given as --set KEY=VALUE" in text
    own = text.partition("Settings of dsa")[2]
    assert "inner_loops=INTEGER" in own
    assert "[default: 0.01]" in own
    assert "Settings of" not in run("condense", "--help").output


@pytest.mark.parametrize("method", sorted(RECIPES))
def test_the_help_of_every_method_can_be_read(method: str) -> None:
    assert run("condense", "--recipe", method, "--help").exit_code == 0


def test_recipes_are_listed_with_a_sentence_each() -> None:
    listed = json.loads(run("recipes", "--json").output)
    assert set(listed["recipes"]) | set(listed["methods"]) == set(RECIPES)
    assert set(listed["recipes"]) == {"paper", "datadam", "official-code", "best", "dance"}
    text = run("recipes").output
    for name, sentence in {**listed["recipes"], **listed["methods"]}.items():
        assert name in text
        assert sentence.endswith(".")


def test_a_recipe_is_printed_as_it_is_resolved() -> None:
    told = json.loads(run("recipes", "best", "--json").output)
    assert told == json.loads(json.dumps(recipe_for("best", "cifar10", (3, 32, 32), 10).to_json()))
    told = json.loads(run("recipes", "mtt", "--dataset", "digits", "--ipc", "1", "--json").output)
    assert told == json.loads(json.dumps(recipe_for("mtt", "digits", (1, 8, 8), 1).to_json()))
    text = run("recipes", "best").output
    assert re.search(r"pool=2 +The number of networks in a pool", text)
    assert "loss_scale=1.0" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["condense", "--config", "CONFIG"], "`steps` is 1.5: it must be a whole number"),
        (["condense", "--config", "CONFIG", "--help"], "`steps` is 1.5"),
        (["recipes", "bets"], "did you mean `best`"),
        (["condense", "--config", "nowhere.toml"], "nowhere.toml does not exist"),
    ],
)
def test_what_is_wrong_in_a_file_or_a_name_is_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("steps = 1.5\n")
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "cli.py",
            *(str(config) if a == "CONFIG" else a for a in arguments),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    if "CONFIG" in arguments:
        assert str(config) in done.stderr


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["experts", "--dataset", "digits"], "--out"),
        (["select", "--dataset", "digits"], "--out"),
        (["import", "set.pt", "--dataset", "digits"], "--out"),
        (["export", "set"], "--out"),
    ],
)
def test_a_field_without_a_default_is_an_option_that_must_be_given(
    arguments: list[str], flag: str
) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert f"Missing option '{flag}'" in done.output


def test_doctor_tells_versions_device_and_threads() -> None:
    told = json.loads(run("doctor", "--no-speed", "--json").output)
    assert told["python"].startswith("3.")
    assert told["cores"] >= 1
    assert {"condensekit", "torch", "device", "torch threads", "OMP_NUM_THREADS", *PASSIVE} < set(
        told
    )
    assert "before torch is imported" in run("doctor", "--no-speed").output


def _environment(**given: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in PASSIVE} | given


@pytest.mark.parametrize(
    ("given", "passive"),
    [({}, True), ({"OMP_WAIT_POLICY": "ACTIVE"}, False), ({"GOMP_SPINCOUNT": "1000"}, False)],
)
def test_threads_wait_passively_unless_the_user_says_how(
    given: dict[str, str], passive: bool
) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "cli.py", "doctor", "--no-speed", "--json"],
        env=_environment(**given),
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["threads wait passively"] is passive
    assert {name: told[name] for name in PASSIVE} == (
        PASSIVE if passive else dict.fromkeys(PASSIVE) | given
    )


def test_importing_the_package_and_listing_the_commands_loads_no_torch() -> None:
    code = (
        "import sys, condense, continual, nas, cli, click.testing\n"
        "listed = click.testing.CliRunner().invoke(cli.cli, ['--help'])\n"
        "assert 'condense' in listed.output, listed\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_names_of_the_packages_are_functions_not_modules() -> None:
    import condense
    import condense.training.evaluate
    import nas

    for package in (condense, nas):
        assert set(dir(package)) == set(package.__all__)
        for name in package.__all__:
            assert type(getattr(package, name)) is not type(package)
    assert condense.resolve is condense.recipe_for
    assert condense.CondensedSet is CondensedSet
