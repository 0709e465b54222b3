"""An answer of another shape is wrong; repetitions are compared with those that ran beside them."""

import numpy as np
import pytest
from bridgebench.findings import Report
from bridgebench.models import Models
from bridgebench.scenarios import growth


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("repository"))


def test_an_answer_is_right_only_in_its_own_shape(models):
    rows = models.rows.shape[0]
    right = models._answers[3:4]
    assert models.is_right(3, right)
    assert models.is_right(3 + rows, right)
    assert not models.is_right(4, right)
    for wrong in (right[:0], right[:, :0], right[0], np.vstack([right, right]), np.float32(0)):
        assert not models.is_right(3, wrong)
    assert models.are_right(models._answers)
    assert not models.are_right(models._answers[:1])


def test_a_repetition_without_a_figure_shifts_no_other():
    report = Report("growth", "How it grows")
    series = {
        "direct gRPC": {1: [10.0, 20.0, 40.0], 2: [1.0, 1.0, 1.0]},
        "ours": {1: [None, 10.0, 20.0], 2: [None, None, None]},
        "ours, beside": {2: [3.0, None, 3.0]},
    }
    growth._show(report, "sizes", "Size", "bytes", "MB/s", series)
    assert report.tables[0].rows == (
        ("1", "0.5×", "20 (10 to 40)", "15 (10 to 20)", "-"),
        ("2", "-", "1", "-", "3"),
    )
    assert report.data["sizes"]["series"]["ours"] == {"1": [10.0, 20.0]}


def test_one_way_alone_is_compared_with_its_first_point():
    report = Report("growth", "How it grows")
    series = {"ours, binary": {1: [10.0, 20.0], 10: [5.0, 5.0]}}
    growth._show(report, "models", "Models", "models", "tasks/s", series)
    assert report.tables[0].columns[1] == "of 1"
    assert report.tables[0].rows[1][:2] == ("10", "0.375× (0.25 to 0.5)")
