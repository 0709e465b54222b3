"""Trainings: does it learn, how fast, is the last checkpoint young, did it go live?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.board import board
from bridgeboards.panels import GOOD_AT_ONE, OUTCOME_COLOURS, lines, number, per_second

_JOBS = {"running": "is trained", "waiting": "wait for a worker", "paused": "paused by a person"}


def training() -> Dashboard:
    """The dashboard `bridge-training`."""
    return board(
        "bridge-training",
        "Bridge · Training",
        "Does it learn, how fast, is the last checkpoint young, did it go live?",
        {
            "Is anything trained?": _jobs(),
            "Does it learn?": _learning(),
            "What would a crash cost, and does it go live?": _safety(),
        },
    )


def _jobs() -> list[object]:
    return [
        number(
            "Training pools",
            'sum(up{job="bridge-training"}) or vector(0)',
            "Pools that Prometheus reaches. 0: trainings wait.",
            steps=GOOD_AT_ONE,
            words={"0": "DOWN"},
            width=6,
        ),
        *(
            number(
                state.capitalize(),
                f'max(bridge_training_jobs{{state="{state}"}})',
                f"Trainings: {about}.",
                width=6,
            )
            for state, about in _JOBS.items()
        ),
    ]


def _learning() -> list[object]:
    return [
        lines(
            "Loss",
            {"{{model}}": "max by (model) (bridge_training_loss)"},
            "Of the last epoch. NaN or rising: see the training's logs.",
            unit="none",
        ),
        lines(
            "Epoch",
            {"{{model}}": "max by (model) (bridge_training_epoch)"},
            "Flat while running: it hangs, or an epoch takes long.",
            unit="none",
        ),
        lines(
            "Samples a second",
            {"{{model}}": "max by (model) (bridge_training_samples_per_second)"},
            "A fall: another job on the machine, a slow disk, or training that gives way to "
            "inference.",
        ),
    ]


def _safety() -> list[object]:
    return [
        lines(
            "Age of the last checkpoint",
            {"{{model}}": "time() - max by (model) (bridge_training_checkpoint_timestamp_seconds)"},
            "What a crash costs at this moment. A saw tooth is healthy.",
            unit="s",
            steps=((None, "green"), (900, "red")),
            width=6,
            runbook="BridgeCheckpointOld",
        ),
        lines(
            "Slices, by outcome",
            {"{{model}} {{outcome}}": "sum by (model, outcome) (bridge_training_slices_total)"},
            "Since the pools started. Continued is normal: a long training goes in slices.",
            width=6,
            runbook="BridgeTrainingFailed",
        ),
        lines(
            "Models that went live, or not",
            {"{{model}} {{outcome}}": "sum by (model, outcome) (bridge_model_loads_total)"},
            "Loaded: the new version is served. Refused: the old one serves on. Reloaded: a "
            "crashed model was brought back.",
            width=6,
            runbook="BridgeModelRefused",
        ),
        lines(
            "Trainings that ended, by outcome",
            {
                "{{outcome}}": per_second(
                    "bridge_tasks_total", by="outcome", where='task="train_model"'
                ),
            },
            "Whole trainings, not slices.",
            colours=OUTCOME_COLOURS,
            unit="ops",
            width=6,
        ),
    ]
