"""Triton: is it up, what does each model get, how long, and has its machine room?"""

from grafana_foundation_sdk.models.dashboard import Dashboard

from bridgeboards.board import board
from bridgeboards.panels import GOOD_AT_ONE, lines, number

# Candidates are a training's trial runs, under names of their own.
_SERVED = 'model!~".+[.]candidate-.+"'
GPU = "GPU: "
"""Begins the titles of panels that have data only where Triton sees an NVIDIA GPU."""


def triton() -> Dashboard:
    """The dashboard `bridge-triton`."""
    return board(
        "bridge-triton",
        "Bridge · Triton",
        "Is it up, what does each model get, how long, and has its machine room?",
        {
            "Is it up?": _state(),
            "How long, in Triton?": _times(),
            "Has its machine room?": _machine(),
            "And the GPU? (empty where Triton sees none)": _gpu(),
        },
    )


def _rate(metric: str, *, more: str = "") -> str:
    return f"sum by (model) (rate({metric}{{{_SERVED}{more}}}[$__rate_interval]))"


def _state() -> list[object]:
    return [
        number(
            "Triton",
            'sum(up{job="triton"}) or vector(0)',
            "Servers that Prometheus reaches.",
            steps=GOOD_AT_ONE,
            words={"0": "DOWN"},
            height=8,
        ),
        number(
            "Models",
            f"count(count by (model) (nv_inference_request_success{{{_SERVED}}}))",
            "That are loaded.",
            height=8,
        ),
        lines(
            "Requests a second",
            {"{{model}}": f"{_rate('nv_inference_request_success')} > 0"},
            "That succeeded: batches of the bridge's, and calls by gRPC. Idle models are left out.",
            unit="reqps",
        ),
        lines(
            "Requests that failed",
            {
                "{{reason}}": "sum by (reason) "
                f"(rate(nv_inference_request_failure{{{_SERVED}}}[$__rate_interval]))"
            },
            "REJECTED: Triton's queue was full, or a deadline passed. BACKEND: the model. "
            "CANCELED: nobody wanted the answer any more.",
            unit="reqps",
        ),
    ]


def _times() -> list[object]:
    done = _rate("nv_inference_request_success")
    return [
        lines(
            "A request (mean)",
            {"{{model}}": f"{_rate('nv_inference_request_duration_us')} / {done} / 1e6"},
            "With Triton's own queue.",
            unit="s",
            width=6,
        ),
        lines(
            "Of which in Triton's queue (mean)",
            {"{{model}}": f"{_rate('nv_inference_queue_duration_us')} / {done} / 1e6"},
            "Most of the request: more instances, or a GPU that is shared too often.",
            unit="s",
            width=6,
        ),
        lines(
            "Rows in an execution (mean)",
            {"{{model}}": f"{_rate('nv_inference_count')} / {_rate('nv_inference_exec_count')}"},
            "What batching gives, the bridge's and Triton's together.",
            width=6,
        ),
        lines(
            "Requests that wait in Triton",
            {"all models": f"sum(nv_inference_pending_request_count{{{_SERVED}}})"},
            "The bridge keeps this short: it waits in RabbitMQ.",
            width=6,
        ),
    ]


def _machine() -> list[object]:
    return [
        lines(
            "CPU",
            {"{{instance}}": "nv_cpu_utilization"},
            "Of the machine that Triton runs on.",
            unit="percentunit",
            width=12,
        ),
        lines(
            "Memory",
            {
                "used": "sum(nv_cpu_memory_used_bytes)",
                "total": "sum(nv_cpu_memory_total_bytes)",
            },
            "Of the machine that Triton runs on.",
            unit="bytes",
            width=12,
        ),
    ]


def _gpu() -> list[object]:
    gpu = "{{instance}} {{gpu_uuid}}"
    return [
        lines(
            f"{GPU}utilisation",
            {gpu: "nv_gpu_utilization"},
            "Low under load: batches are too small, or the CPU is the limit.",
            unit="percentunit",
        ),
        lines(
            f"{GPU}memory",
            {gpu: "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes"},
            "Share in use. Full: loading the next version fails.",
            unit="percentunit",
            steps=((None, "green"), (0.95, "red")),
            runbook="BridgeGpuMemory",
        ),
        lines(
            f"{GPU}power",
            {gpu: "nv_gpu_power_usage", f"{gpu} limit": "nv_gpu_power_limit"},
            "At the limit it clocks down.",
            unit="watt",
        ),
    ]
