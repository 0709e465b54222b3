"""How figures are summed up and shown."""

import math

import pytest
from bridgebench.findings import Finding, Report, Spread, number, percentile
from bridgebench.pages import BEGIN, END, inserted, render
from bridgebench.session import publish


def test_a_ratio_compares_what_ran_side_by_side():
    # The machine was twice as fast in the second repetition: the ratio does not move.
    ratio = Spread.ratio([10.0, 20.0], [5.0, 10.0])
    assert (ratio.low, ratio.median, ratio.high) == (2.0, 2.0, 2.0)
    assert ratio.shown("×") == "2×"


def test_a_denominator_that_cannot_be_measured_is_not_infinity():
    ratio = Spread.ratio([1.0], [0.0])
    assert math.isnan(ratio.median)
    assert ratio.shown("×") == "-"


@pytest.mark.parametrize(
    ("bounds", "value", "verdict"),
    [
        ({"at_least": 4.0}, 4.0, "met"),
        ({"at_least": 4.0}, 3.0, "missed by 25%"),
        ({"at_most": 3.0}, 2.9, "met"),
        ({"at_most": 3.0}, 6.0, "missed by 100%"),
        ({}, 1.0, ""),
    ],
)
def test_an_aim_is_met_or_missed_by_so_much(bounds, value, verdict):
    assert Finding("x", Spread.of([value]), **bounds).verdict == verdict


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.5, "1,234"), (12.34, "12.3"), (1.0, "1"), (0.0123, "0.012")]
)
def test_numbers_have_three_digits(value, shown):
    assert number(value) == shown


def test_percentiles_are_values_that_were_measured():
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile(range(1, 101), 99) == 99
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_plots_are_found_from_the_report_and_from_the_page(tmp_path):
    run = {
        "command": "run",
        "took_s": 60,
        "started": "now",
        "repetitions": 1,
        "quick": False,
        "versions": {},
        "machine": {
            "cores": 2,
            "processor": "x",
            "memory_gb": 1,
            "load_before": 0,
            "load_after": 0,
        },
    }
    (out := tmp_path / "figures").mkdir()
    report = Report("drain", "Draining", plots=["drain.png"])
    (out / "results.md").write_text(render([report], run))
    (page := tmp_path / "page.md").write_text(f"{BEGIN}\n{END}\n")
    assert "\n![Draining](drain.png)\n" in (out / "results.md").read_text()
    publish(out, page)
    assert not (out / "results.md").exists()  # one page is enough
    assert "\n![Draining](figures/drain.png)\n" in page.read_text()


def test_a_report_replaces_what_is_between_the_marks():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert inserted(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    with pytest.raises(ValueError, match="begin"):
        inserted("nothing", "new")
