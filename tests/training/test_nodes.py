"""Several machines train together: here, processes of one that know nothing of each other."""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from types import SimpleNamespace

import psutil
import pytest
from taskiq import TaskiqMessage

from bridge.deliveries import Turn as DeliveryTurn
from bridge.errors import (
    DatasetError,
    InvalidTrainingRequestError,
    NodesMissingError,
    SettingsError,
    TrainingCrashedError,
)
from bridge.jobs import Claim
from bridge.labels import BATON
from bridge.training.board import Board, Call, Word
from bridge.training.checkpoints import digest
from bridge.training.group import Crew, Group, check_address
from bridge.training.lease import worker_name
from bridge.training.node import Node
from bridge.training.request import parse_request
from bridge.training.run import Training, Turn
from bridge.training.running import Running

ADDRESS = "127.0.0.1"
WAIT_S = 240  # processes that load torch, on a machine that may be busy
# Without dropout and batch statistics, shares of a batch make the step that the whole would.
PLAIN = {"architecture": "mlp", "options": {"dropout": 0.0}}


@pytest.fixture
def in_group(settings):
    """The settings of a machine of a group of this test's own."""
    return settings.model_copy(
        update={
            "bridge_training_group": f"group-{uuid.uuid4().hex[:8]}",
            "bridge_training_address": ADDRESS,
            "bridge_training_nodes_wait_s": 0.2,
        }
    )


class Machines:
    """Nodes as people start them."""

    def __init__(self, environment, folder):
        self._environment, self._folder = environment, folder
        self._logs = {}

    async def start(self):
        """A node that says that it waits."""
        log = self._folder / f"node-{len(self._logs)}.log"
        with log.open("wb") as output:
            node = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "bridge", "training-node", "--head", ADDRESS),
                env={**os.environ, **self._environment},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._logs[node] = log
        await self.says(node, f"waits for {ADDRESS}")
        return node

    async def says(self, node, text):
        async with asyncio.timeout(WAIT_S):
            while text not in self._logs[node].read_text():
                assert node.returncode is None, self._logs[node].read_text()
                await asyncio.sleep(0.1)

    def processes(self, node):
        main = psutil.Process(node.pid)
        return [main, *main.children(recursive=True)]

    def log(self, node):
        return self._logs[node].read_text()

    async def close(self):
        for node in self._logs:
            if node.returncode is None:
                os.killpg(node.pid, signal.SIGKILL)
                await node.wait()


@pytest.fixture
async def machines(pool, tmp_path):
    group = f"group-{uuid.uuid4().hex[:8]}"
    grouped = {
        "BRIDGE_TRAINING_GROUP": group,
        "BRIDGE_TRAINING_ADDRESS": ADDRESS,
        "BRIDGE_CHECKPOINT_EVERY_S": "0.2",
        "OMP_NUM_THREADS": "1",
    }
    pool.environment.update(grouped)
    machines = Machines(pool.environment, tmp_path)
    yield machines
    await machines.close()


