"""What a run fails for, beside its ledger."""

import inspect

import pytest
from bridgechaos.outcome import Hit, Options, Outcome
from bridgechaos.plan import Fault
from bridgechaos.servers import died_by_themselves
from taskiq.cli.worker import process_manager

CUT = Fault(0, 0.0, "cut", "link", 1.0, 0.5)


def outcome(rounds=0, **found):
    asked = Options(1, faults=1, tasks=1, per_s=1.0, longest_s=1.0, settle_s=1.0, rounds=rounds)
    return Outcome(asked, **found)


@pytest.mark.parametrize(
    ("found", "trouble"),
    [
        ({"hung": 1}, "1 submissions hung"),
        ({"deaf": 2}, "2 callers were never told"),
        ({"stall_s": 31.0}, "nothing ended for 31 s"),
        ({"zombies": ["7 python"]}, "zombie: 7 python"),
        ({"growth_mb": 151.0}, "grew by 151 MB"),
        ({"not_back": ["worker killed of worker-1"]}, "not back: worker killed"),
        ({"unexpected": ["worker-1: its worker process 7 died"]}, "process 7 died"),
        ({"harness": ["the supervisor ended: OSError()"]}, "the supervisor ended"),
        ({"hits": [Hit(CUT, None)]}, "no recovery from cut"),
    ],
)
def test_a_trouble_fails_the_run(found, trouble):
    it = outcome(**found)
    assert [text for text in it.troubles if trouble in text]
    assert not it.good


def test_one_at_a_time_all_must_have_ended():
    (trouble,) = outcome(1, hits=[Hit(CUT, 1.0)]).troubles
    assert "not all had ended in time after cut of link" in trouble
    assert outcome(1, hits=[Hit(CUT, 1.0, 2.0)]).good
    assert outcome(0, hits=[Hit(CUT, 1.0)], stall_s=29.0, growth_mb=10.0).good


LOG = b"""
[taskiq.process-manager][INFO   ][MainProcess] Started process worker-0 with pid 10
[taskiq.receiver.receiver][INFO   ][worker-0] Listening started.
[taskiq.process-manager][INFO   ][MainProcess] worker-0 is dead. Scheduling reload.
[taskiq.process-manager][INFO   ][MainProcess] Process worker-0 restarted with pid 11
bridge.errors.QueueError: cannot use RabbitMQ
[taskiq.process-manager][INFO   ][MainProcess] worker-0 is dead. Scheduling reload.
[taskiq.process-manager][INFO   ][MainProcess] Process worker-0 restarted with pid 12
[taskiq.receiver.receiver][INFO   ][worker-0] Listening started.
[taskiq.process-manager][INFO   ][MainProcess] worker-0 is dead. Scheduling reload.
[taskiq.process-manager][INFO   ][MainProcess] Started process worker-0 with pid 13
[taskiq.receiver.receiver][INFO   ][worker-0] Listening started.
[taskiq.process-manager][INFO   ][MainProcess] Workers are scheduled for shutdown.
"""


def test_taskiq_says_it_so():
    said = inspect.getsource(process_manager)
    for text in (
        "Started process worker-%d with pid %s",
        "Process %s restarted with pid %s",
        "%s is dead. Scheduling reload.",
    ):
        assert text in said


def test_a_worker_process_that_died_by_itself_is_noticed():
    assert died_by_themselves(LOG, {10, 12}) == []
    assert died_by_themselves(LOG, {12}) == [10]
    assert died_by_themselves(LOG, set()) == [10, 12]
    assert died_by_themselves(b"", set()) == []
