"""Messages and results in taskiq's layout, JSON and msgpack: ours, stock taskiq, the ceiling."""

import json
import uuid

from redis.asyncio import Redis
from taskiq import TaskiqMessage

from bridge.client import decode_reply
from bridge.forms import wire_form
from bridge.messages import CONTENT_TYPE, MSGPACK, Formatter, decode_result
from bridge.tensors import Array
from bridgebench.competitors.protocol import value_of
from bridgebench.models import MLP
from bridgebench.posting import Mail


def json_mail(index: int, row: Array, model: str = MLP) -> Mail:
    """As stock taskiq writes it, floats as Python writes them."""
    task_id = uuid.uuid4().hex
    fields = {
        "task_id": task_id,
        "task_name": "ml_inference",
        "labels": {},
        "labels_types": {},
        "args": [model, {"x": row.tolist()}],
        "kwargs": {},
    }
    return Mail(index, task_id, json.dumps(fields).encode(), "application/json")


def binary_mail(index: int, row: Array, model: str = MLP) -> Mail:
    """As `BridgeClient` writes it."""
    task_id = uuid.uuid4().hex
    message = TaskiqMessage(
        task_id=task_id,
        task_name="ml_inference",
        labels={CONTENT_TYPE: MSGPACK},
        labels_types={},
        args=[model, {"x": wire_form(row)}],
        kwargs={},
    )
    return Mail(index, task_id, Formatter().dumps(message).message, MSGPACK)


async def taskiq_output(redis: Redis, mail: Mail) -> Array:
    """Read a result; raises LookupError if it is an error."""
    result = decode_result(await value_of(redis, mail.key))
    if result.error is not None:
        raise LookupError(str(result.error))
    return decode_reply(result.return_value).outputs["y"]
