"""The Dockerfile, as far as it can be judged without an engine; `make images` has one."""

import json
import platform
import re
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

TARGETS = ["inference", "training", "triton-cpu", "dashboard"]


@pytest.fixture(scope="module")
def stages(root):
    """name -> (parent, {instruction: values})."""
    found = {}
    for part in DockerfileParser(path=str(root)).structure:
        instruction, value = part["instruction"], part["value"]
        if instruction == "FROM":
            parent, name = re.fullmatch(r"(\S+) AS (\S+)", value).groups()
            found[name] = (parent, {})
        elif instruction != "COMMENT":
            found[name][1].setdefault(instruction, []).append(value)
    return found


def inherited(stages, name, instruction):
    """The values of an instruction in a stage and those that it goes on from."""
    if name not in stages:
        return []
    parent, said = stages[name]
    return inherited(stages, parent, instruction) + said.get(instruction, [])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="hadolint's wheel is for x86_64 only")
def test_hadolint_finds_nothing(root):
    program = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which(
        "hadolint"
    )
    assert program, "install the extra `test`: it brings hadolint"
    done = subprocess.run(
        [program, "--failure-threshold", "style", str(root / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_base_is_one_and_pinned(stages):
    grounds = {parent for parent, _ in stages.values() if parent not in stages}
    assert grounds == {"python:3.11-slim-bookworm"}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_a_user_a_health_check_and_a_signal(stages, target):
    assert inherited(stages, target, "USER") == ["10001"]
    signal = "SIGINT" if target == "dashboard" else "SIGTERM"
    assert inherited(stages, target, "STOPSIGNAL") == [signal]
    [health] = inherited(stages, target, "HEALTHCHECK")
    command = json.loads(health.partition(" CMD ")[2])
    assert command[0] == "python"
    compile(command[-1], "health check", "exec")
    assert json.loads(inherited(stages, target, "CMD")[-1])


@pytest.mark.parametrize("target", TARGETS)
def test_everything_is_installed_by_the_constraints(stages, target):
    installs = [run for run in inherited(stages, target, "RUN") if "pip install" in run]
    assert installs
    for install in installs:
        assert "--constraint" in install or "--no-deps" in install


def test_extras_are_those_of_the_package_and_inference_has_no_torch(stages, root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    used = {}
    for target in TARGETS:
        runs = " ".join(stages[target][1]["RUN"])
        used[target] = re.findall(r'requirements/\*\.whl\)\[([\w,]+)\]"', runs)
    assert used == {
        "inference": ["otel"],
        "training": ["train,otel"],
        "triton-cpu": ["embedded"],
        "dashboard": ["dashboard"],
    }
    assert {extra for [names] in used.values() for extra in names.split(",")} <= set(
        project["optional-dependencies"]
    )


def test_what_is_copied_is_there_and_let_through(stages, root):
    let_through = {
        line[1:] for line in (root / ".dockerignore").read_text().split() if line.startswith("!")
    }
    copied = {
        name
        for _, said in stages.values()
        for value in said.get("COPY", [])
        for name in value.split()[:-1]
    }
    assert {Path(name).parts[0] for name in copied} == let_through
    for name in copied:
        assert (root / name).exists()
