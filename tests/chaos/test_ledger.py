"""The judge sees each kind of fault, and only that."""

import pytest
from bridgechaos.entries import Entry, Evidence, Found, Want
from bridgechaos.ledger import balance


def entry(task_id="a", want=Want.SUCCESS, *, confirmed=True, told=None):
    return Entry("somebody", want, (1,), task_id, confirmed, told=told)


def training(task_id="a", want=Want.SUCCESS):
    return Entry("trainer", want, (), task_id, confirmed=True, model="net")


def judged(*entries, records=None, letters=None, queues=None, freed=(), **more):
    return balance(entries, Evidence(records or {}, letters or {}, queues or {}, **more), freed)


def wrong(found):
    return {name for name, lines in found.faults.items() if lines}


def test_what_ended_as_it_deserves_balances():
    found = judged(
        entry("a"),
        entry("b", Want.MODEL_ERROR),
        entry("c", Want.CRASH),
        entry("d", Want.NO_TASK),
        entry("e", Want.NONSENSE),
        entry("f", confirmed=False),
        records={
            "a": Found(),
            "b": Found("InferenceFailedError"),
            "c": Found("TritonUnavailableError"),
            "d": Found("UnknownTaskError"),
        },
        letters={"d": 1, "e": 2},
        queues={"q": (0, 0)},
        executions={1: 3, 2: 1},
    )
    assert found.balanced
    assert (found.submitted, found.succeeded, found.deserved, found.unconfirmed) == (5, 1, 3, 1)
    assert (found.letters, found.letters_again, found.executed_again) == (2, 1, 2)


@pytest.mark.parametrize("want", list(Want))
def test_a_task_that_is_nowhere_is_lost(want):
    found = judged(entry(want=want))
    assert wrong(found) == {"lost"}
    assert not found.balanced
    assert "a of somebody" in found.described()


def test_an_unknown_task_without_its_dead_letter_is_lost():
    found = judged(entry(want=Want.NO_TASK), records={"a": Found("UnknownTaskError")})
    assert wrong(found) == {"lost"}


def test_every_hundredth_that_was_dropped_is_counted():
    ids = [f"{number:032x}" for number in range(1000)]
    kept = {task_id: Found() for number, task_id in enumerate(ids) if number % 100}
    found = judged(*map(entry, ids), records=kept)
    assert len(found.lost) == 10
    assert found.succeeded == 990


@pytest.mark.parametrize(
    ("want", "record", "fault"),
    [
        (Want.SUCCESS, Found("TritonUnavailableError"), "failed wrongly"),
        (Want.SHAPE, Found("InferenceFailedError"), "failed wrongly"),
        (Want.SUCCESS, Found(right=False), "wrong answers"),
        (Want.MODEL_ERROR, Found(), "wrong answers"),
    ],
)
def test_an_end_that_was_not_deserved(want, record, fault):
    assert wrong(judged(entry(want=want), records={"a": record})) == {fault}


def test_a_good_task_among_dead_letters():
    assert wrong(judged(entry(), letters={"a": 1})) == {"failed wrongly"}
    both = judged(entry(), records={"a": Found()}, letters={"a": 1})
    assert wrong(both) == {"in two places"}


def test_an_end_that_was_told_and_then_overwritten():
    found = judged(entry(told=Found("TritonUnavailableError")), records={"a": Found()})
    assert wrong(found) == {"told one end, recorded another"}
    assert judged(entry(told=Found()), records={"a": Found()}).balanced
    other = training()
    other.told = Found(version="net/1")
    found = judged(other, records={"a": Found(version="net/2")}, versions={"a": ["net/2"]})
    assert wrong(found) == {"told one end, recorded another"}


def test_a_caller_who_was_told_wrongly():
    told = Found(text="steady: [[0.0]]", right=False)
    found = judged(entry(told=told), records={"a": Found()})
    assert wrong(found) == {"wrong answers"}
    assert "told: steady: [[0.0]]" in found.described()
    assert wrong(judged(entry(told=told))) == {"lost", "wrong answers"}


def test_an_unconfirmed_task_may_end_but_not_wrongly():
    found = judged(entry(confirmed=False), records={"a": Found()})
    assert found.balanced
    assert found.unconfirmed_done == 1
    found = judged(entry(confirmed=False), records={"a": Found(right=False)})
    assert wrong(found) == {"wrong answers"}


def test_results_that_nobody_asked_for():
    nameless = entry(None, confirmed=False)
    assert judged(nameless, records={"b": Found()}).unconfirmed_done == 1
    found = judged(nameless, records={"b": Found(), "c": Found()})
    assert wrong(found) == {"results of nobody's tasks"}
    found = judged(nameless, records={"b": Found(right=False)})
    assert wrong(found) == {"wrong answers"}


def test_what_is_still_queued_is_late_and_not_lost():
    found = balance([entry()], Evidence({}, {}, {"q": (1, 0)}, frozenset({"a"})))
    assert wrong(found) == {"stuck in a queue"}
    assert found.late == 1


def test_what_is_stuck():
    assert wrong(judged(queues={"q": (0, 1)})) == {"stuck in a queue"}
    freed = judged(entry(), records={"a": Found()}, freed=["a"])
    assert wrong(freed) == {"stuck in a worker until it was restarted"}


def test_a_training_has_one_end_and_one_version():
    found = judged(
        training("a"),
        training("b", Want.CANCELLED),
        training("c", Want.EITHER),
        training("d", Want.NO_DATA),
        records={
            "a": Found(version="net/1"),
            "b": Found("TaskCancelledError"),
            "c": Found(version="net/2"),
            "d": Found("DatasetError"),
        },
        versions={"a": ["net/1"], "c": ["net/2"]},
    )
    assert found.balanced
    assert (found.trainings, found.trained, found.cancelled, found.deserved) == (4, 2, 1, 2)


@pytest.mark.parametrize(
    ("record", "versions", "fault"),
    [
        (Found(version="net/1"), [], "trained without the version that was told"),
        (Found(version="net/1"), ["net/2"], "trained without the version that was told"),
        (Found(version="net/1"), ["net/1", "net/2"], "published twice, or though it failed"),
        (Found(version="net/1", right=False), ["net/1"], "wrong answers"),
    ],
)
def test_a_training_that_is_not_what_it_says(record, versions, fault):
    assert wrong(judged(training(), records={"a": record}, versions={"a": versions})) == {fault}


def test_a_training_that_failed_and_is_published():
    bad = training(want=Want.NO_NETWORK)
    records = {"a": Found("InvalidTrainingRequestError")}
    found = judged(bad, records=records, versions={"a": ["net/1"]})
    assert wrong(found) == {"published twice, or though it failed"}
    late = judged(
        training(want=Want.CANCELLED),
        records={"a": Found("TaskCancelledError")},
        versions={"a": ["net/1"]},
    )
    assert late.balanced
    assert late.cancelled_live == 1


def test_what_trainings_leave_behind():
    assert wrong(judged(left_over=["bridge:job:a"])) == {"left behind by trainings"}
