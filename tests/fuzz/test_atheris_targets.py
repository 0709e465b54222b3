"""The targets of `make fuzz` run; what they find in so short a time is a finding all the same."""

import asyncio
import os
import platform
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "atheris_targets.py"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="atheris has wheels for x86-64 alone")
@pytest.mark.parametrize("target", ["message", "task", "tensor", "result", "request"])
async def test_a_target_runs(target, tmp_path):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        SCRIPT,
        target,
        "-runs=2000",
        "-seed=1",
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # it leaves a folder there
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")[-4000:]
