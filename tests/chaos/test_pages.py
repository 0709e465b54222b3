"""Both kinds of runs have their place in the docs, and their own columns there."""

from pathlib import Path

import pytest
from bridgechaos import pages
from bridgechaos.outcome import Hit, Options, Outcome
from bridgechaos.plan import Fault

PAGE = Path(__file__).parent.parent.parent / "docs" / "chaos.md"
OPTIONS = {"faults": 2, "tasks": 9, "per_s": 1.0, "longest_s": 1.0, "settle_s": 1.0}


def outcome(rounds, *recoveries, command=""):
    hits = [
        Hit(Fault(number, 0.0, "cut", f"link-{number}", 1.0, 0.5), recovery_s, 7.0)
        for number, recovery_s in enumerate(recoveries)
    ]
    return Outcome(Options(seed=1, rounds=rounds, command=command, **OPTIONS), hits=hits)


def test_a_run_is_written_between_its_own_marks(tmp_path):
    copy = tmp_path / "chaos.md"
    copy.write_text(PAGE.read_text())
    for rounds in (0, 1):
        pages.publish(outcome(rounds, 0.5, 1.5), copy)
    text = copy.read_text()
    assert "| cut | 2 | 0 | 1.00 | 1.50 |\n" in text
    assert "| cut | 2 | 0 | 1.00 | 1.50 | link-1 | 7.00 | 7.00 |" in text
    assert text.index(pages.TOGETHER[1]) < text.index(pages.ALONE[0])
    with pytest.raises(ValueError, match="the page has no"):
        pages.inserted("nothing", "text", pages.ALONE)


def test_what_did_not_recover_is_the_slowest():
    text = pages.render(outcome(1, 3.0, None))
    assert "| cut | 2 | 0 | 3.00 | never | link-1 |" in text
    assert "no recovery from cut of link-1" in text


def test_nobody_recovers_from_what_hit_nobody():
    found = outcome(1, 0.1, 3.0)
    found.hits[0].nobody = True
    assert "| cut | 2 | 1 | 3.00 | 3.00 | link-1 |" in pages.render(found)
    found.hits[1].nobody = True
    text = pages.render(found)
    assert "| cut | 2 | 2 | - | - |  | - | - |" in text
    assert "| faults that hit nobody | 2 |" in text


def test_a_run_says_how_it_was_asked_for():
    text = pages.render(outcome(0, 1.0, command="chaos/run.py --minutes 75"))
    assert "`chaos/run.py --minutes 75`, begun " in text
    assert "1 faults over 9 tasks in 0.15 minutes, seed 1, on " in text
    assert "for up to 1 s; at the end all had 1 s to end in. The ledger balances." in text