@pytest.mark.timeout(900)
async def test_two_machines_train_what_one_trains(pool, machines):
    head = await pool.start()
    node = await machines.start()
    about = {"epochs": 3, "learning_rate": 0.01}
    alone = await pool.client.train("few", {**PLAIN, "model_id": "by-one"}, about)
    together = await pool.client.train(
        "few", {**PLAIN, "model_id": "by-two"}, {**about, "num_nodes": 2}
    )
    one, two = await alone.result(WAIT_S), await together.result(2 * WAIT_S)
    assert machines.log(node).count("joining task") == 1, pool.log(head)
    await machines.says(node, "is over")
    assert two["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-3)
    assert two["metrics"]["accuracy"] == pytest.approx(one["metrics"]["accuracy"], abs=0.02)
    assert pool.versions("by-two") == [1]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("architectures_of_a_user")
async def test_nodes_leave_and_die_and_one_version_comes_of_it(pool, machines):
    head = await pool.start()
    first = await machines.start()
    handle = await pool.client.train(
        "few",
        {"architecture": "slow", "model_id": "stubborn"},
        {"epochs": 15, "batch_size": 24, "num_nodes": 2},
    )
    await _checkpoint_after(handle, 0)
    assert listening([*pool.processes(head), *machines.processes(first)]) == {ADDRESS}
    first.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(first.wait(), WAIT_S) == 0
    left_at = await _step(handle)

    second = await machines.start()
    await _checkpoint_after(handle, left_at)
    os.killpg(second.pid, signal.SIGKILL)
    await second.wait()

    third = await machines.start()
    result = await handle.result(2 * WAIT_S)
    assert machines.log(third).count("joining task") == 1
    assert result["slices"] >= 3
    assert result["metrics"]["epochs"] == 15
    assert pool.versions("stubborn") == [1]


def listening(processes):
    """The addresses at which they could be reached."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            sockets = process.net_connections("tcp")
            found |= {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN}
    return found


async def _checkpoint_after(handle, step):
    """Wait until a checkpoint was saved beyond a step."""
    async with asyncio.timeout(WAIT_S):
        while await _step(handle) <= step:
            await asyncio.sleep(0.05)


async def _step(handle):
    progress = await handle.progress() or {}
    return (progress.get("checkpoint") or {"step": 0})["step"]


async def test_too_few_nodes(redis, in_group):
    request = parse_request("few", PLAIN, {"num_nodes": 3}, in_group)
    group = Group(redis, in_group)
    await group.board.offer("lonely:1")
    said = []

    async def say(text):
        said.append(text)

    crew = Crew(group, request, task_id="t", token=1, checkpoint=None)
    with pytest.raises(NodesMissingError, match=r"only 1 of 2 nodes were free for 0\.2 s"):
        await crew.gather(say)
    assert said == ["waiting for nodes: 1 of 2 are free"]
    await group.board.offer("lonely:2")
    await crew.gather(say)


async def test_a_worker_without_a_group(settings, fake_triton):
    request = parse_request("few", PLAIN, {"num_nodes": 2}, settings)
    training = Training(request, "alone", settings, fake_triton)
    with pytest.raises(InvalidTrainingRequestError, match="2 were asked for, and this training"):
        await training.go_on(Turn(), _ignore)


async def _ignore(_):
    pass


async def test_one_that_has_begun_loses_nothing_where_nodes_are_missing(
    redis, in_group, fake_triton, tmp_path, monkeypatch
):
    from bridge.tasks import training as worker  # noqa: PLC0415 - it reads the environment

    request = parse_request("few", PLAIN, {"num_nodes": 2}, in_group)
    jobs = SimpleNamespace(release=_release, recall=_release)
    monkeypatch.setattr(worker, "settings", in_group)
    monkeypatch.setitem(worker.training_broker.state, "triton", fake_triton)
    monkeypatch.setitem(worker.training_broker.state, "jobs", jobs)
    running = Running(
        jobs,
        worker.training_broker.intake,
        worker.training_broker.results,
        worker="w",
        at_once=lambda: 1,
        group=Group(redis, in_group),
    )
    monkeypatch.setitem(worker.training_broker.state, "running", running)

    async def claim(message, checkpoints):
        return Claim("yours", 2, 1)

    async def keep(self, orders):
        await asyncio.Event().wait()

    async def is_ready(task_id):
        return False

    monkeypatch.setattr(worker, "_claim", claim)
    monkeypatch.setattr(worker.Lease, "keep", keep)
    monkeypatch.setattr(worker.training_broker.results, "is_result_ready", is_ready)
    args = ["few", PLAIN, {"num_nodes": 2}]
    message = TaskiqMessage(
        task_id="begun", task_name="train_model", labels={}, args=args, kwargs={}
    )
    with pytest.raises(NodesMissingError):
        await worker._train_model(message, DeliveryTurn())

    saved = tmp_path / "step-1.ckpt"
    saved.write_bytes(b"weights")
    facts = {"step": 1, "epoch": 1, "sha256": digest(saved), "bytes": 7}
    await Training(request, "begun", in_group, fake_triton).checkpoints.keep(1, saved, facts)
    later = await worker._train_model(message, DeliveryTurn())
    assert later.instead.labels[BATON] == 2


async def _release(task_id, token):
    pass


async def test_a_group_has_one_head(redis, in_group):
    group = Group(redis, in_group)
    await group.lead(worker_name())
    await group.lead(worker_name())
    with pytest.raises(SettingsError, match=r"is led by training worker .* already"):
        await group.lead("another:1", patience_s=0)
    # A head of this machine that was killed has no place to keep.
    await group.board.depose(worker_name())
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    await group.lead(worker_name().rpartition(":")[0] + f":{gone.pid}")
    await group.lead(worker_name(), patience_s=0)


@pytest.mark.parametrize(
    ("address", "problem"),
    [(None, "is set without BRIDGE_TRAINING_ADDRESS"), ("192.0.2.7", "no address of this machine")],
)
def test_an_address_that_cannot_be_met_at(in_group, address, problem):
    with pytest.raises(SettingsError, match=problem):
        check_address(in_group.model_copy(update={"bridge_training_address": address}))


@contextlib.asynccontextmanager
async def serving(redis, settings):
    """A node in this process; gives its name and its board."""
    node, stop = Node(redis, settings, ADDRESS), asyncio.Event()
    task = asyncio.create_task(node.serve(stop))
    board = Board(redis, node.group)
    async with asyncio.timeout(WAIT_S):
        while node.name not in await board.free():
            await asyncio.sleep(0.05)
    try:
        yield node.name, board
    finally:
        stop.set()
        await task
    assert await board.free() == []


def call_of(**changes):
    return {
        "run_id": uuid.uuid4().hex,
        "task_id": uuid.uuid4().hex,
        "token": 7,
        "port": 1,
        "rank": 1,
        "dataset_id": "few",
        "model": PLAIN,
        "hyperparameters": {"num_nodes": 2},
        "dataset_hash": "sha256:other",
        "checkpoint": None,
        **changes,
    }


async def _word(board, name, run_id, *states):
    async with asyncio.timeout(WAIT_S):
        while (word := await board.heard(name, run_id)) is None or word.state not in states:
            await asyncio.sleep(0.05)
    return word


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({}, "DatasetError", "is not the same here"),
        ({"dataset_id": "../few"}, "InvalidTrainingRequestError", "dataset_id must be"),
        (
            {"model": {"architecture": "os:system"}},
            "InvalidTrainingRequestError",
            "none is called 'os:system'",
        ),
        ({"model": {**PLAIN, "weights": "../w.pt"}}, "InvalidTrainingRequestError", "weights"),
        ({"hyperparameters": {"devices": 999}}, "InvalidTrainingRequestError", "devices"),
    ],
)
async def test_what_a_call_asks_for_is_checked(redis, in_group, changes, error, text):
    call = Call(**call_of(**changes))
    await redis.set(f"bridge:lease:{call.task_id}", call.token, ex=WAIT_S)
    async with serving(redis, in_group) as (name, board):
        await board.call(name, call)
        word = await _word(board, name, call.run_id, "failed")
        assert word.error == error
        assert text in word.text


@pytest.mark.parametrize(
    "call",
    [
        b"\x80\x04pickle",
        b"{}",
        b'{"run_id": "x", "address": "192.0.2.7"}',
        call_of(port=0),
        call_of(rank=0),
        call_of(task_id="a b"),
        call_of(address="192.0.2.7"),
        call_of(checkpoint="../x"),
    ],
)
async def test_a_call_that_no_head_writes_is_left_out(redis, in_group, call, caplog):
    import orjson  # noqa: PLC0415 - for this alone

    data = call if isinstance(call, bytes) else orjson.dumps(call)
    async with serving(redis, in_group) as (name, board):
        await redis.set(f"bridge:group:{in_group.bridge_training_group}:call:{name}", data)
        async with asyncio.timeout(WAIT_S):
            while "no head writes" not in caplog.text:
                await asyncio.sleep(0.05)
            while name not in await board.free():
                await asyncio.sleep(0.05)


async def test_a_call_of_a_head_that_lost_the_training_is_left_out(redis, in_group):
    call = Call(**call_of())
    await redis.set(f"bridge:lease:{call.task_id}", call.token + 1, ex=WAIT_S)
    key = f"bridge:group:{in_group.bridge_training_group}:call:"
    async with serving(redis, in_group) as (name, board):
        await board.call(name, call)
        async with asyncio.timeout(WAIT_S):
            while await redis.exists(key + name):
                await asyncio.sleep(0.05)
        assert await board.heard(name, call.run_id) is None


async def test_what_a_node_refuses_is_what_the_task_meets(redis, in_group):
    group = Group(redis, in_group)
    request = parse_request("few", PLAIN, {"num_nodes": 2}, in_group)
    task_id = uuid.uuid4().hex
    await redis.set(f"bridge:lease:{task_id}", 3, ex=WAIT_S)
    async with serving(redis, in_group) as (name, _):
        crew = Crew(group, request, task_id=task_id, token=3, checkpoint=None)
        await crew.gather(_ignore)

        async def training():
            await crew.call(1, "sha256:other")
            await asyncio.sleep(0)
            raise TrainingCrashedError("the others are gone")

        with pytest.raises(DatasetError, match=f"node {name}: dataset 'few' is not the same"):
            await crew.together(training(), asyncio.Event())


async def test_a_node_that_wants_to_leave_ends_the_slice(redis, in_group):
    group = Group(redis, in_group)
    request = parse_request("few", PLAIN, {"num_nodes": 2}, in_group)
    await group.board.offer("away:1")
    crew = Crew(group, request, task_id="t", token=1, checkpoint=None)
    await crew.gather(_ignore)
    stop = asyncio.Event()

    async def training():
        await crew.call(1, "sha256:x")
        call = await group.board.called("away:1")
        assert (call.rank, call.port, call.hyperparameters) == (1, 1, {"num_nodes": 2})
        await group.board.say("away:1", Word(run_id=call.run_id, state="leaving"))
        await stop.wait()
        return "saved"

    async with asyncio.timeout(WAIT_S):
        assert await crew.together(training(), stop) == "saved"
