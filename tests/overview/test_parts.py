"""Parts that can be judged without asking anybody."""

from bridge.overview.parts import UP, consumers
from bridge.queues import QueueDepth


def test_workers_of_a_queue_that_cannot_be_reached_are_unknown():
    found = consumers("inference", "q", None)
    assert found.state == "unknown: its queue cannot be reached"
    for depths in ([], [QueueDepth("q", 3, 0)], [QueueDepth("other", 3, 1)]):
        assert consumers("inference", "q", depths).state.startswith("no consumer on the queue")
    assert consumers("inference", "q", [QueueDepth("q", 3, 1)]).state == UP
