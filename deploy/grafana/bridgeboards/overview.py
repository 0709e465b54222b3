"""The first page at three in the morning: is it up, who waits, how long, what to do."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.board import board
from bridgeboards.panels import (
    BAD_ABOVE_ZERO,
    GOOD_AT_ONE,
    OUTCOME_COLOURS,
    lines,
    number,
    per_second,
    quantile,
    rows,
    seconds_in_queue,
    words,
)

_UP = {"0": "DOWN"}
_FAILED, _EXPIRED = 'outcome=~"failed|dead-lettered"', 'outcome="expired"'
_START = """
1. **Red above?** That part first: all else follows from it. **All green, and people wait?** Go on.
2. **Backlog grows**: are workers paused? Else open *One model* and see where the time goes.
3. **Errors**: *One model* tells which error, *Queue* shows the dead letters.

```sh
mlbridge status      # parts, queues, who consumes; exit code 1 when a part is missing
mlbridge models      # what Triton serves
mlbridge dlq list    # what was given up, and why
```

Every alert has a section in the [run book](/d/bridge-runbook/run-book).
"""


def overview() -> Dashboard:
    """The dashboard `bridge-overview`."""
    return board(
        "bridge-overview",
        "Bridge · Overview",
        "Is it up, who waits, how long, which model, since which version, what to do.",
        {
            "Is it up?": _is_it_up(),
            "Who waits, and how long?": _who_waits(),
            "What comes out?": _what_comes_out(),
            "Which model, in which version, since when?": [_models()],
            "What to do?": [_firing(), words("Where to begin", _START, width=12, height=8)],
        },
    )


def _is_it_up() -> list[object]:
    pools = 'sum(up{{job="{job}"}}) or vector(0)'
    return [
        number(
            "Inference pools",
            pools.format(job="bridge-inference"),
            "Pools that Prometheus reaches. 0: nothing is predicted.",
            steps=GOOD_AT_ONE,
            words=_UP,
        ),
        number(
            "Training pools",
            pools.format(job="bridge-training"),
            "Pools that Prometheus reaches. 0: trainings wait, crashed models stay away.",
            steps=GOOD_AT_ONE,
            words=_UP,
        ),
        number(
            "Triton",
            'sum(up{job="triton"}) or vector(0)',
            "Servers that Prometheus reaches. 0: consumption pauses, messages wait.",
            steps=GOOD_AT_ONE,
            words=_UP,
        ),
        number(
            "RabbitMQ",
            'sum(up{job="rabbitmq"}) or vector(0)',
            "Nodes that Prometheus reaches.",
            steps=GOOD_AT_ONE,
            words=_UP,
        ),
        number(
            "Paused processes",
            "sum(bridge_paused)",
            "Worker processes that take nothing, as Triton is away.",
            steps=BAD_ABOVE_ZERO,
        ),
        number(
            "Firing alerts",
            'count(ALERTS{alertstate="firing"}) or vector(0)',
            "See the table below.",
            steps=BAD_ABOVE_ZERO,
        ),
    ]


def _who_waits() -> list[object]:
    return [
        lines(
            "Backlog, in seconds of work",
            {"{{model}}": "max by (model) (bridge_backlog_seconds)"},
            "Waiting messages × the time that one takes: how long the last in the queue will wait. "
            "The number to scale on.",
            unit="s",
            steps=((None, "green"), (60, "orange"), (600, "red")),
            runbook="BridgeBacklog",
        ),
        lines(
            "Messages that wait, by queue",
            {"{{queue}}": "max by (queue) (rabbitmq_detailed_queue_messages_ready)"},
            "As RabbitMQ counts them, so also while no worker runs. `.delay` queues hold what is "
            "tried again later.",
        ),
        seconds_in_queue(),
    ]


def _what_comes_out() -> list[object]:
    failed = per_second("bridge_tasks_total", by="model", where=_FAILED)
    expired = per_second("bridge_tasks_total", by="model", where=_EXPIRED)
    total = per_second("bridge_tasks_total", by="model")
    return [
        lines(
            "Tasks a second, by outcome",
            {"{{outcome}}": per_second("bridge_tasks_total", by="outcome")},
            "Tasks that came to their end.",
            unit="ops",
            colours=OUTCOME_COLOURS,
        ),
        lines(
            "Share that failed or expired, by model",
            {
                "{{model}} failed": f"{failed} / {total}",
                "{{model}} expired": f"{expired} / {total}",
            },
            "Wrong inputs of callers count as failed: One model tells which errors they are. "
            "Expired: their deadline passed first; more than 0.2 is an alert of its own.",
            unit="percentunit",
            steps=((None, "green"), (0.05, "red")),
            runbook="BridgeErrorRatio",
        ),
        lines(
            "Where a prediction's time goes (p99)",
            {
                "queue": quantile(0.99, "bridge_queue_seconds", where='task="ml_inference"'),
                "batch": quantile(0.99, "bridge_batch_wait_seconds"),
                "Triton": quantile(0.99, "bridge_triton_seconds"),
                "saving": quantile(0.99, "bridge_save_seconds"),
            },
            "The slowest hundredth at each stage. Queue: too few workers or a slow model. Batch: "
            "waiting for a free slot at Triton. Saving: Redis.",
            unit="s",
        ),
    ]


def _models() -> object:
    named, seen = "max by (model, version)", "timestamp(bridge_model_info == 1)"
    served_now = f"{named} (bridge_model_info == 1)"
    served = f" * on (model) group_right () {served_now}"
    return rows(
        "Models",
        {
            "Served for": f"{named} (time() - min_over_time({seen}[24h:15s])) and {served_now}",
            "Tasks/s": per_second("bridge_tasks_total", by="model, version") + f" and {served_now}",
            "In Triton (p99)": quantile(0.99, "bridge_triton_seconds", by="model") + served,
            "Backlog": "max by (model) (bridge_backlog_seconds)" + served,
        },
        "Served for: seconds since this version was first seen, 24 hours at most. At purple marks "
        "in the graphs another version took over.",
        by=("model", "version"),
        units={"Served for": "s", "Tasks/s": "ops", "In Triton (p99)": "s", "Backlog": "s"},
        links={"model": "/d/bridge-model/one-model?var-model=${__data.fields.model}"},
    )


def _firing() -> object:
    return rows(
        "What fires",
        {"Firing": 'max by (alertname, severity, job, model, queue) (ALERTS{alertstate="firing"})'},
        "A name leads to the run book: what it means, what to do.",
        by=("alertname", "severity", "job", "model", "queue"),
        width=12,
        links={"alertname": "/d/bridge-runbook/run-book"},
    )
