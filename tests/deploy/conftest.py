"""The files of the checkout that say how this is deployed."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
_USE = re.compile(r"\$\{(\w+)(?::?([-?])([^}]*))?\}")


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def compose_text():
    return (ROOT / "docker-compose.yml").read_text()


@pytest.fixture(scope="session")
def compose(compose_text):
    """docker-compose.yml with its anchors and merges put in, variables as they are written."""
    return yaml.safe_load(compose_text)


@pytest.fixture(scope="session")
def uses(compose):
    """Each `${NAME...}` in a value: name -> the operators with which it is used, "-", "?" or ""."""
    found: dict[str, set[str]] = {}
    for name, operator, _ in _USE.findall(yaml.safe_dump(compose)):
        found.setdefault(name, set()).add(operator)
    return found


@pytest.fixture(scope="session")
def example():
    """.env.example: name -> (value, whether the line counts)."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    pairs = (re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line) for line in lines)
    return {match[2]: (match[3], not match[1]) for match in pairs if match}
