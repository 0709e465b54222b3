"""From exported files to a model that Triton serves, and that is proven. No torch.

A candidate is laid into the repository under a name that nobody calls; Triton loads it and answers;
it is published; Triton serves it. Until the last step callers get what they got before.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bridge.errors import (
    BridgeError,
    Fate,
    InferenceTimeoutError,
    ModelUnavailableError,
    PublishError,
    RestrictedError,
    TaskCancelledError,
    TaskExpiredError,
    TritonBusyError,
    TritonError,
    TritonUnavailableError,
    UnknownModelError,
)
from bridge.repository import Candidate, ModelRepository, Signature, taken_out, withdraw
from bridge.settings import Settings
from bridge.specs import InferReply, ModelSpec, ModelState
from bridge.tensors import Array, Tensor
from bridge.training.hindrances import reading_repository
from bridge.training.probe import load_probe
from bridge.training.process import Outcome, Plan
from bridge.training.request import TrainingRequest
from bridge.training.tolerances import GPU_TOLERANCE, tolerance_for

log = logging.getLogger(__name__)

_LEFTOVER_S = 3600.0  # longer than any candidate is tried
# Of a version that Triton has loaded, these say that too much is asked of it, not that it is bad.
_PASSING = (TritonBusyError, ModelUnavailableError, InferenceTimeoutError)
_SEVERAL = 5  # rows of the second question; not a power of 2, to catch a fixed batch size


class Triton(Protocol):
    """What going live asks of Triton; `bridge.triton_client.TritonClient`."""

    async def index(self) -> list[ModelState]:
        """Every model version; takes the right to load."""

    async def model_spec(self, name: str) -> ModelSpec:
        """What a loaded model takes and gives."""

    async def load(self, name: str) -> None:
        """Load or reload a model's newest version."""

    async def unload(self, name: str) -> None:
        """Unload a model."""

    async def on_processors(self, name: str) -> bool:
        """Whether no server has an instance of a loaded model on a GPU."""

    async def infer(
        self, name: str, inputs: Mapping[str, Tensor], *, version: str = "", timeout_s: float
    ) -> InferReply:
        """Run one request."""


async def _nobody() -> None:
    """Nobody else is asked."""


@dataclass(frozen=True, slots=True)
class PointOfNoReturn:
    """The moment after which a training is published: before it, it may yet be cancelled."""

    take: Callable[[], Awaitable[None]] = _nobody
    """Raises if the task has come to another end, or is another worker's."""
    take_back: Callable[[], Awaitable[None]] = _nobody
    """Nothing was published after all."""


