"""A model for Triton's Python backend: an ONNX file, with moods, that keeps a diary.

Copied into the repository as `<model>/1/model.py`; Triton runs it. Rows name themselves: the first
column is a serial number, the second a wish. Each row that is run is written down first, so that
executions can be counted whatever is killed. Parameters: `diary`, `slow_file`.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

FAIL, CRASH, SLOW = 1.0, 2.0, 3.0
_SLOW_S = 0.2


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the ONNX file; open the diary."""
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        places = (folder / "places.txt").read_text().splitlines()
        self._diary = os.open(places[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._slow_file = Path(places[1])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself, as the wishes in its rows say."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        os.write(self._diary, x[:, 0].astype("<u4").tobytes())
        wishes = set(x[:, 1].tolist())
        if CRASH in wishes:
            os.kill(os.getpid(), signal.SIGKILL)
        if FAIL in wishes:
            return pb_utils.InferenceResponse([], pb_utils.TritonError("a row wished to fail"))
        if SLOW in wishes or self._slow_file.exists():
            time.sleep(_SLOW_S)
        (y,) = self._session.run(["y"], {"x": np.ascontiguousarray(x)})
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", y)])
