"""The head's side of a group: calls nodes to a slice, and sees whether they stay. No torch.

Enters: a request for several machines. Leaves: calls on the group's board; and, where a node is
missing, dies or refuses, the error that the task shall meet.
"""

import asyncio
import contextlib
import logging
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

from redis.asyncio import Redis

from bridge.background import cancel_once, end
from bridge.channels import REDIS_LOST
from bridge.errors import (
    NodesMissingError,
    SettingsError,
    TrainingCrashedError,
    error_class,
)
from bridge.settings import Settings
from bridge.training.board import GONE_S, SAY_EVERY_S, Board, Call, Word
from bridge.training.lease import is_dead_neighbour
from bridge.training.request import TrainingRequest

_LOOK_EVERY_S = 0.5
_GRACE_S = 15.0  # for our own process to say by itself what it met
_VERDICT_S = 5.0

logger = logging.getLogger("bridge.training")
T = TypeVar("T")


class Group:
    """The machines behind one training worker."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        """Nothing is asked yet.

        Args:
            redis: where results are; not closed here.
            settings: with a group's name and this machine's address in it.

        Raises:
            SettingsError: see `check_address`.
        """
        self.name = str(settings.bridge_training_group)
        self.address = check_address(settings)
        self.wait_s = settings.bridge_training_nodes_wait_s
        self.board = Board(redis, self.name)

    async def lead(self, worker: str, patience_s: float = GONE_S + 5) -> None:
        """Become its head.

        Args:
            worker: its name.
            patience_s: a head on another machine that was killed keeps its place for some seconds.

        Raises:
            SettingsError: another worker is.
        """
        deadline = asyncio.get_running_loop().time() + patience_s
        while (leader := await self.board.lead(worker)) != worker:
            if is_dead_neighbour(leader):
                await self.board.depose(leader)
            elif asyncio.get_running_loop().time() >= deadline:
                break
            else:
                await asyncio.sleep(_LOOK_EVERY_S)
        else:
            return
        raise SettingsError(
            f"BRIDGE_TRAINING_GROUP {self.name!r} is led by training worker {leader} already: a "
            f"group has one training worker with one process; further machines run `mlbridge "
            f"training-node`"
        )

    async def keep(self, worker: str) -> None:
        """Stay its head, until cancelled."""
        try:
            while True:
                await asyncio.sleep(SAY_EVERY_S)
                try:
                    if await self.board.lead(worker) != worker:
                        logger.error("group %s has another head now", self.name)
                except REDIS_LOST as error:
                    logger.info("cannot say who leads group %s: %s", self.name, error)
        finally:
            with contextlib.suppress(*REDIS_LOST):  # it expires
                await self.board.depose(worker)


@asynccontextmanager
async def leading(redis: Redis, settings: Settings, worker: str) -> AsyncIterator[Group | None]:
    """Lead the group that the settings name, if they name one.

    Raises:
        SettingsError: another worker leads it, or the settings do not fit together.
    """
    if settings.bridge_training_group is None:
        yield None
        return
    group = Group(redis, settings)
    await group.lead(worker)
    keeping = asyncio.create_task(group.keep(worker))
    try:
        yield group
    finally:
        await end(keeping)


class Crew:
    """The nodes of one slice."""

    def __init__(self, group: Group, request: TrainingRequest, **about: Any) -> None:
        """Nobody is called yet.

        Args:
            group: where to look for them.
            request: what to train, on `num_nodes` machines.
            about: what else stands in a `Call`: `task_id`, `token`, `checkpoint`.
        """
        self._group, self._request, self._about = group, request, about
        self._run_id = uuid.uuid4().hex
        self._nodes: list[str] = []
        self._called = asyncio.Event()

    @property
    def address(self) -> str:
        """Where the first machine meets the others."""
        return self._group.address

    async def gather(self, say: Callable[[str], Awaitable[None]]) -> None:
        """Wait for enough nodes.

        Args:
            say: gets, in words, what is waited for.

        Raises:
            NodesMissingError: there were not enough for too long.
        """
        wanted = self._request.hyperparameters.num_nodes - 1
        deadline = asyncio.get_running_loop().time() + self._group.wait_s
        found: list[str] = []
        told = -1
        while True:
            try:
                found = await self._group.board.free()
            except REDIS_LOST as error:
                logger.warning("cannot ask Redis for nodes: %s", error)
            if len(found) >= wanted:
                self._nodes = found[:wanted]
                return
            if asyncio.get_running_loop().time() >= deadline:
                raise NodesMissingError(
                    f"hyperparameters.num_nodes: {wanted + 1} were asked for, and of group "
                    f"{self._group.name!r} only {len(found)} of {wanted} nodes were free for "
                    f"{self._group.wait_s:g} s (BRIDGE_TRAINING_NODES_WAIT_S): start `mlbridge "
                    f"training-node` on more machines"
                )
            if told != len(found):
                told = len(found)
                await say(f"waiting for nodes: {told} of {wanted} are free")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def call(self, port: int, dataset_hash: str) -> None:
        """Have the nodes join, as our own process waits for them."""
        for rank, node in enumerate(self._nodes, start=1):
            call = Call.of(
                self._request,
                run_id=self._run_id,
                port=port,
                rank=rank,
                dataset_hash=dataset_hash,
                **self._about,
            )
            await self._group.board.call(node, call)
        self._called.set()

    async def together(self, training: Coroutine[Any, Any, T], stop: asyncio.Event) -> T:
        """Run what trains here, for as long as all the nodes are there.

        Args:
            training: ends in TrainingCrashedError where a node is lost.
            stop: set once a node wants to leave: then the slice shall end.

        Raises:
            BridgeError: what a node refused with; else what `training` raised.
            TrainingCrashedError: a node is gone.
        """
        working = asyncio.create_task(training)
        watching = asyncio.create_task(self._watch(stop))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({working}, timeout=_GRACE_S)
            return working.result() if working.done() else _lost(watching.result())
        except TrainingCrashedError as error:
            await self._raise_verdict(error)
            raise
        finally:
            await end(watching)
            await cancel_once(working)

    async def _watch(self, stop: asyncio.Event) -> str:
        """Return once a node is gone, or failed; what to say then."""
        await self._called.wait()
        loop = asyncio.get_running_loop()
        seen = dict.fromkeys(self._nodes, loop.time())
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for node in self._nodes:
                try:
                    word = await self._group.board.heard(node, self._run_id)
                except REDIS_LOST:  # nobody knows; the training goes on meanwhile
                    seen = dict.fromkeys(self._nodes, loop.time())
                    break
                if word is not None:
                    seen[node] = loop.time()
                    if word.state == "failed":
                        return f"node {node}: {word.text}"
                    if word.state == "leaving":
                        stop.set()
                elif loop.time() - seen[node] > GONE_S:
                    return f"node {node} is gone: nothing was heard of it for {GONE_S} s"

    async def _raise_verdict(self, error: TrainingCrashedError) -> None:
        """Where a node says why it failed, that is the reason; a dead one says nothing."""
        if not self._called.is_set():
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _VERDICT_S
        while loop.time() < deadline:
            words = await self._words()
            for node, word in words.items():
                found = error_class(word.error)
                if word.state == "failed" and found not in {None, TrainingCrashedError}:
                    raise found(f"node {node}: {word.text}") from error
            if len(words) == len(self._nodes) and all(
                word.state in {"failed", "ended"} for word in words.values()
            ):
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _words(self) -> dict[str, Word]:
        try:
            found = {
                node: await self._group.board.heard(node, self._run_id) for node in self._nodes
            }
        except REDIS_LOST:
            return {}
        return {node: word for node, word in found.items() if word is not None}


def check_address(settings: Settings) -> str:
    """The address at which nodes reach this machine.

    Raises:
        SettingsError: it is not set, or not this machine's.
    """
    address = settings.bridge_training_address
    if address is None:
        raise SettingsError(
            "BRIDGE_TRAINING_GROUP is set without BRIDGE_TRAINING_ADDRESS: the name or IP at which "
            "the nodes of the group reach this machine"
        )
    try:
        family = socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((address, 0), family=family).close()
    except OSError as error:
        raise SettingsError(
            f"BRIDGE_TRAINING_ADDRESS {address!r} is no address of this machine: {error}"
        ) from None
    return address


def _lost(why: str) -> NoReturn:
    raise TrainingCrashedError(why)
