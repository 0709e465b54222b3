"""Take a version of a model out of service, or put it back: in the repository and in Triton.

Enters: a repository, Triton, a model, a version. Leaves: callers get the newest version that is
left. Whatever fails, both are as they were. One change of a model at a time: two would each see
half of the other. Must not know tasks or queues.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bridge.errors import BridgeError, ModelLoadError, PublishError, UnknownModelError
from bridge.repository import ModelRepository, check_model_id, restorable, restore, withdraw
from bridge.specs import ModelState

_NOT_WANTED = {"", "unloaded"}
"""Reasons not to serve a version: nobody asked for it, or a person unloaded it."""
_LOOKS, _LOOK_EVERY_S = 50, 0.1


class Triton(Protocol):
    """The part of `TritonClient` that is needed."""

    async def index(self) -> Sequence[ModelState]:
        """What is served, and what is not."""
        ...

    async def load(self, name: str) -> None:
        """Serve the newest version."""
        ...

    async def unload(self, name: str) -> None:
        """Serve no version."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """What was done."""

    model: str
    version: int
    serving: list[int]
    """The versions that Triton serves now."""


def newest(repository: ModelRepository, model: str, version: int | None) -> int:
    """A version of a model; the newest, where none is named.

    Raises:
        UnknownModelError: there is none.
    """
    versions = repository.versions(check_model_id(model))
    if not versions:
        raise UnknownModelError(
            f"there is no model {model!r} in {repository.root}; MODEL_REPOSITORY must be the one "
            "that Triton reads"
        )
    if version is not None and version not in versions:
        raise UnknownModelError(
            f"model {model!r} has no version {version}; it has {', '.join(map(str, versions))}"
        )
    return versions[-1] if version is None else version


async def take_out(
    repository: ModelRepository, triton: Triton, model: str, version: int | None = None
) -> Change:
    """Have Triton serve the version before; none, where there is none left.

    Also where none is served as the newest does not load, as after a restart of Triton. If the one
    before does not load either, the version is out all the same: so all bad ones can be taken out.
    A model that a person unloaded stays unloaded. All of the version is kept: see `put_back`.

    Args:
        repository: the one that Triton reads.
        triton: with the right to load models.
        model: its name.
        version: of it; by default the newest.

    Raises:
        UnknownModelError: there is no such version.
        BridgeError: Triton or the disk refused; nothing has changed.
    """
    number = newest(repository, model, version)
    async with _alone(repository.root / model):
        newest(repository, model, number)  # still?
        return await _take_out(repository, triton, model, number)


async def _take_out(repository: ModelRepository, triton: Triton, model: str, number: int) -> Change:
    states = [it for it in await triton.index() if it.name == model]  # says whether we may, too
    served = any(it.ready for it in states)
    # Where nothing is served, one before that does not load either takes nothing away.
    borne = () if served else (ModelLoadError,)
    withdraw(repository, model, number, keep=True)
    try:
        serving: list[int] = []
        if served or any(it.reason not in _NOT_WANTED for it in states):
            with contextlib.suppress(*borne):
                serving = await _follow(repository, triton, model, number)
        if number in serving:
            raise PublishError(
                f"Triton serves version {number} of {model!r} still: does it read "
                f"{repository.root}? `mlbridge doctor` tells"
            )
    except (BridgeError, asyncio.CancelledError):  # also by Ctrl-C
        restore(repository, model, number)
        await _tell_all_again(repository, triton, model)
        raise
    return Change(model, number, serving)


async def put_back(
    repository: ModelRepository, triton: Triton, model: str, version: int | None = None
) -> Change:
    """Undo `take_out`, for the newest version that was taken out or for the one that is named.

    Raises:
        UnknownModelError: there is none.
        BridgeError: Triton or the disk refused; nothing has changed.
    """
    kept = restorable(repository, check_model_id(model))
    if not kept:
        raise UnknownModelError(
            f"no version of model {model!r} in {repository.root} was withdrawn and kept; "
            "MODEL_REPOSITORY must be the one where that was done"
        )
    number = kept[-1] if version is None else version
    async with _alone(repository.root / model):
        await _serving(triton, model)
        restore(repository, model, number)
        try:
            serving = await _follow(repository, triton, model)
        except (BridgeError, asyncio.CancelledError):
            withdraw(repository, model, number, keep=True)
            await _tell_all_again(repository, triton, model)
            raise
    return Change(model, number, serving)


@contextlib.asynccontextmanager
async def _alone(home: Path) -> AsyncIterator[None]:
    """Wait until no other process changes the model in this folder.

    The folder itself is locked, as whoever may rename in it may not write another's lock file.
    """
    descriptor = os.open(home, os.O_RDONLY)
    try:
        while not _locked(descriptor):  # noqa: ASYNC110 - it is another process's lock
            await asyncio.sleep(_LOOK_EVERY_S)
        yield
    finally:
        os.close(descriptor)  # which unlocks it


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems lock no folders
        return True
    return True


async def _follow(
    repository: ModelRepository, triton: Triton, model: str, gone: int | None = None
) -> list[int]:
    """Have Triton look again; the versions that it serves once `gone` is, or does not go."""
    if repository.versions(model):
        await triton.load(model)
    else:
        await triton.unload(model)
    for _ in range(_LOOKS):  # it unloads in the background
        if gone not in (serving := await _serving(triton, model)):
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    return serving


async def _tell_all_again(repository: ModelRepository, triton: Triton, model: str) -> None:
    """Of several servers, some may have followed before one refused."""
    with contextlib.suppress(BridgeError):
        await _follow(repository, triton, model)


async def _serving(triton: Triton, model: str) -> list[int]:
    index = await triton.index()
    return sorted(int(it.version) for it in index if it.name == model and it.ready)
