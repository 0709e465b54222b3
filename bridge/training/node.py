"""A node: a further machine of a group. Takes no messages; joins the slices of its head. No torch.

Enters: calls on the group's board. Leaves: a training process that takes its share, for as long as
the head has the training. What a call says is checked as a task's own arguments are; the address of
the head comes from who started the node, never from a call.
"""

import asyncio
import contextlib
import logging
import re
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis

from bridge.background import cancel_once, end
from bridge.channels import REDIS_LOST
from bridge.errors import CheckpointError, DatasetError
from bridge.settings import Settings
from bridge.training.board import GONE_S, SAY_EVERY_S, Board, Call, Word
from bridge.training.datasets import DatasetStore
from bridge.training.folders import work_folder
from bridge.training.lease import worker_name
from bridge.training.places import open_work_root
from bridge.training.process import Listeners, Piece, train_in_process
from bridge.training.request import TrainingRequest, parse_request
from bridge.training.run import open_checkpoints

_LOOK_EVERY_S = 0.5
_AGAIN_S = 2.0
_STRANGE = re.compile(r"[^A-Za-z0-9_.:-]")

logger = logging.getLogger("bridge.training")


class Node:
    """One machine's."""

    def __init__(self, redis: Redis, settings: Settings, head: str) -> None:
        """Nothing is told or asked yet.

        Args:
            redis: the head's; not closed here.
            settings: the group's name, where datasets and checkpoints are, and a drain timeout.
            head: host or IP of the training worker; a node connects to no other.
        """
        self.name = _STRANGE.sub("-", worker_name())
        self.group = str(settings.bridge_training_group)
        self._board, self._settings, self._head = Board(redis, self.group), settings, head

    async def serve(self, stop: asyncio.Event) -> None:
        """Join what the head calls for, until it is to stop; then leave the slice in hand."""
        logger.info("node %s of group %s waits for %s", self.name, self.group, self._head)
        while not stop.is_set():
            try:
                await self._board.offer(self.name)
                call = await self._next(stop)
                if call is None:
                    continue
                await self._board.withdraw(self.name)
                await self._join(call, stop)
            except REDIS_LOST as error:
                logger.warning("cannot use Redis, trying again: %s", error)
                await asyncio.sleep(_AGAIN_S)
        try:
            await self._board.withdraw(self.name)
        except REDIS_LOST:
            logger.info("nobody could be told that node %s has left", self.name)

    async def _next(self, stop: asyncio.Event) -> Call | None:
        """A call; None: say again that we are here."""
        for _ in range(round(SAY_EVERY_S / _LOOK_EVERY_S)):
            if stop.is_set():
                return None
            try:
                call = await self._board.called(self.name)
            except ValidationError as error:
                logger.warning("a call that no head writes is left out: %s", error)
                return None
            if call is not None and await self._board.holds(call):
                return call
            await asyncio.sleep(_LOOK_EVERY_S)
        return None

    async def _join(self, call: Call, stop: asyncio.Event) -> None:
        """Take part in one slice."""
        logger.info("joining task %s as machine %d", call.task_id, call.rank)
        working = asyncio.create_task(self._train(call))
        staying = asyncio.create_task(self._while_held(call))
        saying = asyncio.create_task(self._say(call, stop))
        leaving = asyncio.create_task(self._until_left(stop))
        others = (staying, saying, leaving)
        try:
            await asyncio.wait({working, staying, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(*others)
            await cancel_once(working)
        word = Word(run_id=call.run_id, state="ended")
        if not working.cancelled() and (error := working.exception()) is not None:
            logger.warning("task %s: %s: %s", call.task_id, type(error).__name__, error)
            word = Word.failed(call.run_id, error)
        else:
            logger.info("the slice of task %s is over", call.task_id)
        await self._board.say(self.name, word)

    async def _train(self, call: Call) -> None:
        request = self._parse(call)
        settings = self._settings
        store = DatasetStore(settings.dataset_root)
        if await asyncio.to_thread(store.fingerprint, call.dataset_id) != call.dataset_hash:
            raise DatasetError(
                f"dataset {call.dataset_id!r} is not the same here as where the training began: "
                "give all machines of a group the same DATASET_ROOT, or copies of it"
            )
        # Not the head's own folder, which may lie on the same disk.
        with work_folder(open_work_root(settings), f"{call.task_id} {self.name}") as folder:
            resume = None
            if call.checkpoint is not None:
                checkpoints = open_checkpoints(request, call.task_id, settings)
                found = await checkpoints.newest(folder)
                if found is None or found[0].facts["sha256"] != call.checkpoint:
                    raise CheckpointError(
                        f"the checkpoint that the training goes on from is not in "
                        f"{settings.checkpoint_root}: give all machines of a group the same "
                        "CHECKPOINT_ROOT, a shared folder or a bucket"
                    )
                resume = found[1]
            piece = Piece(
                memory_bytes=settings.bridge_training_memory_bytes,
                resume=resume,
                dataset_hash=call.dataset_hash,
                meet={"address": self._head, "port": call.port, "rank": call.rank},
            )
            await train_in_process(request, folder, settings.dataset_root, piece, _DEAF)

    def _parse(self, call: Call) -> TrainingRequest:
        return parse_request(call.dataset_id, call.model, call.hyperparameters, self._settings)

    async def _while_held(self, call: Call) -> None:
        """Return once the head has not had the training for a while."""
        loop = asyncio.get_running_loop()
        held = loop.time()
        while loop.time() - held < GONE_S:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                if await self._board.holds(call):
                    held = loop.time()
            except REDIS_LOST:  # nobody knows; the head trains on, too
                held = loop.time()
        logger.warning("the head does not have task %s any more", call.task_id)

    async def _say(self, call: Call, stop: asyncio.Event) -> None:
        unheard = False
        while True:
            state: Any = "leaving" if stop.is_set() else "here"
            try:
                await self._board.say(self.name, Word(run_id=call.run_id, state=state))
                unheard = False
            except REDIS_LOST as error:
                if not unheard:  # once, for as long as it lasts
                    logger.warning(
                        "cannot tell the head that node %s is here: %s", self.name, error
                    )
                unheard = True
            if state == "leaving":
                await asyncio.sleep(SAY_EVERY_S)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAY_EVERY_S):
                    await stop.wait()

    async def _until_left(self, stop: asyncio.Event) -> None:
        """Return once the head has had its time to end the slice that we want to leave."""
        await stop.wait()
        logger.info("leaving; the head saves a checkpoint first")
        await asyncio.sleep(self._settings.bridge_drain_timeout_s)


async def _ignore(*_: Any) -> None:
    """Progress and checkpoints are the head's."""


_DEAF = Listeners(lambda _: None, _ignore, _ignore)
