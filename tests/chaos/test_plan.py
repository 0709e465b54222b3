"""The schedule follows from the seed."""

import pytest
from bridgechaos.plan import draw, draw_each

TARGETS = {"cut": ["one", "two"], "killed": ["three"], "paused": ["four"]}


def test_a_seed_repeats_its_schedule():
    plans = [draw(seed, TARGETS, 50, 20, 3) for seed in (5, 5, 6)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_every_kind_comes_before_any_comes_twice():
    plan = draw(1, TARGETS, 6, 20, 3)
    assert sorted(fault.kind for fault in plan) == sorted([*TARGETS, *TARGETS])
    assert all(fault.target in TARGETS[fault.kind] for fault in plan)
    assert all(0.5 <= fault.lasts_s <= 3 for fault in plan)


def test_one_at_a_time_each_kind_comes_on_each_target_in_each_round():
    plan = draw_each(1, TARGETS, 2, 3)
    pairs = [(fault.kind, fault.target) for fault in plan]
    every = [("cut", "one"), ("cut", "two"), ("killed", "three"), ("paused", "four")]
    assert sorted(pairs[:4]) == sorted(pairs[4:]) == every
    assert plan == draw_each(1, TARGETS, 2, 3)
    assert len({fault.number for fault in plan}) == 8


def test_where_nothing_can_break_no_fault_is_drawn():
    with pytest.raises(ValueError, match="nothing to break"):
        draw(1, {}, 1, 20, 3)
    assert draw(1, {}, 0, 20, 3) == []
