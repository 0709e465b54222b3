"""What is shown of a training that nobody knows, or nobody takes."""

from bridge.cli import training_view
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


def test_why_it_waits_for_another_turn_is_told_until_that_begins():
    view = TrainingView("t")
    report = {"epoch": 1, "epochs": 2, "step": 3, "steps": 6}
    view.heard(Job("t", "queued", 0, 1, "", pausing=False), {**report, "hindered": "no room"})
    assert view.line().startswith("queued, epoch 1/2, step 3/6")
    assert view.line().endswith("the last turn failed: no room")
    view.heard(Job("t", "running", 0, 2, "w", pausing=False), {**report, "hindered": "no room"})
    assert view.trouble == ""


def test_one_that_no_worker_takes_is_told_from_one_that_is_new(monkeypatch):
    view = TrainingView("t")
    view.heard(Job("t", "queued", 0, 0, "", pausing=False), None)
    assert view.line() == "queued"
    monkeypatch.setattr(training_view, "_SILENT_S", -1.0)
    assert view.line() == "queued: no training worker has taken it yet (mlbridge status)"
    report = {"epoch": 1, "epochs": 2, "step": 3, "steps": 6}
    view.heard(Job("t", "queued", 0, 1, "", pausing=False), report)
    assert view.line().startswith("queued: waits for its next turn (")
