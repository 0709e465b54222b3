"""The producer's door: submit, await, follow. Pulls neither torch nor tritonclient.

Enters: model names and numpy arrays. Leaves: numpy arrays, or the task's error, raised. Large
arrays go beside their message, into the payload store, if one is set. Results are pushed: one
Redis subscription for the client, however many tasks it waits for; a read now and then covers a
connection that broke.

    async with BridgeClient() as client:
        result = await client.infer("digits", {"image": images})
        result.outputs["logits"]
"""

from bridge.client.arrays import InferenceResult, decode_reply, encode_inputs
from bridge.client.door import BridgeClient
from bridge.client.handles import InferenceHandle, TaskHandle
from bridge.references import StoredTensor

__all__ = [
    "BridgeClient",
    "InferenceHandle",
    "InferenceResult",
    "StoredTensor",
    "TaskHandle",
    "decode_reply",
    "encode_inputs",
]
