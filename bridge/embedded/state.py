"""The one folder under which everything embedded lives, and with which everything vanishes."""

import asyncio
import os
import secrets
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from bridge.embedded.leftovers import BIRTH_FILE, MARK_VARIABLE, Session, remove_state

_KEEPER_TIMEOUT_S = 30.0


def is_plain(path: Path) -> bool:
    """Whether a path means the same in a shell without quotes, as Triton's launcher gives it."""
    return shlex.quote(str(path)) == str(path)


def _temporary() -> Path:
    chosen = Path(tempfile.gettempdir()).resolve()
    return chosen if is_plain(chosen) else Path("/tmp")  # noqa: S108  # has no spaces


class StateFolder:
    """A fresh folder, readable by its owner only, gone at the end.

    It lies where TMPDIR says, unless that path has spaces or the like: then in /tmp.

    `async with StateFolder() as state:`. A keeper process watches over it: when this process
    ends, even by SIGKILL, the keeper ends all that was started under the folder and removes it.
    """

    def __init__(self) -> None:
        name = f"mlbridge-{secrets.token_hex(6)}"
        self.path = _temporary() / name
        self._rooms: set[str] = set()
        self._sessions: list[Session] = []
        self._keeper: subprocess.Popen[str] | None = None

    @property
    def name(self) -> str:
        """Unique: also the mark of its processes and the prefix of its shared memory."""
        return self.path.name

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def open(self) -> None:
        """Start the keeper, then make the folder: never a folder without its keeper."""
        environment = {k: v for k, v in os.environ.items() if k != MARK_VARIABLE}
        self._keeper = subprocess.Popen(  # noqa: S603  # our own module
            [sys.executable, "-P", "-m", "bridge.embedded.keeper", str(self.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment,
            start_new_session=True,
            text=True,
        )
        self.path.mkdir(mode=0o700)
        (self.path / "tmp").mkdir()
        (self.path / BIRTH_FILE).touch()

    def close(self) -> None:
        """End what still runs under the folder, and remove it. Blocks for up to 30 s."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        try:
            keeper.communicate(timeout=_KEEPER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        if self.path.exists():  # the keeper itself was killed
            remove_state(self.path, self._sessions, grace_s=0)

    def room(self, name: str) -> Path:
        """Make a folder for one server: `name`, or `name-2` and so on if that is taken."""
        free, number = name, 1
        while free in self._rooms:
            number += 1
            free = f"{name}-{number}"
        self._rooms.add(free)
        folder = self.path / free
        folder.mkdir()
        return folder

    def environment(self, room: Path) -> dict[str, str]:
        """Variables that every process started in `room` must have."""
        return {MARK_VARIABLE: f"{self.name}/{room.name}", "TMPDIR": str(self.path / "tmp")}

    def watch_over(self, pid: int) -> Session | None:
        """Tell the keeper of a new process, the leader of its own session."""
        session = Session.of(pid)
        if session is not None:
            self._sessions.append(session)
            if self._keeper is not None and self._keeper.stdin is not None:
                try:
                    self._keeper.stdin.write(f"{session.leader} {session.started}\n")
                    self._keeper.stdin.flush()
                except BrokenPipeError:
                    pass  # the keeper was killed; `close` cleans up itself
        return session
