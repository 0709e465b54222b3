"""What a process loads, looked at from inside a fresh one; and the import walls."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def loaded_after(statement: str, modules: list[str]) -> str:
    code = f"import sys; {statement}; print(*[m for m in {modules} if m in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


HEAVY = ["torch", "lightning", "datasets", "onnx", "onnxruntime", "sklearn"]


def test_the_inference_worker_never_loads_torch():
    assert loaded_after("import bridge.tasks.inference, bridge.tasks.training", HEAVY) == ""


def test_the_client_loads_neither_torch_nor_tritonclient():
    assert loaded_after("import bridge.client", [*HEAVY, "tritonclient", "grpc"]) == ""


def test_the_command_line_starts_without_what_it_may_not_need():
    assert loaded_after("import bridge.cli.app", HEAVY) == ""


@pytest.mark.parametrize("module", ["bridge", "bridge.errors", "bridge.names"])
def test_a_low_room_loads_no_other(module):
    others = ["bridge.settings", "bridge.broker", "bridge.client", "taskiq", "numpy"]
    assert loaded_after(f"import {module}", others) == ""


def test_the_walls_hold():
    lint = Path(sys.executable).parent / "lint-imports"
    ran = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
