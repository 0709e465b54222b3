"""Who submits trainings, and what they do with them: cancel, pause, send twice, send nonsense.

Leaves: entries in the ledger's book, each with the metrics that its training must come to.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bridge.background import all_or_nothing
from bridge.client import BridgeClient, TaskHandle
from bridge.errors import BridgeError
from bridgechaos.book import Book
from bridgechaos.entries import Entry, Want
from bridgechaos.lessons import LESSONS, School
from bridgechaos.mailer import Mailer
from bridgechaos.producers import SUBMIT_S, Listener

_AGAIN_S = 0.5
_PATIENCE_S = 120.0
_WITHIN = 0.8  # of the time of the load: those that come last are broken too

PLAIN, KEYED, CANCELLED, PAUSED, BAD, STOCK, ASTRAY = (
    *("plain", "sent twice", "cancelled", "paused", "bad"),
    *("stock", "sent to the wrong queue"),
)
_KINDS = (PLAIN, KEYED, CANCELLED, PAUSED, BAD, STOCK, ASTRAY)

Ask = tuple[str, dict[str, Any], dict[str, Any]]


class Trainers:
    """They submit trainings one after the other, evenly over the time of a load."""

    def __init__(self, book: Book, listener: Listener, school: School, seed: int) -> None:
        """Nothing is sent before `run`.

        Args:
            book: of the run.
            listener: waits for results.
            school: rehearsed.
            seed: of what is sent, and of when it is cancelled or paused.
        """
        self.odd: list[str] = []
        """What a caller must not see."""
        self.hung = 0
        """Submissions that were not over in time."""
        self._book = book
        self._listener = listener
        self._school = school
        self._seed = seed
        # Of this run alone: models of earlier ones may be there still.
        self._models = [f"{lesson.dataset}-{uuid.uuid4().hex[:8]}" for lesson in LESSONS]

    async def run(
        self,
        clients: Sequence[BridgeClient],
        mailers: Sequence[Mailer],
        count: int,
        within_s: float,
        *,
        pauses: bool = True,
    ) -> None:
        """Submit all, and do with each what is to be done.

        Args:
            clients: ours; more than one, as some things are sent by two at once.
            mailers: stock-like ones.
            count: of trainings.
            within_s: seconds of the load.
            pauses: also pause some; the message of such a one comes back a minute later only.
        """
        dice = random.Random(f"{self._seed}-trainings")  # noqa: S311 - repeatable
        kinds: list[str] = []
        while len(kinds) < count:
            deck = [kind for kind in _KINDS if pauses or kind != PAUSED]
            dice.shuffle(deck)
            kinds += deck
        every_s = within_s * _WITHIN / max(count, 1)
        await all_or_nothing(
            self._one(kind, number, number * every_s, dice.random(), clients, mailers)
            for number, kind in enumerate(kinds[:count])
        )

    async def _one(  # noqa: PLR0913, PLR0917 - what it is, when, and by whom
        self,
        kind: str,
        number: int,
        at_s: float,
        chance: float,
        clients: Sequence[BridgeClient],
        mailers: Sequence[Mailer],
    ) -> None:
        await asyncio.sleep(at_s)
        entry, ask = self._open(kind, number, chance)
        try:
            if kind in {STOCK, ASTRAY}:
                await self._mail(entry, ask, mailers[0], astray=kind == ASTRAY)
                return
            handle = await self._submit(entry, ask, clients, twice=kind == KEYED)
            if handle is None:
                return
            if kind == CANCELLED:
                await asyncio.sleep(chance * 20)
                await self._cancel(entry, handle)
            elif kind == PAUSED:
                await asyncio.sleep(chance * 10)
                await self._until(handle.pause)
                await asyncio.sleep(1.0)
                await self._until(handle.resume)
        except Exception as error:  # noqa: BLE001 - one that a caller must not see
            self.odd.append(f"a training that is {kind}: {error!r}"[:200])

    def _open(self, kind: str, number: int, chance: float) -> tuple[Entry, Ask]:
        place = number % len(LESSONS)
        lesson = LESSONS[place]
        want, dataset, parameters = Want.SUCCESS, lesson.dataset, lesson.parameters
        if kind == BAD and chance < 0.5:  # noqa: PLR2004 - half of them
            want, parameters = Want.NO_NETWORK, {**parameters, "epochs": -1}
        elif kind == BAD:
            want, dataset = Want.NO_DATA, "nobodys"
        entry = self._book.open(f"trainer ({kind})", want, 0)
        entry.model, entry.metrics = self._models[place], self._school.metrics[lesson.dataset]
        return entry, (dataset, {**lesson.config, "model_id": entry.model}, parameters)

    async def _mail(self, entry: Entry, ask: Ask, mailer: Mailer, *, astray: bool) -> None:
        if await mailer.send_training(entry, ask, SUBMIT_S, astray=astray):
            self._book.confirm(entry)

    async def _submit(
        self, entry: Entry, ask: Ask, clients: Sequence[BridgeClient], *, twice: bool
    ) -> TaskHandle | None:
        """Send it once; or twice, by two at a time and until it is taken, as keys are for."""
        key = uuid.uuid4().hex if twice else None
        senders = [self._send(client, ask, key) for client in (clients if twice else clients[:1])]
        handles = [handle for handle in await asyncio.gather(*senders) if handle is not None]
        if not handles:
            entry.why = "QueueError"
            return None
        if len({handle.task_id for handle in handles}) > 1:
            self.odd.append(f"two tasks of one key: {[handle.task_id for handle in handles]}")
        entry.task_id = handles[0].task_id
        self._book.confirm(entry)
        self._listener.hear(entry, handles[0])
        return handles[0]

    async def _send(self, client: BridgeClient, ask: Ask, key: str | None) -> TaskHandle | None:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                async with asyncio.timeout(SUBMIT_S):
                    return await client.train(*ask, idempotency_key=key)
            except BridgeError:
                if key is None or time.monotonic() > until:
                    return None
                await asyncio.sleep(_AGAIN_S)
            except TimeoutError:
                self.hung += 1
                return None

    async def _cancel(self, entry: Entry, handle: TaskHandle) -> None:
        """What was told once holds; where an answer was lost, nobody knows which it was."""
        entry.want = Want.EITHER
        if await self._until(handle.cancel) == [True]:
            entry.want = Want.CANCELLED

    async def _until(self, act: Callable[[], Awaitable[bool]]) -> list[bool | None]:
        """Do it until it is done; returns what came of each try, None of those that failed."""
        found: list[bool | None] = []
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until:
            try:
                async with asyncio.timeout(SUBMIT_S):
                    found.append(await act())
            except (BridgeError, TimeoutError):
                found.append(None)
                await asyncio.sleep(_AGAIN_S)
            else:
                break
        return found
