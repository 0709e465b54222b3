"""What becomes of a task: the arithmetic of it. No servers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import errors
from bridge.labels import deadline_of, retries_of, timeout_of
from bridge.queues.tiers import tier_s
from bridge.retries import Retries

ODD = [float("nan"), float("inf"), -1, "x", "", [], {}, "1" * 400, 10**400]


@given(
    attempt=st.integers(1, 10**6),
    left_s=st.floats(0, 1e6) | st.just(math.inf),
    most=st.integers(0, 50),
    jitter=st.floats(0, 1),
)
def test_waits_grow_to_their_bound_and_end_with_the_tries_or_the_deadline(
    attempt, left_s, most, jitter
):
    retries = Retries(first_s=1, longest_s=60)
    wait_s = retries.wait_s(errors.TritonBusyError(""), attempt, left_s, most=most, jitter=jitter)
    if attempt > most:
        assert wait_s is None
    else:
        longest = min(60, 2.0 ** min(attempt - 1, 10))
        expected = longest * jitter
        assert wait_s == (pytest.approx(expected) if expected < left_s else None)


def test_what_will_not_pass_is_not_tried_again():
    retries = Retries()
    for error in (errors.ShapeError(""), errors.InferenceFailedError(""), errors.QueueError("")):
        again = retries.wait_s(error, 1, math.inf, most=5, jitter=0.5)
        assert (again is not None) == (error.fate is errors.Fate.RETRY)


def test_a_model_that_is_away_is_waited_for_longer():
    retries = Retries()
    away, busy = errors.ModelUnavailableError(""), errors.TritonBusyError("")
    assert retries.wait_s(busy, 6, math.inf, most=5) is None
    assert retries.wait_s(away, 6, math.inf, most=5) is not None
    assert retries.wait_s(away, 301, math.inf, most=5) is None
    assert retries.wait_s(away, 1, math.inf, most=0) is None
    assert retries.wait_s(away, 20, math.inf, most=5, jitter=1.0) == 8


def test_a_turn_is_asked_for_often_and_for_as_long():
    waiting = errors.AwaitingTurnError("")
    assert Retries().wait_s(waiting, 20, math.inf, most=5, jitter=1.0) == 2
    assert Retries().wait_s(waiting, 1200, math.inf, most=5) is not None
    assert Retries().wait_s(waiting, 1201, math.inf, most=5) is None


def test_what_kills_its_model_does_so_a_few_times_only():
    crashed = errors.BackendCrashedError("")
    assert Retries().wait_s(crashed, 3, math.inf, most=100) is not None
    assert Retries().wait_s(crashed, 4, math.inf, most=100) is None
    assert Retries().wait_s(crashed, 2, math.inf, most=1) is None


def test_a_model_that_is_away_is_waited_for_about_27_minutes():
    """As docs/delivery.md has it, of the defaults: in the mean, as RabbitMQ holds what waits."""
    away, tries = errors.ModelUnavailableError(""), range(1, 5 * 60 + 1)
    totals = [
        sum(tier_s(Retries().wait_s(away, it, math.inf, most=5)) for it in tries) for _ in range(50)
    ]
    assert 25 * 60 < sum(totals) / 50 < 29 * 60
    assert Retries().wait_s(away, 5 * 60 + 1, math.inf, most=5) is None


def test_every_error_has_a_fate_and_an_outcome():
    pending, seen = [errors.BridgeError], set()
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        assert isinstance(kind.fate, errors.Fate)
        seen.add(kind.outcome)
    assert seen == set(errors.Outcome) - {errors.Outcome.SUCCEEDED}


@pytest.mark.parametrize("value", ODD, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("read", [deadline_of, timeout_of, lambda labels: retries_of(labels, 3)])
def test_a_label_without_sense_is_an_error_of_the_caller(read, value):
    labels = dict.fromkeys(("deadline", "timeout", "max_retries"), value)
    with pytest.raises(errors.InvalidLabelError) as caught:
        read(labels)
    assert len(str(caught.value)) < 200


def test_labels_are_read_as_numbers_or_as_their_text():
    assert deadline_of({}) is None
    assert deadline_of({"deadline": "1700000000.5"}) == 1700000000.5
    assert timeout_of({"timeout": 3}) == 3.0
    assert retries_of({}, 3) == 3
    assert retries_of({"max_retries": "7"}, 3) == 7
    assert retries_of({"max_retries": 7, "retry_on_error": "False"}, 3) == 0
    assert retries_of({"max_retries": 1e9}, 3) == 1000
    with pytest.raises(errors.InvalidLabelError):
        timeout_of({"timeout": 0})
