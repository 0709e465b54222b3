"""What each command says of itself."""

import importlib.metadata
import json

import pytest
from typer.testing import CliRunner

from bridge import __version__
from bridge.cli.app import app
from bridge.errors import SettingsError

GROUPS = {
    "datasets": ("list", "show", "add", "validate"),
    "dlq": ("list", "show", "replay", "purge"),
}
COMMANDS = [
    "demo",
    "up",
    "worker",
    "training-node",
    "infer",
    "train",
    "follow",
    "cancel",
    "status",
    "doctor",
    "models",
    "card",
    "load",
    "bench",
    *GROUPS,
]
WITH_EXAMPLE = [
    *([name] for name in COMMANDS if name not in GROUPS),
    *([group, name] for group, names in GROUPS.items() for name in names),
]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})


def test_the_first_page_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)


def test_the_version_of_each_part():
    lines = dict(line.split() for line in run("--version").stdout.splitlines())
    assert lines["mlbridge"] == __version__
    assert lines["taskiq"] == importlib.metadata.version("taskiq")
    assert {"python", "tritonclient", "onnxruntime", "nvidia-pytriton", "triton"} <= set(lines)
    assert "onnxruntime-gpu" not in lines  # it is not installed
    found = json.loads(run("--version", "--json").stdout)
    assert {name: version for name, version in found.items() if version is not None} == lines
    assert found["onnxruntime-gpu"] is None
    assert run("--json").exit_code == 2


@pytest.mark.parametrize("command", WITH_EXAMPLE, ids=" ".join)
def test_help_shows_an_example(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Example: mlbridge {' '.join(command)}" in result.stdout.replace("`", "") or (
        f"mlbridge {' '.join(command)}" in result.stdout.partition("Example")[2]
    )


def test_patterns_of_files_are_shown_with_their_stars():
    shown = " ".join(run("datasets", "add", "--help").stdout.replace("│", "").split())
    assert "train.* and perhaps validation.*" in shown
    assert "CLASS/*.png" in shown


@pytest.mark.parametrize("command", [["fly"], ["worker", "cooking"], ["up", "--workers", "-1"]])
def test_a_wrong_command_is_told(command):
    result = run(*command)
    assert result.exit_code == 2
    assert "Error" in result.output


@pytest.mark.parametrize(
    ("command", "variables", "said"),
    [
        (["training-node", "--head", "gpu-1"], {}, "BRIDGE_TRAINING_GROUP is not set"),
        (
            ["worker", "training", "--workers", "2"],
            {"BRIDGE_TRAINING_GROUP": "big", "BRIDGE_TRAINING_ADDRESS": "127.0.0.1"},
            "has one process; further machines run `mlbridge training-node`",
        ),
        (
            ["worker", "training"],
            {"BRIDGE_TRAINING_GROUP": "big"},
            "without BRIDGE_TRAINING_ADDRESS",
        ),
    ],
    ids=["no group", "two processes", "no address"],
)
def test_a_group_that_cannot_be(command, variables, said):
    result = CliRunner().invoke(app, command, env=variables)
    assert isinstance(result.exception, SettingsError)
    assert said in str(result.exception)
