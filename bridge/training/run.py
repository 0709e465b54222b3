"""Training as the worker sees it: from a checked request to a model that is live. No torch.

Enters: a `TrainingRequest` and its task's id. Leaves: the task's result. The steps, in order:
has this task published already? - train in a process of its own (`process`), from its last
checkpoint (`checkpoints`), for as long as a slice is; when it is trained - lay the files into the
repository as a candidate - have Triton load and answer under the candidate's name - publish -
have Triton serve it. Until the last step callers get what they got before.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from bridge.background import end
from bridge.errors import (
    BridgeError,
    CheckpointError,
    DeviceFailedError,
    InvalidTrainingRequestError,
    NodesMissingError,
    RepositoryWriteError,
    TrainingCrashedError,
    TrainingMemoryError,
)
from bridge.settings import Settings
from bridge.training.checkpoints import Checkpoint, Checkpoints
from bridge.training.folders import work_folder
from bridge.training.golive import GoLive, PointOfNoReturn, Triton
from bridge.training.group import Crew, Group
from bridge.training.hindrances import reading_repository
from bridge.training.places import open_checkpoint_store, open_work_root
from bridge.training.process import (
    LOG_FILE,
    Listeners,
    Outcome,
    Piece,
    Progress,
    train_in_process,
)
from bridge.training.published import Ancestor, find_ancestor
from bridge.training.request import TrainingRequest
from bridge.training.starting import Spare
from bridge.training.threads import threads_for
from bridge.training.uploads import Facts, Uploads

log = logging.getLogger(__name__)

GOES_ON = (
    TrainingCrashedError,
    TrainingMemoryError,
    DeviceFailedError,
    CheckpointError,
    NodesMissingError,
)
"""After which a training goes on from its checkpoint, in a new process, if there is a new one."""


def open_checkpoints(request: TrainingRequest, task_id: str, settings: Settings) -> Checkpoints:
    """The checkpoints of a task that asks for just this.

    Raises:
        SettingsError: the settings of their store do not fit together.
    """
    asked = json.dumps(request.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(asked.encode()).hexdigest()
    return Checkpoints(open_checkpoint_store(settings), task_id, digest)


@dataclass(frozen=True, slots=True)
class Turn:
    """One worker's turn at a training."""

    token: int = 1
    """Fencing token, from `bridge.jobs`."""
    number: int = 1
    """Which slice it is."""
    worker: str = ""
    """Who has it, for people to read."""
    at_once: int = 1
    """How many trainings its pool runs at a time, on the same processors."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: save a checkpoint, and end."""
    confirm: Callable[[], Awaitable[None]] | None = None
    """Raises LeaseLostError if the training is another's by now."""
    point: PointOfNoReturn = field(default_factory=PointOfNoReturn)
    """Taken when its model is published."""
    group: Group | None = None
    """The machines that may help with it."""
    spare: Spare | None = None
    """Perhaps a process is ready."""


@dataclass(frozen=True, slots=True)
class _Reports:
    """What the training process reports: progress is passed on, checkpoints are kept."""

    uploads: Uploads
    turn: Turn
    start: Facts
    """Of the checkpoint with which the turn began; empty: none was there."""
    threads: int | None
    on_progress: Callable[[Progress], Awaitable[None]]

    async def progress(self, record: Progress) -> None:
        self.uploads.check()
        last = self.uploads.kept or self.start
        at = {key: last[key] for key in ("epoch", "step", "saved_at")} if last else None
        about = {"slice": self.turn.number, "worker": self.turn.worker, "checkpoint": at}
        await self.on_progress({**record, **about})

    async def checkpoint(self, file: Path, facts: Facts) -> None:
        self.uploads.check()
        self.uploads.add(file, {**facts, "threads": self.threads})


