"""`/livez`, `/readyz` and `/metrics` of a worker pool, on one port however many processes it has.

Enters: what one process can check. Leaves: JSON over HTTP, 200 or 503, that says which part is
missing. Each process writes how it is into a folder of the pool; one of them serves what all wrote,
and another takes its place when it ends. Served by a thread: an event loop that hangs can be told.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from bridge.background import end
from bridge.errors import SettingsError

logger = logging.getLogger("bridge.health")

Check = Callable[[], Awaitable[str | None]]
"""Says what is wrong with a part; None: nothing."""

_EVERY_S = 1.0
_HANGS_S = 15.0  # an event loop that has written nothing for so long
_CHECK_S = 5.0


def pool_folder() -> Path:
    """Where the processes of this pool, which have one parent, write how they are.

    Raises:
        SettingsError: somebody else owns a folder of that name.
    """
    parent = os.getppid()
    began = started(parent)
    # Process ids come again, in containers soon: with the time of its start a pool is itself alone.
    name = f"mlbridge-health-{os.getuid()}-"
    folder = Path(tempfile.gettempdir()) / f"{name}{parent}-{began}"
    for left in folder.parent.glob(f"{name}*"):  # by pools that were killed
        pid, _, at = left.name.removeprefix(name).partition("-")
        if began and (not at or at != started(pid)):  # without a /proc nobody can tell
            shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise SettingsError(f"{folder} belongs to somebody else: remove it")
    return folder


def started(pid: int | str) -> str:
    """When a process was started, in ticks since the machine was (proc(5)); "": it is gone."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


class Health:
    """Of one process; it also answers for the pool if no other process does."""

    def __init__(
        self, host: str, port: int, checks: Mapping[str, Check], metrics: Callable[[], bytes]
    ) -> None:
        """Nothing is served before `start`.

        Args:
            host: address to listen on.
            port: of the pool.
            checks: parts by name.
            metrics: gives the whole pool's, in Prometheus' text format.
        """
        self._address = (host, port)
        self._checks, self._metrics = checks, metrics
        self._folder = pool_folder()
        self._own = self._folder / f"{os.getpid()}.json"
        self._lock: int | None = None
        self._server: ThreadingHTTPServer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Check, write and serve, in the background.

        Raises:
            SettingsError: the port is another program's.
        """
        await self._look()
        self._serve_if_nobody_does()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Leave the pool."""
        if self._task is not None:
            await end(self._task)
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()
        self._own.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
        if not list(self._folder.glob("*.json")):
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def serving(self) -> bool:
        """Whether this process answers for the pool."""
        return self._server is not None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._look()
            with contextlib.suppress(SettingsError):  # told at the start
                self._serve_if_nobody_does()

    async def _look(self) -> None:
        answers = await asyncio.gather(*(_asked(check) for check in self._checks.values()))
        state = {"at": time.time(), "parts": dict(zip(self._checks, answers, strict=True))}
        draft = self._own.with_suffix(".new")
        try:
            draft.write_text(json.dumps(state))
            draft.replace(self._own)
        except OSError as error:  # the disk is full; it will not be for ever
            logger.warning("cannot say how this process is: %s", error)

    def _serve_if_nobody_does(self) -> None:
        if self._server is not None:
            return
        lock = os.open(self._folder / "serving", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return
        folder, render = self._folder, self._metrics

        class Handler(_Handler):
            pool = folder
            metrics = staticmethod(render)

        try:
            self._server = _server_of(self._address, Handler)
        except OSError as error:
            os.close(lock)
            raise SettingsError(
                f"BRIDGE_METRICS_PORT {self._address[1]} cannot be used ({error.strerror}): is "
                "another pool or program on it?"
            ) from None
        self._lock = lock
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


async def _asked(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_S):
            return await check()
    except TimeoutError:
        return f"does not answer within {_CHECK_S:g} s"


class _Handler(BaseHTTPRequestHandler):
    """Answers from the files of the pool's processes."""

    pool: Path
    metrics: Callable[[], bytes]

    def do_GET(self) -> None:
        """`/livez`: no event loop hangs. `/readyz`: no part is missing besides. `/metrics`."""
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/metrics":
            self._send(200, "text/plain; version=0.0.4; charset=utf-8", self.metrics())
            return
        if path not in {"/livez", "/readyz"}:
            self._answer(404, {"error": "there are /livez, /readyz and /metrics"})
            return
        processes = read_pool(self.pool)
        good = all(
            state["live"] and (path == "/livez" or state["ready"]) for state in processes.values()
        )
        status = "ok" if good and processes else "failed"
        self._answer(200 if status == "ok" else 503, {"status": status, "processes": processes})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """A probe each second is no news."""

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        self._send(code, "application/json", json.dumps(body, indent=2).encode() + b"\n")

    def _send(self, code: int, kind: str, data: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        with contextlib.suppress(ConnectionError):  # who asked may have given up
            self.end_headers()
            self.wfile.write(data)


def read_pool(folder: Path) -> dict[str, dict[str, Any]]:
    """How each living process of the pool is: `{pid: {"live", "ready", "parts"}}`.

    A part is "ok", or what is wrong with it.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        if not Path("/proc", file.stem).exists():
            file.unlink(missing_ok=True)  # killed; the pool has started another
            continue
        with contextlib.suppress(FileNotFoundError):
            state = json.loads(file.read_text())
            live = time.time() - state["at"] < _HANGS_S
            parts = {name: wrong or "ok" for name, wrong in state["parts"].items()}
            ready = live and not any(state["parts"].values())
            found[file.stem] = {"live": live, "ready": ready, "parts": parts}
    return found


def _server_of(address: tuple[str, int], handler: type[_Handler]) -> ThreadingHTTPServer:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

    return Server(address, handler)
