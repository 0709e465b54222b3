"""A worker and a caller, through TLS with client certificates and least rights everywhere."""

import numpy as np

from bridge.client import BridgeClient


async def test_an_inference_behind_tls_everywhere(worker, caller, settings_of):
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    async with BridgeClient(settings_of(caller)) as client:
        result = await client.infer("double", {"x": rows})
    np.testing.assert_array_equal(result.outputs["y"], 2 * rows)