class Training:
    """One task, from a checked request to a live model."""

    def __init__(
        self, request: TrainingRequest, task_id: str, settings: Settings, triton: Triton
    ) -> None:
        """Nothing is read or written yet.

        Args:
            request: from `parse_request`.
            task_id: any text; a task whose model is published already is not trained again.
            settings: where datasets, models and checkpoints lie, and how long a slice is.
            triton: the servers that shall serve it.

        Raises:
            SettingsError: the settings of the checkpoint store do not fit together.
        """
        self.request, self.task_id, self._settings = request, task_id, settings
        self.checkpoints = open_checkpoints(request, task_id, settings)
        self.progressed = False
        """A checkpoint was kept in this turn."""
        self._resumed = False
        self._live = GoLive(request, task_id, settings, triton)

    def goes_on_after(self, error: BridgeError) -> bool:
        """Whether a turn that ended so is followed by another, instead of being tried again.

        Only what was got further is: the same crash, over and over, has to end. Where machines are
        missing, what was trained before waits for them.
        """
        return self.progressed or (self._resumed and isinstance(error, NodesMissingError))

    async def waits_after(self, error: BridgeError) -> bool:
        """Whether what was learnt waits after it until the model repository takes it.

        Raises:
            CheckpointError: nobody knows.
        """
        return isinstance(error, RepositoryWriteError) and bool(await self.checkpoints.floor())

    async def go_on(
        self, turn: Turn, on_progress: Callable[[Progress], Awaitable[None]]
    ) -> dict[str, Any] | None:
        """Train from the last checkpoint on; if it is done, prove and publish the model.

        Cancelling this kills the training process.

        Args:
            turn: whose, and until when.
            on_progress: gets what `fit` reports, with `slice`, `worker` and `checkpoint` (its
                `epoch`, `step` and `saved_at`); at last `{stage}`. What it raises ends the turn.

        Returns:
            None: it goes on from its checkpoint, in another turn. Else `model_name`,
            `model_version` (text), `metrics`, `parity`, `inputs`, `outputs`, `max_batch_size`,
            `labels`, `columns` (in the order of the input), `dataset_id`, `dataset_hash`,
            `duration_s`, `timings`, `slices`; `variant`, where one was asked for.

        Raises:
            TrainingError: the data, the training, the export or the publishing failed; what was
                live before still is. Its subclass LeaseLostError: it is another's now.
            TritonUnavailableError: Triton could not be asked; worth another try.
            TaskCancelledError, TaskExpiredError: the task came to that end; nothing is published.
        """
        await self._live.clean()
        recorded = await self._live.recorded()
        if recorded is not None:
            return recorded
        await turn.point.take_back()  # whoever took it has died before it published
        with work_folder(open_work_root(self._settings), self.task_id) as folder:
            try:
                outcome = await self._train(turn, folder, on_progress)
            finally:
                title = f"slice {turn.number}, {turn.worker}, {datetime.now(UTC):%F %T} UTC"
                await self.checkpoints.add_log(title, folder / LOG_FILE)
            if outcome is None:
                return None
            await on_progress({"stage": "publishing"})
            if turn.confirm is not None:
                await turn.confirm()
            result = await self._live.go_live(outcome, folder, turn.number, turn.point)
        await self.checkpoints.drop()
        return result

    def _ancestor(self) -> Ancestor | None:
        """The published version that the training begins with, if it asks for one.

        Raises:
            InvalidTrainingRequestError: there is none that it can begin with.
            RepositoryWriteError: nobody knows, as the repository is away.
        """
        asked = self.request.model
        if asked.from_model is None:
            return None
        root = self._settings.model_repository
        with reading_repository(root):
            return find_ancestor(root, asked.from_model, asked.from_version, asked.architecture)

    async def _train(
        self, turn: Turn, folder: Path, on_progress: Callable[[Progress], Awaitable[None]]
    ) -> Outcome | None:
        found = await self.checkpoints.newest(folder)
        start, resume = found or (None, None)
        self._resumed = start is not None
        facts = start.facts if start else {}
        await self._live.may_load(trained=bool(facts.get("finished")))
        if start is None:  # before hours are spent on it
            self._live.repository.check_writable()
        crew = self._crew(turn, start)
        if crew is not None and not await self._gather(crew, turn, on_progress):
            return None
        piece = self._piece(turn, facts, resume, crew)
        async with Uploads(partial(self._keep, turn.token)) as uploads:
            reports = _Reports(uploads, turn, facts, piece.threads, on_progress)
            listeners = Listeners(
                self._live.check,
                reports.progress,
                reports.checkpoint,
                crew.call if crew else None,
            )
            try:
                root = self._settings.dataset_root
                training = train_in_process(
                    self.request, folder, root, piece, listeners, spare=turn.spare
                )
                outcome = await (crew.together(training, turn.stop) if crew else training)
            except GOES_ON:  # of what it saved, something may still be on its way
                with contextlib.suppress(CheckpointError):
                    await uploads.finish()
                raise
            try:
                await uploads.finish()
            except CheckpointError as error:
                if outcome is None:
                    raise
                log.warning("a trained network is published without a checkpoint: %s", error)
        return outcome

    def _piece(self, turn: Turn, start: Facts, resume: Path | None, crew: Crew | None) -> Piece:
        """What one process does of it; `start` and `resume` are of the last checkpoint."""
        begun = start.get("weights")
        return Piece(
            length_s=self._settings.bridge_training_slice_s,
            checkpoint_every_s=self._settings.bridge_checkpoint_every_s,
            limit_s=self._settings.bridge_training_limit_s,
            memory_bytes=self._settings.bridge_training_memory_bytes,
            resume=resume,
            finished=bool(start.get("finished")),
            dataset_hash=start.get("dataset_hash"),
            ancestor=self._ancestor() if begun is None else None,
            begun=begun,
            threads=threads_for(
                turn.at_once, self._settings.bridge_training_threads, start.get("threads")
            ),
            meet={"address": crew.address, "rank": 0} if crew else None,
            stop=turn.stop,
        )

    async def _keep(self, token: int, file: Path, facts: Facts) -> Checkpoint:
        checkpoint = await self.checkpoints.keep(token, file, facts)
        self.progressed = True
        return checkpoint

    def _crew(self, turn: Turn, start: Checkpoint | None) -> Crew | None:
        """The nodes that this slice needs, where it needs any.

        Raises:
            InvalidTrainingRequestError: this worker has none.
        """
        nodes = self.request.hyperparameters.num_nodes
        if nodes == 1 or (start is not None and start.facts.get("finished")):
            return None
        if turn.group is None:
            raise InvalidTrainingRequestError(
                f"hyperparameters.num_nodes: {nodes} were asked for, and this training worker has "
                "no group of machines (BRIDGE_TRAINING_GROUP)"
            )
        return Crew(
            turn.group,
            self.request,
            task_id=self.task_id,
            token=turn.token,
            checkpoint=start.facts["sha256"] if start else None,
        )

    async def _gather(
        self, crew: Crew, turn: Turn, on_progress: Callable[[Progress], Awaitable[None]]
    ) -> bool:
        """Wait for the nodes; False: it is to stop before they are there."""
        gathering = asyncio.create_task(crew.gather(lambda text: on_progress({"stage": text})))
        stopping = asyncio.create_task(turn.stop.wait())
        try:
            await asyncio.wait({gathering, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not gathering.done():
                return False
            await gathering
            return True
        finally:
            await end(gathering, stopping)
