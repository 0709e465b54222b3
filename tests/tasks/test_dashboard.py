"""A real Taskiq Dashboard, looked at with a real browser, shows what real workers do."""

import asyncio
import contextlib
import socket
import subprocess
import time
import uuid

import numpy as np
import pytest
from taskiq.kicker import AsyncKicker

from bridge.client import BridgeClient
from bridge.embedded.dashboard import DashboardServer
from bridge.errors import BridgeError, TaskExpiredError, UnknownModelError, UnknownTaskError
from bridge.queues import build_broker
from bridge.settings import Settings

WAIT_S = 90
INFERENCE = ["-P", "-m", "taskiq", "worker", "bridge.broker:broker", "bridge.tasks.inference"]
TRAINING = [
    *("-P", "-m", "taskiq", "worker", "bridge.broker:training_broker", "bridge.tasks.training"),
    *("--max-async-tasks", "1"),
]
VALUE = 0.1357924680  # of a tensor: nowhere to be seen


@pytest.fixture(scope="session")
def browser(find_program):
    return find_program("chromium", "chromium")


@pytest.fixture(scope="module")
async def dashboard(state):
    async with DashboardServer(state) as server:
        yield server


@pytest.fixture(scope="module")
def variables(environment, dashboard):
    name = f"shown-{uuid.uuid4().hex[:8]}"
    return environment | {
        "TASKIQ_ML_QUEUE": name,
        "TASKIQ_ML_ROUTING_KEY": name,
        "TASKIQ_ML_TRAINING_QUEUE": f"{name}-training",
        "TASKIQ_ML_TRAINING_ROUTING_KEY": f"{name}-training",
        "TASKIQ_DASHBOARD_URL": dashboard.url,
        "TASKIQ_DASHBOARD_TOKEN": dashboard.token,
    }


def settings_of(variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return Settings()


@pytest.fixture(scope="module")
async def workers(variables, module_worker):
    return await asyncio.gather(
        module_worker([*INFERENCE, "--workers", "1"], variables),
        module_worker([*TRAINING, "--workers", "1"], variables),
    )


@pytest.fixture
def looked_at(browser, dashboard, tmp_path):
    """A page as the browser has it after its scripts ran, once it says what is expected."""

    async def look(path, *expected):
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=3000"),
            *("--dump-dom", f"{dashboard.url}{path}"),
        ]
        deadline = time.monotonic() + WAIT_S
        while True:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            page = (await process.communicate())[0].decode()
            if all(text in page for text in expected):
                return page
            missing = [text for text in expected if text not in page]
            assert time.monotonic() < deadline, (missing, page)

    return look


async def test_tasks_of_both_queues_are_shown_without_their_tensors(variables, workers, looked_at):
    image = np.full((1, 4), VALUE, np.float32)
    async with BridgeClient(settings_of(variables)) as client:
        good = await client.submit("double", {"x": image})
        assert (await good.result(WAIT_S)).outputs["y"].shape == (1, 4)
        nested = await client.submit("double", {"x": [[VALUE] * 4]})
        await nested.result(WAIT_S)
        bad = await client.submit("no-such-model", {"x": image})
        with pytest.raises(UnknownModelError):
            await bad.result(WAIT_S)
        training = await client.train("no-such-data", {"architecture": "mlp"}, {"epochs": 3})
        with pytest.raises(BridgeError):
            await training.result(WAIT_S)
    queue = variables["TASKIQ_ML_QUEUE"]
    ids = [str(uuid.UUID(handle.task_id)) for handle in (good, bad, training)]  # as it writes them
    listed = await looked_at("/", "ml_inference", "train_model", *ids)
    assert f"{queue}@" in listed
    for handle in (good, nested):
        page = await looked_at(f"/tasks/{handle.task_id}", "Completed", "double", "model_version")
        assert "[1, 4]" in page
        assert str(VALUE)[:7] not in page
        assert str(2 * VALUE)[:7] not in page
    page = await looked_at(f"/tasks/{bad.task_id}", "Failure", "UnknownModelError")
    assert "no-such-model" in page
    page = await looked_at(f"/tasks/{training.task_id}", "Failure", "no-such-data", "epochs")
    assert f"{queue}-training@" in page


async def test_tasks_that_are_given_up_or_not_run_are_shown(variables, workers, looked_at):
    """Their ids are no UUIDs either, as a stranger may choose them."""
    broker = build_broker(settings_of(variables), "inference")
    await broker.startup()
    try:
        labels = {"deadline": time.time() - 1}
        expired = AsyncKicker("ml_inference", broker, labels).with_task_id("my-expired-task")
        task = await expired.kiq("double", {"x": [[1]]})
        assert isinstance((await task.wait_result(timeout=WAIT_S)).error, TaskExpiredError)
        unknown = AsyncKicker("no_such_task", broker, {}).with_task_id("my-unknown-task")
        task = await unknown.kiq("argument")
        assert isinstance((await task.wait_result(timeout=WAIT_S)).error, UnknownTaskError)
    finally:
        await broker.shutdown()
    namespace = uuid.UUID("2d6c0c5e-53b0-4f5e-8a8a-0d0e5f1c7b52")
    for own_id, error in (
        ("my-expired-task", "TaskExpiredError"),
        ("my-unknown-task", "UnknownTaskError"),
    ):
        await looked_at(f"/tasks/{uuid.uuid5(namespace, own_id)}", "Failure", error, own_id)


async def test_a_dashboard_that_never_answers_costs_no_task_anything(variables, new_worker):
    name = f"{variables['TASKIQ_ML_QUEUE']}-silent"
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        queues = {"TASKIQ_ML_QUEUE": name, "TASKIQ_ML_ROUTING_KEY": name}
        slow = variables | queues | {"TASKIQ_DASHBOARD_URL": url}
        worker = await new_worker([*INFERENCE, "--workers", "1"], slow)
        untold = {key: it for key, it in slow.items() if "DASHBOARD" not in key}
        async with BridgeClient(settings_of(untold)) as client:
            calls = [client.infer("double", {"x": [[i, 0, 0, 0]]}) for i in range(1500)]
            answers = await asyncio.gather(*calls)
        assert [answer.outputs["y"][0][0] for answer in answers] == [2 * i for i in range(1500)]
        assert await worker.stop() == 0
        log = worker.log.read_text()
        assert log.count("does not keep up") == 1
        assert "was not told" in log
        assert variables["TASKIQ_DASHBOARD_TOKEN"] not in log
