"""Backlog in seconds: shares of what waits, and what a message took."""

import pytest

from bridge.metrics.backlog import Pace, Work, backlog


def serve(work, model, messages, *, start, seconds):
    """So many messages of a model, taken together, ended one after the other."""
    for _ in range(messages):
        work.begin(model, start)
    for number in range(messages):
        work.end(model)
        work.leave(model, start + seconds * (number + 1) / messages)


def test_a_message_takes_what_its_model_took_of_late():
    work = Work(0.0)
    serve(work, "slow", 10, start=0.0, seconds=2.0)
    serve(work, "fast", 30, start=0.0, seconds=0.3)
    seen = work.sample(2.0)
    # 400 wait: 100 slow ones of 0.2 s, 300 fast ones of 0.01 s.
    assert backlog(400, [seen]) == pytest.approx({"slow": 20.0, "fast": 3.0})
    assert backlog(0, [seen]) == {"slow": 0.0, "fast": 0.0}


def test_processes_work_side_by_side():
    seen = {"m": Pace(weight=5, seconds=1.0, messages=10)}
    assert backlog(100, [seen]) == pytest.approx({"m": 10.0})
    assert backlog(100, [seen, seen]) == pytest.approx({"m": 5.0})
    # One that has not yet served any does not help, but what it took counts as an arrival.
    assert backlog(100, [seen, {"m": Pace(5, 0.0, 0.0)}]) == pytest.approx({"m": 10.0})


def test_a_model_of_which_none_has_ended_has_no_figure():
    work = Work(0.0)
    work.begin("new", 0.0)
    assert backlog(10, [work.sample(1.0)]) == {}
    assert backlog(10, []) == {}


def test_a_message_that_comes_back_was_not_served():
    work = Work(0.0)
    serve(work, "m", 10, start=0.0, seconds=1.0)
    work.begin("m", 1.0)
    work.leave("m", 2.0)
    assert backlog(10, [work.sample(2.0)]) == pytest.approx({"m": 2.0})


def test_time_with_nothing_in_hand_counts_for_nothing():
    work = Work(0.0)
    serve(work, "m", 10, start=0.0, seconds=1.0)
    first = work.sample(1.0)
    later = work.sample(10_000.0)
    assert later == first


def test_what_is_seen_later_counts_more():
    work = Work(0.0)
    serve(work, "m", 100, start=0.0, seconds=10.0)
    work.sample(10.0)
    for minute in range(1, 11):
        serve(work, "m", 1000, start=minute * 60.0, seconds=10.0)
        work.sample(minute * 60.0 + 10.0)
    assert backlog(1000, [work.sample(700.0)])["m"] == pytest.approx(10.0, rel=0.01)

    serve(work, "other", 5000, start=800.0, seconds=10.0)
    shares = backlog(1, [work.sample(810.0)])
    assert shares["m"] < shares["other"] / 2


def test_one_model_in_hand_all_the_time_is_busy_all_the_time():
    work = Work(0.0)
    work.begin("m", 0.0)
    for second in range(1, 6):
        work.begin("m", second - 0.5)
        work.end("m")
        work.leave("m", float(second))
        seen = work.sample(float(second))
    # One a second, whatever the samples cut the time into.
    assert backlog(10, [seen])["m"] == pytest.approx(10.0)
