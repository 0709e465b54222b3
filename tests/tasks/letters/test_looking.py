"""Dead letters are listed and shown as they are, and stay where they are."""

import json

import msgpack
import pytest

from bridge import errors
from bridge.queues import build_broker, open_letters

UNKNOWN = errors.UnknownTaskError("no task is called 'shout' here")
MALFORMED = errors.MalformedMessageError("neither JSON nor msgpack: [bold]\x1b[2J")


async def test_where_there_is_none(own, mlbridge, listed, broker):
    result = await mlbridge("list")
    assert "no dead letters" in result.stdout
    assert f"{own.taskiq_ml_training_queue}.dead_letter does not exist" in result.stdout
    assert await listed() == []
    for command in (["show", "1"], ["replay", "--all"], ["purge", "--all", "--yes"]):
        await mlbridge(*command, code=1)


async def test_the_list_and_its_filters(own, mlbridge, listed, give_up, depths, task, encoded):
    digits = [task(args=("digits", {})) for _ in range(2)]
    named = task(args=(), kwargs={"model_id": "iris", "input_data": {}})
    shout = task("shout", ["hi"])
    await give_up(*digits, named, reason=errors.InvalidInputError("too old"))
    await give_up(shout, reason=UNKNOWN)
    await give_up(b"\xff\x00nonsense", reason=MALFORMED, headers={"task_id": "told-beside"})
    letters = await listed()
    assert [letter["position"] for letter in letters] == ["1", "2", "3", "4", "5"]
    sent = [*(item["task_id"] for item in (*digits, named, shout)), "told-beside"]
    assert [letter["task_id"] for letter in letters] == sent
    assert [letter["model"] for letter in letters] == ["digits", "digits", "iris", None, None]
    assert letters[3]["error"] == "UnknownTaskError"
    assert letters[3]["reason"] == str(UNKNOWN)
    assert letters[3]["size"] == len(encoded(shout))
    assert letters[3]["attempts"] == 1
    assert letters[3]["origin"] == own.taskiq_ml_queue
    assert letters[4]["malformed"]

    async def places(*filters):
        return [int(letter["position"]) for letter in await listed(*filters)]

    assert await places("--model", "digits") == [1, 2]
    assert await places("--reason", "unknowntask") == [4]
    assert await places("--reason", "TOO OLD", "--model", "iris") == [3]
    assert await places("--limit", "2") == [1, 2]
    assert await places("--limit", "0", "--newer-than", "1h") == [1, 2, 3, 4, 5]
    assert await places("--older-than", "1.5h") == []
    assert await places("--queue", "training") == []
    shown = await mlbridge("list", "--limit", "4")
    assert "4 of 5 dead letters shown" in shown.stdout
    assert "--limit 4 was reached" in shown.stdout
    shown = await mlbridge("list")
    assert "\x1b[2J" not in shown.output
    assert r"[bold]\x1b[2J" in shown.stdout
    assert await depths() == (0, 5)


async def test_looking_keeps_the_order_and_costs_one_return(
    amqp, own, mlbridge, listed, depths, task, publish
):
    where = f"{own.taskiq_ml_queue}.dead_letter"
    sent = [task() for _ in range(300)]
    await publish(amqp, where, *sent)
    ids = [item["task_id"] for item in sent]
    for _ in range(3):
        assert [letter["task_id"] for letter in await listed("--limit", "0")] == ids
    await mlbridge("show", ids[0])
    await listed("--limit", "3")
    await mlbridge("replay", "--model", "nobody", code=1)
    await mlbridge("replay", ids[1])
    await mlbridge("purge", ids[2], "--yes")
    left = [ids[0], *ids[3:]]
    assert [letter["task_id"] for letter in await listed("--limit", "0")] == left
    assert await depths() == (1, 298)
    queue = await amqp.get_queue(where)
    first = await queue.get()
    assert first.headers["x-delivery-count"] == 9
    await first.nack(requeue=True)


@pytest.mark.parametrize("bad", [["--older-than", "soon"], ["--queue", "x"], ["--limit", "-1"]])
async def test_a_wrong_option_is_told(mlbridge, bad):
    assert "Error" in (await mlbridge("list", *bad, code=2)).output


@pytest.mark.parametrize("command", ["replay", "purge"])
async def test_nothing_is_done_to_all_by_omission(mlbridge, command):
    assert "--all" in (await mlbridge(command, code=2)).output
    assert "--all" in (await mlbridge(command, "--all", "--reason", "x", code=2)).output


