"""Both kinds of runs have their place in the docs, and their own columns there."""

from pathlib import Path

import pytest
from bridgechaos import pages
from bridgechaos.plan import Fault
from bridgechaos.session import Hit, Options, Outcome

PAGE = Path(__file__).parent.parent.parent / "docs" / "chaos.md"
OPTIONS = {"faults": 2, "tasks": 9, "per_s": 1.0, "longest_s": 1.0, "settle_s": 1.0}


def outcome(rounds, *recoveries):
    hits = [
        Hit(Fault(number, 0.0, "cut", f"link-{number}", 1.0, 0.5), recovery_s, 7.0)
        for number, recovery_s in enumerate(recoveries)
    ]
    return Outcome(Options(seed=1, rounds=rounds, **OPTIONS), hits=hits)


def test_a_run_is_written_between_its_own_marks(tmp_path):
    copy = tmp_path / "chaos.md"
    copy.write_text(PAGE.read_text())
    for rounds in (0, 1):
        pages.publish(outcome(rounds, 0.5, 1.5), copy)
    text = copy.read_text()
    assert "| cut | 2 | 1.00 | 1.50 |\n" in text
    assert "| cut | 2 | 1.00 | 1.50 | link-1 | 7.00 | 7.00 |" in text
    assert text.index(pages.TOGETHER[1]) < text.index(pages.ALONE[0])
    with pytest.raises(ValueError, match="the page has no"):
        pages.inserted("nothing", "text", pages.ALONE)


def test_what_did_not_recover_is_the_slowest():
    text = pages.render(outcome(1, 3.0, None))
    assert "| cut | 2 | 3.00 | never | link-1 |" in text
    assert "no recovery from cut of link-1" in text
