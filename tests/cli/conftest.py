"""`mlbridge` as people run it: a process of its own, in a folder of theirs."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.embedded.ports import free_ports

_KEPT = {"PATH", "HOME", "LANG"}
_START_S = 90


class Commands:
    """Runs `mlbridge` in `folder` with `environment`."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder = folder
        self.environment = environment

    def run(self, *arguments, stdin="", timeout=90, **variables):
        return subprocess.run(
            [sys.executable, "-P", "-m", "bridge", *arguments],
            cwd=self.folder,
            env={**self.environment, **variables},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments, log, errors=None, **variables):
        """Its output in `log`; standard error in `errors`, or in `log`, too."""
        with log.open("wb") as output, (errors or log).open("ab") as complaints:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "bridge", *arguments],
                cwd=self.folder,
                env={**self.environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints if errors else output,
                start_new_session=True,
            )


class Up(Commands):
    """`mlbridge up`, until it says how other terminals reach it; then a terminal of that kind."""

    def __init__(self, folder, environment):
        super().__init__(folder, environment)
        self.log = folder / "up.log"
        self.process = None

    def up(self, *arguments):
        self.process = self.start("up", *arguments, log=self.log)
        self.wait_for("Ctrl-C drains")
        lines = self.log.read_text().splitlines()
        command = next(line for line in lines if line.startswith("For other terminals:"))
        script = f"{command.partition(':')[2]}; env -0"
        variables = subprocess.run(
            ["sh", "-c", script], env=self.environment, capture_output=True, check=True, text=True
        )
        found = (pair.partition("=") for pair in variables.stdout.split("\0") if pair)
        self.environment = {name: value for name, _, value in found}
        self.state = Path(shlex.split(command)[-1]).parent

    def wait_for(self, text, *, count=1):
        deadline = time.monotonic() + _START_S
        while self.log.read_text().count(text) < count:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self, number=signal.SIGTERM):
        """The exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            self.process.kill()


@pytest.fixture(scope="session")
def make_environment():
    """Variables under which nothing runs yet, whatever this machine runs."""

    def make(folder):
        amqp, redis, triton = free_ports(3)
        return {
            **{name: value for name, value in os.environ.items() if name in _KEPT},
            "TMPDIR": str(folder / "tmp"),
            "RABBITMQ_HOST": "127.0.0.1",
            "RABBITMQ_PORT": str(amqp),
            "REDIS_URL": f"redis://:hidden-redis@127.0.0.1:{redis}/0",
            "RABBITMQ_PASSWORD": "hidden-rabbit",
            "TRITON_URL": f"127.0.0.1:{triton}",
        }

    return make


@pytest.fixture
def nothing_up(tmp_path, make_environment):
    """A terminal on a machine where nothing runs."""
    (tmp_path / "tmp").mkdir()
    return Commands(tmp_path, make_environment(tmp_path))


@pytest.fixture(scope="session")
def open_up(make_environment):
    """An `Up` in a folder, with changes to its environment, for a block."""

    @contextlib.contextmanager
    def open_up(folder, **changes):
        (folder / "tmp").mkdir()
        stack = Up(folder, make_environment(folder) | changes)
        try:
            yield stack
        finally:
            stack.kill()

    return open_up


@pytest.fixture
def make_up(tmp_path, open_up):
    with open_up(tmp_path) as stack:
        yield stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory, open_up):
    """One `mlbridge up` for all tests that only use it."""
    with open_up(tmp_path_factory.mktemp("stack")) as stack:
        stack.up("--workers", "1")
        yield stack