class GoLive:
    """One task on its way to a live model."""

    def __init__(
        self, request: TrainingRequest, task_id: str, settings: Settings, triton: Triton
    ) -> None:
        self.request, self.task_id, self.triton = request, task_id, triton
        self.repository = ModelRepository(settings.model_repository)
        self.timeout_s = settings.bridge_infer_timeout_s

    async def clean(self) -> None:
        """Remove what crashed workers left, from the repository and from Triton.

        Raises:
            RepositoryWriteError: the repository is away; so too from the next two.
        """
        with reading_repository(self.repository.root):
            names = self.repository.clean_candidates(_LEFTOVER_S)
        for name in names:
            await self._forget(name)

    def check(self, plan: Plan) -> None:
        """Refuse another signature, or other columns, before hours are spent on it."""
        made_of = {"columns": list(plan.columns), "target": plan.target}
        with reading_repository(self.repository.root):
            self.repository.check_signature(self.request.model_id, plan.signature, made_of)

    async def may_load(self, *, trained: bool) -> None:
        """See that Triton lets us load a model, before hours are spent on one.

        Args:
            trained: they have been; all that is left is to load it.

        Raises:
            RestrictedError: it does not.
            TritonUnavailableError: it cannot be asked, or does not yet, and all else is done.
        """
        try:
            await self.triton.index()
        except TritonError as error:
            if trained:
                raise _to_be_awaited(error) from error
            if isinstance(error, RestrictedError):
                raise

    async def recorded(self) -> dict[str, Any] | None:
        """The result of an earlier delivery of this task, if it came as far as publishing."""
        model = self.request.model_id
        with reading_repository(self.repository.root):
            version = self.repository.find_version_by_task(model, self.task_id)
            if version is None:
                gone = taken_out(self.repository, model, self.task_id)
                return None if gone is None else self._result(*gone)
            card = self.repository.card(model, version) or {}
            newest = self.repository.versions(model)[-1]
        log.info("task %s has published %s version %d already", self.task_id, model, version)
        if version == newest:
            # The earlier delivery may have died before Triton heard of the version.
            await self._serve(version)
        return self._result(version, card)

    async def go_live(
        self, outcome: Outcome, folder: Path, slices: int, point: PointOfNoReturn
    ) -> dict[str, Any]:
        """From exported files to a served version."""
        model, signature = self.request.model_id, outcome.plan.signature
        rows, wanted = load_probe(folder / "probe.npz")
        began = time.monotonic()
        candidate = await self._lay(folder / "version", signature)
        try:
            tolerance = outcome.result[_proof(outcome.result)]["tolerance"]
            tried = await self._try(candidate, rows, wanted, tolerance)
            card = self._card(outcome, tried, slices)
            try_s = round(time.monotonic() - began, 3)
            card["timings"] = {**card.get("timings", {}), "try_s": try_s}
            version = await self._publish(candidate, card, point)
        finally:
            await self._forget(candidate.name)
            self.repository.remove_candidate(candidate)
        published = self.repository.card(model, version) or {}
        await self._serve(version, rows[:1], signature)
        log.info("model %s version %d is live", model, version)
        return self._result(version, published)

    async def _publish(
        self, candidate: Candidate, card: dict[str, Any], point: PointOfNoReturn
    ) -> int:
        await point.take()
        try:
            # Short, and on this thread: a cancellation comes before it or after it.
            version = self.repository.publish(candidate, card)
        except BridgeError:
            await point.take_back()
            raise
        try:
            await point.take()  # this worker may have hung between the two
        except (TaskCancelledError, TaskExpiredError):
            withdraw(self.repository, candidate.model, version)
            raise
        return version

    async def _lay(self, files: Path, signature: Signature) -> Candidate:
        laying = asyncio.create_task(
            asyncio.to_thread(
                self.repository.lay_candidate, self.request.model_id, files, signature
            )
        )
        try:
            return await asyncio.shield(laying)
        except asyncio.CancelledError:
            # The thread cannot be stopped: wait for it, then take back what it laid.
            self.repository.remove_candidate(await laying)
            raise

    async def _try(
        self, candidate: Candidate, rows: Array, wanted: Array, tolerance: float
    ) -> dict[str, float]:
        """Load the candidate and compare Triton's answers; returns what the card says of that."""
        try:
            await self.triton.load(candidate.name)
            if not await self.triton.on_processors(candidate.name):
                tolerance = max(tolerance, tolerance_for(wanted, GPU_TOLERANCE))
            # A configuration that its users wrote may say less than the signature.
            spec = await self.triton.model_spec(candidate.name)
            most = max(1, min(candidate.signature.max_batch_size, spec.max_batch_size))
            worst = 0.0
            for count in sorted({1, min(_SEVERAL, most, len(rows))}):
                found = await self._ask(candidate.name, candidate.signature, rows[:count])
                if found.shape != wanted[:count].shape:
                    raise PublishError(
                        f"Triton answered {candidate.model!r} with shape {list(found.shape)} "
                        f"instead of {list(wanted[:count].shape)}; nothing was published"
                    )
                worst = max(worst, float(np.abs(found - wanted[:count]).max()))
        except TritonError as error:
            raise self._refused(error, "it was not published") from error
        if not worst <= tolerance:  # also when it is NaN
            raise PublishError(
                f"Triton's answers differ from those in training by {worst:g}, more than "
                f"{tolerance:g}; nothing was published"
            )
        return {"triton_max_abs_difference": worst, "triton_tolerance": tolerance}

    async def _ask(self, name: str, signature: Signature, rows: Array, version: str = "") -> Array:
        inputs = {signature.inputs[0].name: Tensor.from_array(rows)}
        reply = await self.triton.infer(name, inputs, version=version, timeout_s=self.timeout_s)
        if version and reply.model_version != version:
            raise PublishError(
                f"Triton answered with version {reply.model_version} instead of {version}"
            )
        return reply.outputs[signature.outputs[0].name].to_array()

    async def _serve(
        self, version: int, rows: Array | None = None, signature: Signature | None = None
    ) -> None:
        """Have Triton serve a published version; if it will not, go back to the one before."""
        model = self.request.model_id
        try:
            await self.triton.load(model)
            if rows is not None and signature is not None:
                await self._ask(model, signature, rows, str(version))
        except (TritonError, PublishError) as error:
            versions = self.repository.versions(model)
            if versions[-1:] > [version] or version not in versions:
                # Triton loads the newest; whoever published that proves it, or took this one out.
                log.info("%s version %d is not the newest any more: %s", model, version, error)
                return
            if isinstance(error, _PASSING):
                raise _to_be_awaited(error) from error
            refused = self._refused(error, "the version before serves on")
            if not isinstance(refused, TritonUnavailableError):
                await self._withdraw(version)
            raise refused from error

    async def _withdraw(self, version: int) -> None:
        model = self.request.model_id
        withdraw(self.repository, model, version)
        if not self.repository.versions(model):
            await self._forget(model)
            return
        try:
            await self.triton.load(model)
        except TritonError as error:
            # Triton keeps what it has when it cannot load; the caller hears why it came to this.
            log.error("Triton could not go back to the version before of %s: %s", model, error)  # noqa: TRY400

    async def _forget(self, name: str) -> None:
        try:
            await self.triton.unload(name)
        except UnknownModelError:
            pass  # Triton never came to know it
        except TritonError as error:
            log.warning("Triton could not unload %s: %s", name, error)

    def _refused(self, error: BridgeError, outcome: str) -> BridgeError:
        if isinstance(error, RestrictedError):  # the key was changed since the training began
            return _to_be_awaited(error)
        if isinstance(error, PublishError) or error.fate is not Fate.FAIL:
            return error  # another try may do
        return PublishError(
            f"Triton refused the new version of model {self.request.model_id!r}, so {outcome}: "
            f"{error}"
        )

    def _card(self, outcome: Outcome, tried: dict[str, float], slices: int) -> dict[str, Any]:
        result = outcome.result
        proof = _proof(result)
        return {
            "task_id": self.task_id,
            "dataset_id": self.request.dataset_id,
            "model": self.request.model.model_dump(mode="json"),
            **result,
            proof: {**result[proof], **tried},
            "duration_s": result["training_s"],
            "slices": slices,
            "published": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _result(self, version: int, card: dict[str, Any]) -> dict[str, Any]:
        return {
            "model_name": self.request.model_id,
            "model_version": str(version),
            "metrics": card["metrics"],
            "parity": card["parity"],
            **{name: card[name] for name in ("variant", "weights") if name in card},
            **card["signature"],
            "columns": card.get("columns"),  # None where no training made it
            "dataset_id": card["dataset_id"],
            "dataset_hash": card.get("dataset_hash"),  # None in cards of older versions
            "duration_s": card["duration_s"],
            "timings": card.get("timings", {}),
            "slices": card.get("slices", 1),
        }


def _to_be_awaited(error: TritonError) -> TritonUnavailableError:
    if isinstance(error, TritonUnavailableError):
        return error
    return TritonUnavailableError(str(error))


def _proof(result: Mapping[str, Any]) -> str:
    """Which part of a result tells of the file that is served."""
    return "variant" if "variant" in result else "parity"
