"""A whole run on a stack: load, faults on schedule, all back, the judgement.

Enters: a running stack, options. Leaves: an `Outcome`.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from redis.exceptions import RedisError

from bridge.background import all_or_nothing
from bridge.client import BridgeClient
from bridge.settings import Settings
from bridgechaos import audit
from bridgechaos.book import Book
from bridgechaos.faults import NotBackError, Scene
from bridgechaos.kinds import left_out, targets
from bridgechaos.ledger import balance
from bridgechaos.mailer import Mailer
from bridgechaos.outcome import Hit, Options, Outcome
from bridgechaos.plan import Fault, draw, draw_each
from bridgechaos.probes import Probes
from bridgechaos.producers import Listener, Load
from bridgechaos.stack import Stack, why_ended
from bridgechaos.trainers import Trainers
from bridgechaos.watch import Watch, zombies

_CLIENTS = 2
_STOCK = 2
_LANES = 6
_FAULTS_WITHIN = 0.85  # of the time of the load: the last ones are recovered from under load
_BETWEEN_S = 1.0
_LAST_WORDS_S = 3.0


class _Run:
    """One run on its way."""

    def __init__(self, stack: Stack, options: Options, say: Callable[[str], None]) -> None:
        self.outcome = Outcome(options)
        self.book = Book(stack.serials)
        self.watch = Watch(stack, self.book, say)
        self._stack = stack
        self._options = options
        self._say = say
        self._ended = 0  # so many of the book's entries are known to have ended
        self._targets = targets(stack, options.only)
        self.outcome.left_out = left_out(stack)
        self._died: dict[str, int] = {}  # so many of a pool's processes had died before

    async def go(self, settings: Settings) -> Outcome:
        begun = time.monotonic()
        options, stack = self._options, self._stack
        await audit.clear(stack)
        if stack.school is not None and options.trainings:
            self._say("  training once undisturbed, for the metrics")
            await stack.school.rehearse()
        stack.unexpected.clear()
        self._died = {name: len(pool.died()) for name, pool in stack.pools.items()}
        load = Load(self.book, Listener(stack.models), options.seed, options.tasks, options.per_s)
        async with AsyncExitStack() as exits:
            clients = [
                await exits.enter_async_context(BridgeClient(settings)) for _ in range(_CLIENTS)
            ]
            mailers = [Mailer(settings, options.seed + number) for number in range(_STOCK)]
            direct = Mailer(stack.direct, options.seed)
            for mailer in (*mailers, direct):
                await exits.enter_async_context(mailer)
            watching = asyncio.create_task(self.watch.run())
            exits.push_async_callback(_cancelled, watching)
            probes = Probes(
                self.book, stack.models, direct, stack.redis, clients[0] if options.rounds else None
            )
            scene = Scene(stack, probes.poison)
            trainers = self._trainers(load)
            await all_or_nothing(
                [
                    load.run(clients, mailers, _LANES),
                    self._break(scene, probes, load),
                    *(self._train(it, clients, mailers) for it in trainers),
                ]
            )
            await self._heal()
            freed = await self._settle()
            self.outcome.deaf = await load.listener.stop(_LAST_WORDS_S)
            gone = stack.helpers_ended | (
                {"the watch": why_ended(watching)} if watching.done() else {}
            )
            self.outcome.harness += [f"{name} ended: {why}" for name, why in gone.items()]
        await self._judge(load, freed)
        for trainer in trainers:
            self.outcome.hung += trainer.hung
            self.outcome.harness += trainer.odd
        self.outcome.took_s = time.monotonic() - begun
        return self.outcome

    def _trainers(self, load: Load) -> list[Trainers]:
        """One, or none where nothing is trained."""
        school, options = self._stack.school, self._options
        if school is None or not options.trainings:
            return []
        return [Trainers(self.book, load.listener, school, options.seed)]

    async def _train(
        self, trainers: Trainers, clients: list[BridgeClient], mailers: list[Mailer]
    ) -> None:
        options = self._options
        within_s = 0.0 if options.rounds else options.load_s
        await trainers.run(clients, mailers, options.trainings, within_s, pauses=options.pauses)

    async def _break(self, scene: Scene, probes: Probes, load: Load) -> None:
        options, found = self._options, self._targets
        if options.rounds:
            begun = time.monotonic()
            for fault in draw_each(options.seed, found, options.rounds, options.longest_s):
                await asyncio.sleep(_BETWEEN_S)
                await self._hit(scene, probes, fault, begun)
            load.stop()
            return
        within_s = options.load_s * _FAULTS_WITHIN
        plan = draw(options.seed, found, options.faults, within_s, options.longest_s)
        begun = time.monotonic()
        await all_or_nothing(self._hit(scene, probes, fault, begun) for fault in plan)

    async def _hit(self, scene: Scene, probes: Probes, fault: Fault, begun: float) -> None:
        await asyncio.sleep(max(0.0, begun + fault.at_s - time.monotonic()))
        name = f"{fault.kind} ({fault.target})"
        self.watch.broken[fault.number] = name
        self._say(f"  {time.monotonic() - begun:5.1f} s: {name}")
        nobody = False
        try:
            nobody = not await scene.inject(fault)
        except NotBackError as error:
            self.outcome.not_back.append(f"{fault}: {error}")
        except Exception as error:  # noqa: BLE001 - a fault that fails must not hide the others
            self.outcome.harness.append(f"{fault}: {error!r}")
            nobody = True
        finally:
            del self.watch.broken[fault.number]
            said = "over, hit nobody" if nobody else "over"
            self._say(f"  {time.monotonic() - begun:5.1f} s: {said}: {name}")
        back, entries = time.monotonic(), len(self.book.entries)
        hit = Hit(fault, await probes.recovery_s(), nobody=nobody)
        self.outcome.hits.append(hit)
        if self._options.rounds:
            due = self.book.entries[self._ended : entries]
            if await audit.ended(self._stack, due, self._options.settle_s):
                hit.ended_s = time.monotonic() - back
            self._ended = entries
            ended = "never" if hit.ended_s is None else f"{hit.ended_s:.2f} s"
            self._say(f"  recovered: {hit.recovery_s or math.inf:.2f} s; all ended: {ended}")

    async def _heal(self) -> None:
        """All parts run: no fault is left, but what ended by itself may still be starting."""
        for part in self._stack.parts.values():
            async with part.lock:
                if not part.server.process.running:
                    await part.revive()
        with contextlib.suppress(RedisError):
            await self._stack.redis.config_set("maxmemory", "0")

    async def _settle(self) -> list[str]:
        """Wait for the end of everything.

        What has none in time is not lost for sure: a worker may sit on it. So then the workers are
        restarted, and what ends after that is told apart from what is lost.

        Returns:
            Ids of what had not ended before the workers were restarted.
        """
        entries, options = self.book.entries, self._options
        self.outcome.settled_s, missing = await audit.settled(
            self._stack, entries, options.settle_s, self._say
        )
        if missing:
            self._say(f"  {len(missing)} have not ended; restarting the workers")
            await all_or_nothing(self._stack.parts[name].restart() for name in self._stack.pools)
            await audit.settled(self._stack, entries, options.settle_s, self._say)
        return missing

    async def _judge(self, load: Load, freed: list[str]) -> None:
        stack, outcome = self._stack, self.outcome
        outcome.zombies = await zombies(stack)
        evidence = await audit.gather(stack, self.book.entries)
        outcome.balance = balance(self.book.entries, evidence, freed)
        outcome.stall_s, outcome.growth_mb = self.watch.stall_s, self.watch.growth_mb
        outcome.hung = load.hung
        outcome.unexpected = list(stack.unexpected)
        for name, pool in stack.pools.items():
            ids = pool.died()[self._died[name] :]
            outcome.unexpected += [f"{name}: its worker process {pid} died" for pid in ids]
        outcome.harness += load.odd + load.listener.odd
        stack.serials = self.book.next_serial


async def run_once(
    stack: Stack, settings: Settings, options: Options, say: Callable[[str], None]
) -> Outcome:
    """One run.

    Args:
        stack: running; what earlier runs left in it is cleared away first.
        settings: the producers'.
        options: of the run.
        say: takes lines of progress.

    Raises:
        NoSuchFaultError: a kind of `options.only` cannot be had.
    """
    return await _Run(stack, options, say).go(settings)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
