"""The alerts: they fire when they should, name what is there, and each has its place to read on."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from bridgeboards.runbook import sections

from bridge.cli.app import app
from bridge.settings import Settings

ROOT = Path(__file__).parent.parent.parent
SHIPPED = ROOT / "deploy" / "prometheus"
CASES = Path(__file__).parent / "alerts_cases.yml"
RULES = [
    rule
    for group in yaml.safe_load((SHIPPED / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
NAMES = [rule["alert"] for rule in RULES]
PAGE = (ROOT / "docs" / "runbook.md").read_text()
METRIC = re.compile(r"\b(?:bridge|nv|rabbitmq)_\w+|\bup\b")


def promtool(find_program, *arguments, cwd=None):
    done = subprocess.run(
        [find_program("promtool", "prometheus"), *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration(find_program):
    promtool(find_program, "check", "config", str(SHIPPED / "prometheus.yml"))


def test_readers_who_have_a_prometheus_are_told_all_jobs():
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert {f"`{job['job_name']}`" for job in config["scrape_configs"]} <= set(
        re.findall(r"`[a-z-]+`", page.partition("## Metrics")[0])
    )


def test_alerts_fire_when_they_should_and_only_then(find_program, tmp_path):
    # promtool compares texts to the letter: they are left out, and read below.
    rules = yaml.safe_load((SHIPPED / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "cases.yml").write_text(CASES.read_text())
    promtool(find_program, "test", "rules", "cases.yml", cwd=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_not(name):
    """No alarm for what else there is in a case counts as not."""
    expected = [
        case["exp_alerts"]
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    assert any(expected)
    neighbours = name in {"BridgeBacklogLong", "BridgeQueueWithoutConsumers", "BridgeRetries"}
    neighbours |= name in {"BridgeDeadLetters", "RabbitMQBlocksPublishers", "RabbitMQNearLimit"}
    assert neighbours or not all(expected)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_each_alert_has_its_section(rule):
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    section = {title.lower(): body for title, body in sections().items()}[anchor]
    for part in ("**Means.**", "**Look.**", "**Do.**"):
        assert part in section
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["labels"]["severity"] in {"critical", "warning"}


def test_each_section_is_of_an_alert():
    assert sections().keys() <= set(NAMES)


def mentioned_commands():
    """All that begins with `mlbridge` in a block of code, or between backticks."""
    blocks = re.findall(r"^```sh$(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```sh$.+?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines()]
    shown += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    found = (re.search(r"mlbridge [^#|]+", line) for line in shown)
    return sorted({command[0].strip() for command in found if command})


@pytest.mark.parametrize("command", mentioned_commands())
def test_commands_of_the_run_book_exist(command):
    words = shlex.split(command)[1:]
    found = typer.main.get_command(app)
    while hasattr(found, "commands"):
        word = words.pop(0)
        assert word in found.commands, command
        found = found.commands[word]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options


def test_the_run_book_names_many_commands_and_real_settings():
    assert len(mentioned_commands()) > 10
    settings = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"`((?:BRIDGE|TASKIQ|ML|TRITON|RABBITMQ|REDIS)_[A-Z_]+)`", PAGE))
    assert named <= settings
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert set(links) <= {title.lower() for title in sections()}
