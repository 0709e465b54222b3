"""What is told of one Triton, and of several; no server is needed."""

import pytest

from bridge.errors import (
    BridgeError,
    Fate,
    ModelUnavailableError,
    TritonBusyError,
    TritonRefusedError,
    TritonUnavailableError,
    UnknownModelError,
)
from bridge.triton_errors import triton_error, verdict

AWAY = TritonUnavailableError("away")
UNKNOWN = UnknownModelError("unknown")
LOADING = ModelUnavailableError("loading")
BUSY = TritonBusyError("busy")
REFUSED = TritonRefusedError("refused")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("failed to connect to all addresses", "; check TRITON_URL"),
        ("Socket closed", "; if it speaks TLS there, set TRITON_TLS"),
    ],
)
def test_a_triton_that_is_away_names_what_to_look_at(text, advice):
    told = {"model": "digits", "address": "gpu-1:8001", "encrypted": False}
    error = triton_error("UNAVAILABLE", text, **told)
    assert type(error) is TritonUnavailableError
    assert str(error) == f"Triton at gpu-1:8001 is not available: {text}{advice}"


@pytest.mark.parametrize("code", ["DEADLINE_EXCEEDED", "INVALID_ARGUMENT"])
def test_a_call_of_no_one_model_names_none(code):
    """As of `mlbridge models`, where Triton is there and hangs."""
    told = {"address": "gpu-1:8001", "encrypted": False}
    assert "for 'digits'" in str(triton_error(code, "slow", model="digits", **told))
    assert " for " not in str(triton_error(code, "slow", model="", **told))


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ([AWAY], AWAY),
        ([AWAY, AWAY], AWAY),
        ([UNKNOWN], UNKNOWN),
        ([UNKNOWN, UNKNOWN], UNKNOWN),
        ([UNKNOWN, LOADING], LOADING),
        ([LOADING, UNKNOWN], LOADING),
        ([BUSY, UNKNOWN], BUSY),
        ([BUSY, AWAY], BUSY),
        ([AWAY, LOADING], LOADING),
        ([UNKNOWN, AWAY, REFUSED], REFUSED),
    ],
)
def test_who_is_there_has_the_word(failures: list[BridgeError], told: BridgeError):
    assert verdict(failures) is told


@pytest.mark.parametrize("failures", [[UNKNOWN, AWAY], [AWAY, UNKNOWN], [UNKNOWN, AWAY, UNKNOWN]])
def test_a_model_that_only_who_is_away_may_have_is_waited_for(failures):
    error = verdict(failures)
    assert isinstance(error, ModelUnavailableError)
    assert error.fate is Fate.RETRY
    assert "unknown" in str(error)
    assert "is away" in str(error)
