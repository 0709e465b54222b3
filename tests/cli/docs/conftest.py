"""A terminal beside `mlbridge up`, in which the pages' commands are typed."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from onnx import helper

from bridge.embedded.rabbitmq import RabbitMQServer

# What a page leaves to its reader: a program around its lines, which may wait for things.
_PROGRAM = """
import asyncio
from bridge.client import BridgeClient


async def main():
{body}


asyncio.run(main())
"""


class Terminal:
    """Runs what a page says; all pages share a folder and the stack."""

    def __init__(self, stack, amqp_url):
        self.folder = stack.folder
        self.packages = Path(stack.environment["PYTHONPATH"])
        self.ran = set()  # names of blocks and of what was prepared for them
        found = urlsplit(stack.environment["REDIS_URL"])
        programs = f"{Path(sys.executable).parent}{os.pathsep}{stack.environment['PATH']}"
        self.environment = {
            **stack.environment,
            "PATH": programs,
            "AMQP_URL": amqp_url,
            "REDIS_PASSWORD": found.password,
            "REDIS_PORT": str(found.port),
        }

    def shell(self, text, stdin=""):
        """What it printed; each of its commands must succeed."""
        return self._run("bash", "-euo", "pipefail", "-c", text, stdin=stdin)

    def python(self, text, given="", within=""):
        """As the body of a coroutine, after `given`; both within a block that `within` opens."""
        body = textwrap.indent(f"import numpy as np\n{given}\n{text}", "    ")
        body = textwrap.indent(f"{within}:\n{body}" if within else textwrap.dedent(body), "    ")
        return self._run(sys.executable, "-P", "-c", _PROGRAM.format(body=body))

    def _run(self, *command, stdin=""):
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
async def terminal(state, rabbitmq, open_up, save_model, save_multiplier, tmp_path_factory):
    """Its RabbitMQ has the management page, as that of docker-compose.yml has."""
    del rabbitmq  # it has seen to it that RabbitMQ is installed
    folder = tmp_path_factory.mktemp("docs")
    (packages := folder / "packages").mkdir()
    async with RabbitMQServer(state, management=True) as server:
        changes = {
            "RABBITMQ_PORT": str(server.port),
            "RABBITMQ_USERNAME": server.username,
            "RABBITMQ_PASSWORD": server.password,
            "MANAGEMENT_PORT": str(server.management_port),
            "PYTHONPATH": str(packages),  # where a reader's own package will be installed
            "BRIDGE_PAYLOAD_URL": f"file://{folder}/payloads",
        }
        with open_up(folder, **changes) as stack:
            save_model(
                folder / "model_repository",
                "compare",
                [helper.make_node("Sub", ["image", "reference"], ["difference"])],
                [("reference", "FP32", [4]), ("image", "FP32", [4])],
                [("difference", "FP32", [4])],
            )
            laid = save_multiplier(tmp_path_factory.mktemp("made"), "halver", 0.5)
            shutil.copy(laid / "1" / "model.onnx", folder / "halver.onnx")
            stack.up("--workers", "1")
            yield Terminal(stack, server.url)
