"""What is shown of a training that nobody knows."""

from bridge.cli.training_view import TrainingView
from bridge.jobs import Job


def test_an_id_that_nobody_knows_is_told_and_one_that_was_known_is_not():
    view = TrainingView("typo")
    view.heard(None, None)
    assert view.line() == "queued, no training of this id is known (yet)"
    view.heard(Job("typo", "queued", 0, 0, "", pausing=False), None)
    assert view.line() == "queued"
    view.heard(None, None)  # it has ended, and its result is on its way
    assert view.trouble == ""


def test_a_report_is_news_enough():
    view = TrainingView("t")
    view.heard(None, {"stage": "publishing"})
    assert view.line() == "publishing"
