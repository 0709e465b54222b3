"""One model: which version, how fast, where the time goes, which errors."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.board import board, choice
from bridgeboards.panels import (
    BAD_ABOVE_ZERO,
    OUTCOME_COLOURS,
    lines,
    number,
    per_second,
    quantile,
)

_THIS = 'model="$model"'
_UNANSWERED = 'model="$model", outcome=~"failed|dead-lettered|expired"'


def model() -> Dashboard:
    """The dashboard `bridge-model`."""
    return board(
        "bridge-model",
        "Bridge · One model",
        "Which version, how fast, where the time goes, which errors.",
        {
            "Is it served, and how much waits?": _state(),
            "Does it answer?": _answers(),
            "Where does the time go?": _times(),
            "Are its batches full, is Triton the limit?": _batches(),
        },
        variables=[choice("model", "Model", "bridge_model_info")],
    )


def _state() -> list[object]:
    return [
        number(
            "Version",
            f"max by (version) (bridge_model_info{{{_THIS}}} == 1)",
            "What inference gets at the moment.",
            legend="version {{version}}",
            by_name=True,
        ),
        number(
            "Processes that hold it back",
            f"sum(bridge_model_paused{{{_THIS}}}) or vector(0)",
            "The model is unloaded, loading or crashed: its tasks wait in the delay queues.",
            steps=BAD_ABOVE_ZERO,
        ),
        number(
            "Backlog",
            f"max(bridge_backlog_seconds{{{_THIS}}})",
            "Waiting messages × the time that one takes.",
            unit="s",
            steps=((None, "green"), (60, "orange"), (600, "red")),
        ),
        number(
            "Tasks a second",
            f"sum(rate(bridge_tasks_total{{{_THIS}}}[$__rate_interval]))",
            "That came to their end, whichever.",
            unit="ops",
        ),
        number(
            "Share that failed or expired",
            f"sum(rate(bridge_tasks_total{{{_UNANSWERED}}}[$__rate_interval]))"
            f" / sum(rate(bridge_tasks_total{{{_THIS}}}[$__rate_interval]))",
            "Wrong inputs of callers count too, and deadlines that passed first.",
            unit="percentunit",
            steps=((None, "green"), (0.05, "red")),
        ),
        number(
            "One request to Triton (p99)",
            quantile(0.99, "bridge_triton_seconds", where=_THIS),
            "Seen from the worker: with the network and Triton's own queue.",
            unit="s",
        ),
    ]


def _answers() -> list[object]:
    return [
        lines(
            "Tasks a second, by outcome",
            {"{{outcome}}": per_second("bridge_tasks_total", by="outcome", where=_THIS)},
            "Tasks that came to their end.",
            unit="ops",
            colours=OUTCOME_COLOURS,
        ),
        lines(
            "Tasks a second, by version",
            {
                "version {{version}}": per_second(
                    "bridge_tasks_total", by="version", where=f'{_THIS}, version!~"|unknown"'
                )
            },
            "A rollout is one curve that takes over from another.",
            unit="ops",
        ),
        lines(
            "Tries that come back, by error",
            {"{{error}}": per_second("bridge_retries_total", by="error", where=_THIS)},
            "Errors that may pass; the task runs again after a while.",
            unit="ops",
            runbook="BridgeRetries",
        ),
    ]


def _times() -> list[object]:
    return [
        lines(
            "In the bridge",
            {
                "batch p50": quantile(0.5, "bridge_batch_wait_seconds", where=_THIS),
                "batch p99": quantile(0.99, "bridge_batch_wait_seconds", where=_THIS),
                "Triton p50": quantile(0.5, "bridge_triton_seconds", where=_THIS),
                "Triton p99": quantile(0.99, "bridge_triton_seconds", where=_THIS),
            },
            "Batch: a row waits for its turn. Triton: one request, from the worker's side.",
            unit="s",
            width=12,
        ),
        lines(
            "Inside Triton (mean of a request)",
            {
                "queue": _inside("queue"),
                "input": _inside("compute_input"),
                "compute": _inside("compute_infer"),
                "output": _inside("compute_output"),
            },
            "Triton's own count, callers of gRPC included. Queue: more instances or a smaller load "
            "would help. Compute: the model.",
            unit="s",
            width=12,
        ),
    ]


def _inside(stage: str) -> str:
    spent = f"sum(rate(nv_inference_{stage}_duration_us{{{_THIS}}}[$__rate_interval]))"
    return f"{spent} / sum(rate(nv_inference_request_success{{{_THIS}}}[$__rate_interval])) / 1e6"


def _batches() -> list[object]:
    return [
        lines(
            "Rows in a request",
            {
                "p50": quantile(0.5, "bridge_batch_rows", where=_THIS),
                "p99": quantile(0.99, "bridge_batch_rows", where=_THIS),
            },
            "Full batches under load are good; rows of one at load are not.",
        ),
        lines(
            "Requests in flight, and their limit",
            {
                "in flight": f"sum(bridge_requests_in_flight{{{_THIS}}})",
                "limit": f"sum(bridge_requests_limit{{{_THIS}}})",
            },
            "Of all worker processes. At the limit: Triton is as busy as it is useful.",
        ),
        lines(
            "Requests a second at Triton",
            {
                outcome: f"sum(rate(nv_inference_request_{kind}{{{_THIS}}}[$__rate_interval]))"
                for outcome, kind in (("succeeded", "success"), ("failed", "failure"))
            },
            "Batches, as Triton counts them, with those of callers of gRPC.",
            unit="reqps",
            colours={"succeeded": "green", "failed": "red"},
        ),
    ]
