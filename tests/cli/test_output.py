"""What people read: figures, what fits on a screen that does not scroll, and how it ends."""

import io
import logging
import os
import subprocess
import sys
from types import ModuleType

import pytest
from rich.console import Console

from bridge import __main__ as entry
from bridge.cli import app as command_line
from bridge.cli.output import figure
from bridge.cli.overview import render
from bridge.errors import InvalidInputError, TritonUnavailableError
from bridge.overview import Overview
from bridge.overview.parts import Part
from bridge.overview.pools import Worker


@pytest.fixture(autouse=True)
def loggers_as_they_were():
    """The command line silences some, for all that runs in its process."""
    levels = {name: logging.getLogger(name).level for name in ("aio_pika", "aiormq")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.056672, 4, "0.05667"),
        (999.6, 3, "1,000"),
        (1234.5, 3, "1,234"),
        (12345.6, 4, "12,346"),
        (-36000.0, 4, "-36,000"),
        (1.5e-7, 4, "1.5e-07"),
        (2e30, 4, "2e+30"),
        (float("nan"), 4, "nan"),
    ],
)
def test_figures_have_no_powers_of_ten_where_people_read_them(value, digits, shown):
    assert figure(value, digits) == shown


def test_a_screen_that_does_not_scroll_has_what_is_wrong_only():
    overview = Overview(
        parts=[Part("Redis", "r:1", "up"), Part("Triton", "t:1", "is away")],
        queues=[],
        rates_missing=None,
        dead_letters={},
        workers=[Worker("w:1", 7, "ready"), Worker("w:1", 8, "no queue")],
        models=[],
        tasks=[],
        trainings=[],
        window_s=1.0,
    )
    seen = io.StringIO()
    console = Console(file=seen, width=80)
    console.print(render(overview, brief=True))
    assert "up: Redis; worker processes ready: 1" in seen.getvalue()
    assert "r:1" not in seen.getvalue()
    assert "is away" in seen.getvalue()
    assert "no queue" in seen.getvalue()
    console.print(render(overview))
    assert "r:1" in seen.getvalue()


def ended_by(error, monkeypatch):
    """The exit code of `mlbridge` where a command raises this."""

    def command():
        raise error

    monkeypatch.setattr(command_line, "app", command)
    with pytest.raises(SystemExit) as ended:
        command_line.main()
    return ended.value.code


@pytest.mark.parametrize("elsewhere", [True, False])
def test_who_forgot_to_say_where_the_stack_is_hears_of_it(monkeypatch, capsys, elsewhere):
    for name in ("REDIS_URL", "TRITON_URL", "RABBITMQ_HOST"):
        monkeypatch.delenv(name, raising=False)
    if elsewhere:
        monkeypatch.setenv("TRITON_URL", "elsewhere:8001")
    assert ended_by(TritonUnavailableError("it is away"), monkeypatch) == 1
    told = capsys.readouterr().err
    assert "it is away" in told
    assert ("None of RABBITMQ_HOST, REDIS_URL, TRITON_URL is set" in told) is not elsewhere
    assert ended_by(InvalidInputError("wrong"), monkeypatch) == 1
    assert "is set" not in capsys.readouterr().err


def test_ctrl_c_while_it_loads_is_quiet(monkeypatch):
    class Loading(ModuleType):
        def __getattr__(self, _):
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "bridge.cli.app", Loading("bridge.cli.app"))
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130


def test_a_full_disk_is_one_sentence(tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "bridge", "datasets", "list"],
            check=False,
            text=True,
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert ended.returncode == 1
    assert ended.stderr.startswith("The disk is full")
    assert "Traceback" not in ended.stderr
