"""Sends notes to the dashboard from a thread of its own, as long as it takes them.

Enters: notes of tasks. Leaves: one POST for each, in order, on one kept connection. The buffer is
bounded: while it is full, further tasks are left out as a whole, so that no task of which the
dashboard heard the beginning lacks its end. Must not know messages or settings.
"""

import asyncio
import http.client
import logging
import ssl
import threading
import time
from collections import OrderedDict, deque
from enum import Enum
from urllib.parse import quote, urlsplit

logger = logging.getLogger("bridge.dashboard")

_MOST_BEGUN = 2_000  # no further task is taken while so many notes wait
_MOST_NOTES = 10_000  # nor the end of one
_MOST_BYTES = 8 * 2**20
_MOST_LEFT_OUT = 20_000
_TIMEOUT_S = 5.0
_AGAIN_S = 1.0
_AGAIN_MOST_S = 30.0
_FLUSH_S = 2.0
_TRIES = 3  # of a note that is answered with an error
_ACCEPTED = 300


class _Verdict(Enum):
    """What became of a note."""

    DONE = 1
    FAILED = 2
    AWAY = 3


class Sender:
    """Of one dashboard."""

    def __init__(self, url: str, token: str) -> None:
        """No thread and no connection before the first `put`.

        Args:
            url: the dashboard's address, a path included where it stands behind a proxy.
            token: its access token.
        """
        self._url = urlsplit(url)
        self._token = token
        self._notes: deque[tuple[str, str, bytes]] = deque()
        self._bytes = 0
        self._left_out: OrderedDict[str, None] = (
            OrderedDict()
        )  # tasks that the buffer had no room for
        self._lock = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._connection: http.client.HTTPConnection | None = None
        self._trouble = False
        self.dropped = 0
        """Notes that were left out."""
        self.sent = 0
        """Notes that the dashboard took."""

    def put(self, task_id: str, event: str, body: bytes) -> None:
        """Note something; never waits.

        Args:
            task_id: a UUID.
            event: queued, started or executed.
            body: JSON.
        """
        with self._lock:
            if not self._takes(task_id, event):
                self._drop()
                return
            self._notes.append((task_id, event, body))
            self._bytes += len(body)
            if self._thread is None:
                self._ending = False
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name="bridge-dashboard"
                )
                self._thread.start()
            self._lock.notify()

    async def close(self) -> None:
        """Send what is left for up to 2 seconds; the rest is dropped."""
        thread = self._thread
        if thread is None:
            return
        with self._lock:
            self._ending = True
            self._lock.notify()
        end = time.monotonic() + _FLUSH_S
        while thread.is_alive() and time.monotonic() < end:  # noqa: ASYNC110 - a thread's end
            await asyncio.sleep(0.01)
        with self._lock:
            self.dropped += len(self._notes)
            self._notes.clear()
            self._bytes = 0
            self._thread = None
        if self.dropped:
            logger.warning(
                "the dashboard at %s was not told %d things of tasks",
                self._url.netloc,
                self.dropped,
            )

    def _takes(self, task_id: str, event: str) -> bool:
        """A task that was left out once stays so, until its end."""
        room = self._bytes < _MOST_BYTES
        if event == "executed":
            left_out = task_id in self._left_out
            self._left_out.pop(task_id, None)
            return room and not left_out and len(self._notes) < _MOST_NOTES
        if room and len(self._notes) < _MOST_BEGUN and task_id not in self._left_out:
            return True
        self._left_out[task_id] = None
        if len(self._left_out) > _MOST_LEFT_OUT:
            self._left_out.popitem(last=False)
        return False

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            logger.warning(
                "the dashboard at %s does not keep up: not every task will be shown there. Tasks "
                "themselves are not affected",
                self._url.netloc,
            )

    def _run(self) -> None:
        pause_s, tries = _AGAIN_S, 0
        while True:
            with self._lock:
                while not self._notes and not self._ending:
                    self._lock.wait()
                if not self._notes:
                    break
                note = self._notes[0]
            tries += 1
            verdict = self._verdict(note)
            if verdict is _Verdict.DONE or (verdict is _Verdict.FAILED and tries == _TRIES):
                pause_s, tries = _AGAIN_S, 0
                with self._lock:
                    if self._notes and self._notes[0] is note:
                        self._notes.popleft()
                        self._bytes -= len(note[2])
                        self.dropped += verdict is _Verdict.FAILED
                continue
            with self._lock:
                if self._lock.wait_for(lambda: self._ending, pause_s):
                    break
            pause_s = min(pause_s * 2, _AGAIN_MOST_S)
        self._disconnect()

    def _verdict(self, note: tuple[str, str, bytes]) -> "_Verdict":
        """Send a note once."""
        kept = self._connection is not None
        try:
            try:
                status = self._post(*note)
            except (OSError, http.client.HTTPException):
                self._disconnect()
                if not kept:
                    raise
                status = self._post(*note)  # the dashboard ends connections that were idle
        except (OSError, http.client.HTTPException) as error:
            self._disconnect()
            self._tell_trouble(repr(error))
            return _Verdict.AWAY
        except ValueError:  # of http.client; its text has the token
            self._disconnect()
            self._tell_trouble("the token or the address cannot be sent by HTTP")
            return _Verdict.FAILED
        if status >= _ACCEPTED:
            self._tell_trouble(f"HTTP {status}")
            return _Verdict.FAILED
        self.sent += 1
        if self._trouble:
            self._trouble = False
            logger.info("the dashboard at %s takes what it is told again", self._url.netloc)
        return _Verdict.DONE

    def _post(self, task_id: str, event: str, body: bytes) -> int:
        if self._connection is None:
            self._connection = self._connect()
        headers = {"access-token": self._token, "content-type": "application/json"}
        path = f"{self._url.path}/api/tasks/{quote(task_id)}/{event}"
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
        return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _tell_trouble(self, reason: str) -> None:
        if not self._trouble:
            self._trouble = True
            logger.warning(
                "the dashboard at %s does not take what it is told of tasks (%s): is it up, and "
                "are TASKIQ_DASHBOARD_URL and TASKIQ_DASHBOARD_TOKEN right? (It answers a wrong "
                "token with 500.) Tasks themselves are not affected",
                self._url.netloc,
                reason,
            )
