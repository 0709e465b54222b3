"""Who submits: our client in msgpack, and a stock-like AMQP producer in JSON; and the load.

Leaves: entries in the ledger's book, confirmed or not. Every wait is bounded: a producer that
hangs is counted, and goes on.
"""

import asyncio
import random
import time

from bridge.background import all_or_nothing
from bridge.client import BridgeClient, TaskHandle
from bridge.errors import BridgeError
from bridgechaos.answers import read_answer, read_error
from bridgechaos.book import Book, model_and_rows
from bridgechaos.entries import Entry, Want
from bridgechaos.mailer import Mailer
from bridgechaos.models import Models

SUBMIT_S = 60.0
"""How long a producer waits until it takes a submission for hung."""
_HEARD_AT_A_TIME = 200
_MOST_ROWS = 4

# Of 1000 submissions; the rest are good ones.
_ODD = {Want.MODEL_ERROR: 8, Want.SHAPE: 4, Want.NO_MODEL: 4, Want.NO_TASK: 3, Want.NONSENSE: 3}


class Listener:
    """Waits for results of our client's tasks, as its callers do, and looks at what they get."""

    def __init__(self, models: Models) -> None:
        """Nobody is heard yet.

        Args:
            models: that answer.
        """
        self.odd: list[str] = []
        """Errors that are not of the bridge's tree."""
        self._models = models
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, entry: Entry, handle: TaskHandle) -> None:
        """Note how it ends, unless enough are waited for."""
        if len(self._tasks) < _HEARD_AT_A_TIME:
            task = asyncio.create_task(self._hear(entry, handle))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self, timeout_s: float) -> int:
        """Wait a little for the last ones; returns how many never heard."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)
        left = [task for task in self._tasks if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)

    async def _hear(self, entry: Entry, handle: TaskHandle) -> None:
        try:
            answer = await handle.result()
        except BridgeError as error:
            entry.told = read_error(error)
        except Exception as error:  # noqa: BLE001 - one that a caller must not see
            self.odd.append(f"result raised {error!r}"[:200])
        else:
            entry.told = read_answer(self._models, entry, answer)


class Load:
    """Several producers, at one pace, until so many tasks were submitted."""

    def __init__(self, book: Book, listener: Listener, seed: int, tasks: int, per_s: float) -> None:
        """Nothing is sent before `run`.

        Args:
            book: of the run.
            listener: waits for results.
            seed: of what is sent.
            tasks: how many, by all together.
            per_s: how many in a second, at most.
        """
        self.listener = listener
        self.hung = 0
        """Submissions of our client that were not over in time."""
        self.odd: list[str] = []
        """Errors of our client that are not of the bridge's tree."""
        self._book = book
        self._seed = seed
        self._left = tasks
        self._pause_s = 1 / per_s
        self._next = 0.0

    async def run(self, clients: list[BridgeClient], mailers: list[Mailer], lanes: int) -> None:
        """Submit all.

        Args:
            clients: ours.
            mailers: stock-like ones.
            lanes: how many submissions each of them may have out.
        """
        self._next = time.monotonic()
        producers = [*((f"client-{i}", it) for i, it in enumerate(clients, 1))]
        stock = [*((f"stock-{i}", it) for i, it in enumerate(mailers, 1))]
        await all_or_nothing(
            [
                *(self._client(name, it, lane) for name, it in producers for lane in range(lanes)),
                *(self._stock(name, it, lane) for name, it in stock for lane in range(lanes)),
            ]
        )

    def stop(self) -> None:
        """Submit no more."""
        self._left = 0

    async def _ticket(self) -> bool:
        """Wait for one's turn; False when all is sent. Time lost in an outage stays lost."""
        if self._left <= 0:
            return False
        self._left -= 1
        now = time.monotonic()
        self._next = max(self._next + self._pause_s, now - 1.0)
        await asyncio.sleep(max(0.0, self._next - now))
        return True

    async def _client(self, name: str, client: BridgeClient, lane: int) -> None:
        dice = random.Random(f"{self._seed}-{name}-{lane}")  # noqa: S311 - repeatable
        while await self._ticket():
            want = _drawn(dice)
            want = Want.SUCCESS if want.letter else want  # what our client cannot send
            entry = self._book.open(name, want, dice.randint(1, _MOST_ROWS))
            model, x = model_and_rows(entry, dice)
            try:
                async with asyncio.timeout(SUBMIT_S):
                    handle = await client.submit(model, {"x": x})
            except BridgeError as error:
                entry.why = f"{type(error).__name__}: {error}"[:200]
            except TimeoutError:
                entry.why = "hung"
                self.hung += 1
            except Exception as error:  # noqa: BLE001 - one that a caller must not see
                entry.why = f"not of the bridge's tree: {error!r}"[:200]
                self.odd.append(f"submit raised {error!r}"[:200])
            else:
                entry.task_id = handle.task_id
                self._book.confirm(entry)
                self.listener.hear(entry, handle)

    async def _stock(self, name: str, mailer: Mailer, lane: int) -> None:
        dice = random.Random(f"{self._seed}-{name}-{lane}")  # noqa: S311 - repeatable
        while await self._ticket():
            entry = self._book.open(name, _drawn(dice), dice.randint(1, _MOST_ROWS))
            if await mailer.send(entry, SUBMIT_S):
                self._book.confirm(entry)


def _drawn(dice: random.Random) -> Want:
    at = dice.randrange(1000)
    for want, share in _ODD.items():
        if at < share:
            return want
        at -= share
    return Want.SUCCESS
