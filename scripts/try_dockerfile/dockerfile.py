"""A Dockerfile as stages of steps, and what an image remembers besides its files.

Enters: the file's text. Leaves: `Stage`s, in order. It knows no folder of this machine. What our
Dockerfile does not use is refused, not guessed at.
"""

import io
import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dockerfile_parse import DockerfileParser

PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_FROM = re.compile(r"(?P<parent>\S+)\s+AS\s+(?P<name>\S+)", re.IGNORECASE)


class DockerfileError(Exception):
    """The Dockerfile does what this trial cannot follow."""


@dataclass(frozen=True)
class Step:
    """One instruction, with its continued lines joined."""

    instruction: str
    value: str
    line: int

    def split_flags(self) -> tuple[list[str], str]:
        """Its `--flags`, and the rest."""
        rest, flags = self.value, []
        while match := re.match(r"(--\S+)\s+", rest):
            flags.append(match[1])
            rest = rest[match.end() :]
        return flags, rest


@dataclass(frozen=True)
class Stage:
    """`FROM parent AS name`, and what follows."""

    name: str
    parent: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Image:
    """What an image remembers besides its files."""

    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: int = 0
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"
    ports: tuple[int, ...] = ()

    def expand(self, text: str) -> str:
        """Put in variables, as instructions other than RUN do."""
        known = {**self.arguments, **self.environment}
        return _VARIABLE.sub(lambda match: known[match[1] or match[2]], text)

    def after(self, step: Step) -> "Image":
        """The image after an instruction that changes no file."""
        remember = _REMEMBERED.get(step.instruction)
        if remember is None:
            raise DockerfileError(f"line {step.line}: {step.instruction} is not known here")
        return replace(self, **remember(self, step.value))


def _environment(image: Image, value: str) -> dict[str, Any]:
    pairs = dict(pair.split("=", 1) for pair in shlex.split(image.expand(value)))
    return {"environment": {**image.environment, **pairs}}


def _argument(image: Image, value: str) -> dict[str, Any]:
    name, _, default = value.partition("=")
    return {"arguments": {**image.arguments, name: default.strip('"')}}


_REMEMBERED: dict[str, Callable[[Image, str], dict[str, Any]]] = {
    "ENV": _environment,
    "ARG": _argument,
    "WORKDIR": lambda image, value: {"folder": image.expand(value)},
    "USER": lambda _, value: {"user": int(value)},
    "CMD": lambda _, value: {"command": tuple(json.loads(value))},
    "HEALTHCHECK": lambda _, value: {"health": tuple(json.loads(value.partition(" CMD ")[2]))},
    "STOPSIGNAL": lambda _, value: {"stop_signal": value},
    "EXPOSE": lambda _, value: {"ports": tuple(map(int, value.split()))},
}


def read_stages(text: str) -> dict[str, Stage]:
    """Every stage by its name.

    Raises:
        DockerfileError: a stage without a name, or something before the first.
    """
    stages: dict[str, Stage] = {}
    last = None
    file: Any = io.BytesIO(text.encode())  # its annotation says text, its code takes bytes
    for part in DockerfileParser(fileobj=file).structure:
        instruction, value, line = part["instruction"], part["value"], part["startline"] + 1
        if instruction == "COMMENT":
            continue
        if instruction == "FROM":
            named = _FROM.fullmatch(value.strip())
            if named is None:
                raise DockerfileError(f"line {line}: a stage needs a name: FROM ... AS ...")
            last = Stage(named["name"], named["parent"], ())
        elif last is None:
            raise DockerfileError(f"line {line}: {instruction} before the first FROM")
        else:
            last = replace(last, steps=(*last.steps, Step(instruction, value, line)))
        stages[last.name] = last
    return stages


def needed(stages: Mapping[str, Stage], target: str) -> list[str]:
    """The stages that a target is made from, each after those that it needs.

    Raises:
        DockerfileError: there is no such target.
    """
    if target not in stages:
        raise DockerfileError(f"no stage {target!r}; there are {', '.join(stages)}")
    stage = stages[target]
    found: list[str] = []
    for name in (stage.parent, *sources(stage)):
        if name in stages:
            found += [other for other in needed(stages, name) if other not in found]
    return [*found, target]


def sources(stage: Stage) -> list[str]:
    """The other stages whose files it takes."""
    texts = [flag for step in stage.steps for flag in step.split_flags()[0]]
    return [match[1] for text in texts if (match := re.search(r"\bfrom=([\w-]+)", text))]
