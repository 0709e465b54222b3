"""`mlbridge cancel` of what is known and what is not, on a Redis alone."""

import asyncio
import json
import uuid

import pytest
from typer.testing import CliRunner

from bridge.cli.app import app
from bridge.jobs import Jobs

QUEUE = "cancel-training"


@pytest.fixture
def cancel(redis_server):
    environment = {"REDIS_URL": redis_server.url, "TASKIQ_ML_TRAINING_QUEUE": QUEUE}

    async def run(*arguments):  # in a thread: the command has an event loop of its own
        return await asyncio.to_thread(
            CliRunner().invoke, app, ["cancel", *arguments], env=environment
        )

    return run


@pytest.fixture
async def training(redis):
    task_id = uuid.uuid4().hex
    await Jobs(redis, QUEUE, lease_s=60, keep_s=60).register(task_id, 0)
    return task_id


async def test_a_training_that_is_known(cancel, training):
    result = await cancel(training)
    assert (result.exit_code, result.stdout) == (0, f"{training}: cancelled\n")
    result = await cancel(training)
    assert (result.exit_code, result.stdout) == (1, f"{training}: has ended already\n")


@pytest.mark.parametrize("name", ["typo-{}", "[red]order:42/{}"])
async def test_what_no_training_is_known_of(cancel, name):
    task_id = name.format(uuid.uuid4().hex)
    result = await cancel(task_id)
    told = "cancelled; no training of this id is known (right for an inference)"
    assert (result.exit_code, result.stdout) == (0, f"{task_id}: {told}\n")
    other = name.format(uuid.uuid4().hex)
    result = await cancel(other, "--json")
    assert json.loads(result.stdout) == [{"task_id": other, "cancelled": True, "what": told}]