async def test_one_letter_with_all_that_belongs_to_it(mlbridge, give_up, tmp_path, task):
    tensor = {"datatype": "FP32", "shape": [256, 4], "raw": bytes(range(256)) * 16}
    rows = [[float(i)] * 4 for i in range(500)]
    packed = task(args=("digits", {"x": tensor, "rows": rows}), labels={"trace": "a\x1b]0;b\x07"})
    body = msgpack.packb(packed)
    await give_up(body, reason=UNKNOWN, headers={"user": "kept", "CC": []})
    shown = await mlbridge("show", packed["task_id"])
    for text in ("UnknownTaskError", "4,096 bytes", "500 in all", "kept", r"a\\x1b]0;b\\x07"):
        assert text in shown.stdout
    assert "\x1b" not in shown.output
    assert len("".join(shown.stdout.split())) < 6000
    whole = json.loads((await mlbridge("show", "1", "--json")).stdout)
    assert whole["headers"]["x-bridge-error"] == "UnknownTaskError"
    assert whole["sent_again_with_headers"] == {"user": "kept"}
    assert whole["labels"]["trace"] == r"a\x1b]0;b\x07"
    assert whole["args"][1]["x"]["shape"] == [256, 4]
    assert (await mlbridge("show", "1", "--raw")).stdout_bytes == body
    await mlbridge("show", "1", "--output", tmp_path / "body")
    assert (tmp_path / "body").read_bytes() == body
    with pytest.raises(errors.InvalidInputError, match="cannot write"):
        await mlbridge("show", "1", "--output", tmp_path / "none" / "body")
    assert "no dead letter is called nobody" in (await mlbridge("show", "nobody", code=1)).stderr


async def test_what_is_no_task_is_shown_in_escapes(mlbridge, give_up):
    await give_up(b"\xff\xfe\x1b[2J" * 200, reason=MALFORMED)
    shown = await mlbridge("show", "1")
    assert r"\xff\xfe\x1b[2J" in shown.stdout
    assert "(1,200 bytes)" in shown.stdout
    assert "\x1b" not in shown.output


async def test_what_json_cannot_write_is_shown(mlbridge, give_up, task):
    fields = '"task_id": "odd", "task_name": "a", "labels": {}, "kwargs": {}'
    await give_up(f'{{{fields}, "args": [NaN, {2**80}, "\\ud800"]}}'.encode(), reason=UNKNOWN)
    await give_up(task("shout\x07" * 1000), reason=UNKNOWN)
    assert json.loads((await mlbridge("show", "odd", "--json")).stdout)["args"][1] == str(2**80)
    assert r"\ud800" in (await mlbridge("show", "odd")).stdout
    for command in (["list"], ["list", "--json"], ["show", "2"], ["show", "2", "--json"]):
        shown = await mlbridge(*command)
        assert r"shout\x07" in shown.stdout.replace("\\\\", "\\")
        assert "\x07" not in shown.output


async def test_both_queues_have_letters(amqp, own, mlbridge, listed, give_up, task, publish):
    training = build_broker(own, "training")
    await training.startup()
    await training.shutdown()
    await give_up(task("shout"), reason=UNKNOWN)
    trainings = [task("train_model", ["digits"]) for _ in range(2)]
    await publish(amqp, f"{own.taskiq_ml_training_queue}.dead_letter", *trainings)
    assert [letter["position"] for letter in await listed()] == ["1", "t1", "t2"]
    assert [letter["position"] for letter in await listed("--queue", "training")] == ["t1", "t2"]
    assert len(await listed("--limit", "2")) == 2
    dry = json.loads((await mlbridge("replay", "t2", "--dry-run", "--json")).stdout)
    assert dry["letters"][0]["origin"] == own.taskiq_ml_training_queue
    await mlbridge("replay", "t2")
    sent = await (await amqp.get_queue(own.taskiq_ml_training_queue)).get(no_ack=True)
    assert json.loads(sent.body) == trainings[1]
    assert [letter["position"] for letter in await listed()] == ["1", "t1"]


async def test_a_letter_that_comes_meanwhile_is_not_looked_at(amqp, own, task, publish):
    where = f"{own.taskiq_ml_queue}.dead_letter"
    await publish(amqp, where, *(task() for _ in range(3)))
    async with open_letters(own, ["inference"]) as [letters]:
        seen = 0
        async for opened in letters.look():
            seen += 1
            await publish(amqp, where, opened.body)
            await letters.remove(opened.letter)
    assert seen == 3
