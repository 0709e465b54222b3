"""What a Triton server said instead of an answer, as an error of our tree.

Pure: knows nothing of gRPC but the names of its status codes.
"""

from collections.abc import Sequence

from bridge.advice import TRITON, tls_advice
from bridge.errors import (
    BackendCrashedError,
    BridgeError,
    InferenceFailedError,
    InferenceTimeoutError,
    ModelUnavailableError,
    RestrictedError,
    TritonBusyError,
    TritonRefusedError,
    TritonUnavailableError,
    UnknownModelError,
)

_UNKNOWN = (
    "Triton at {address} does not serve {model} ({text}); `mlbridge models` lists what it serves"
)
_NOT_READY = (
    "Triton at {address} has no version of {model} ready: it is being loaded, was unloaded, or "
    "could not be loaded (`mlbridge models` says which)"
)
_REFUSED = "Triton refused the request{of_model}: {text}"

_BY_TEXT: tuple[tuple[str, type[BridgeError], str], ...] = (
    (
        "protocol is restricted",
        RestrictedError,
        "Triton at {address} restricts this call: set TRITON_ADMIN_KEY to its admin key",
    ),
    ("has no available versions", ModelUnavailableError, _NOT_READY),
    ("unknown model", UnknownModelError, _UNKNOWN),
    ("maximum queue size", TritonBusyError, "the queue of {model} in Triton at {address} is full"),
    (
        "is not healthy",
        BackendCrashedError,
        "the process that computes {model} in Triton at {address} died: {text}",
    ),
)
_BY_CODE: dict[str, tuple[type[BridgeError], str]] = {
    "NOT_FOUND": (UnknownModelError, _UNKNOWN),
    "DEADLINE_EXCEEDED": (
        InferenceTimeoutError,
        "Triton at {address} did not answer in time{of_model}",
    ),
    "INVALID_ARGUMENT": (TritonRefusedError, _REFUSED),
    "RESOURCE_EXHAUSTED": (TritonRefusedError, _REFUSED),
}


def triton_error(code: str, text: str, *, model: str, address: str, encrypted: bool) -> BridgeError:
    """The error to raise (codes as Triton's gRPC front end sets them).

    Args:
        code: gRPC's name of the status.
        text: what Triton said.
        model: which was asked for; empty where the call is of no one model, as a listing.
        address: of the server.
        encrypted: it was spoken to in TLS.
    """
    of_model = f" for {model!r}" if model else ""
    said = {"model": repr(model), "of_model": of_model, "address": address, "text": text}
    for phrase, kind, sentence in _BY_TEXT:
        if phrase in text:
            return kind(sentence.format(**said))
    if code == "UNAVAILABLE":
        advice = tls_advice(text, TRITON, encrypted=encrypted) or "check TRITON_URL"
        return TritonUnavailableError(f"Triton at {address} is not available: {text}; {advice}")
    kind, sentence = _BY_CODE.get(
        code, (InferenceFailedError, f"model {{model}} failed in Triton ({code}): {{text}}")
    )
    return kind(sentence.format(**said))


def verdict(failures: Sequence[BridgeError]) -> BridgeError:
    """What several servers said of one request, as one error.

    One that is away says nothing against the word of one that is there, but it may have the model
    that the other lacks: that is as if the model were away.

    Args:
        failures: of each server that was asked, in order; at least one.
    """
    there = [failure for failure in failures if not isinstance(failure, TritonUnavailableError)]
    known = [failure for failure in there if not isinstance(failure, UnknownModelError)]
    if known:
        return known[-1]
    if not there:
        return failures[0]
    if len(there) == len(failures):
        return there[-1]
    return ModelUnavailableError(f"{there[-1]}; another Triton, which may, is away")
