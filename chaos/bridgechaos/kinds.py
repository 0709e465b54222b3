"""Which kinds of faults there are, and what each can befall in a stack."""

from collections.abc import Mapping, Sequence

from bridgechaos.stack import TRAINING, Stack

SERVERS = ("rabbitmq", "redis", "triton")
_WORKERS, _EVERYBODY, _LINKS, _TRAINING = "workers", "everybody", "links", "training"
# What is wrong with models, or with the disk of checkpoints, is of no part.
_MODELS, _CHECKPOINTS = "models", "checkpoints"

_KINDS: Mapping[str, str] = {
    **dict.fromkeys(("worker killed", "worker terminated"), _WORKERS),
    **dict.fromkeys(("pool killed", "pool terminated"), _WORKERS),
    **{f"{name} killed": name for name in SERVERS},
    **{f"{name} terminated": name for name in ("rabbitmq", "redis")},
    "paused": _EVERYBODY,
    **dict.fromkeys(("cut", "delayed", "blackholed", "half-open"), _LINKS),
    "redis full": "redis",
    **dict.fromkeys(("slow model", "crashing model"), _MODELS),
}
"""By kind, whom it befalls: a part, or some of them."""

_KINDS_OF_TRAINING: Mapping[str, str] = {
    **dict.fromkeys(("training killed", "training terminated"), _TRAINING),
    **dict.fromkeys(("training pool killed", "training pool terminated"), _TRAINING),
    **dict.fromkeys(("training process killed", "training process paused"), _TRAINING),
    "training paused past its lease": _TRAINING,
    "disk full": _MODELS,
    "checkpoint disk full": _CHECKPOINTS,
}
"""The same where trainings are submitted."""


class NoSuchFaultError(Exception):
    """What was asked for cannot be had."""


def kinds(*, training: bool) -> list[str]:
    """All that there are, whether or not this machine can have them.

    Args:
        training: also those of a stack with training workers.
    """
    return sorted({**_KINDS, **(_KINDS_OF_TRAINING if training else {})})


def check(only: Sequence[str], *, training: bool) -> None:
    """Look at what was asked for before anything is started.

    Raises:
        NoSuchFaultError: there is no such kind.
    """
    known = kinds(training=training)
    if unknown := sorted(set(only) - set(known)):
        alone = "" if training else " without --training"
        raise NoSuchFaultError(
            f"no fault is called {', '.join(unknown)}{alone}; there are: {', '.join(known)}"
        )


def targets(stack: Stack, only: Sequence[str] = ()) -> dict[str, Sequence[str]]:
    """By kind, what it can befall here.

    Args:
        stack: which.
        only: of these kinds; empty: of all.

    Raises:
        NoSuchFaultError: one of them cannot be had here.
    """
    some: dict[str, Sequence[str]] = {
        _WORKERS: [name for name in stack.pools if name not in TRAINING],
        _EVERYBODY: [*SERVERS, *stack.pools],
        _LINKS: list(stack.links),
        _TRAINING: TRAINING,
    }
    befallen = {**_KINDS, **(_KINDS_OF_TRAINING if stack.school is not None else {})}
    lacking = left_out(stack)
    found = {kind: some.get(it, [it]) for kind, it in befallen.items() if kind not in lacking}
    if absent := sorted(set(only) - set(found)):
        raise NoSuchFaultError(
            f"no fault here is called {', '.join(absent)}; there are: {', '.join(sorted(found))}"
            + "".join(f"; left out: {kind} ({why})" for kind, why in lacking.items())
        )
    return {kind: it for kind, it in found.items() if not only or kind in only}


def left_out(stack: Stack) -> dict[str, str]:
    """Kinds that cannot be had here, and why."""
    school = stack.school
    if school is None:
        return {"disk full, and all of training": "nobody trains without --training"}
    reasons = {
        "disk full": stack.models.no_small_disk,
        "checkpoint disk full": school.no_small_disk,
    }
    return {kind: reason for kind, reason in reasons.items() if reason}
