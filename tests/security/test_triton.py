"""Triton over TLS that asks for a client certificate."""

import numpy as np
import pytest

from bridge.errors import RestrictedError, TritonUnavailableError
from bridge.overview.parts import UP, find_triton
from bridge.tensors import DTYPES, Tensor
from bridge.triton_client import TritonClient

X = Tensor.from_array(np.ones((2, 4), np.float32))


@pytest.fixture
def variables(environment):
    return {name: it for name, it in environment.items() if name.startswith("TRITON")}


async def complaint(settings):
    """What an inference says, and what `mlbridge status` does."""
    async with TritonClient.from_settings(settings) as client:
        assert not await client.ready()
        with pytest.raises(TritonUnavailableError) as caught:
            await client.infer("double", {"x": X}, timeout_s=10)
    return f"{caught.value}\n{(await find_triton(settings, settings.triton_url)).state}"


async def test_with_our_certificate_we_infer(variables, settings_of):
    settings = settings_of(variables)
    async with TritonClient.from_settings(settings) as client:
        reply = await client.infer("double", {"x": X}, timeout_s=10)
    np.testing.assert_array_equal(reply.outputs["y"].to_array(), np.full((2, 4), 2.0))
    assert (await find_triton(settings, settings.triton_url)).state == UP


async def test_more_than_grpcs_default_of_4_mb_goes_through(variables, settings_of):
    array = (np.arange(300_000) % 100).reshape(1, -1)
    async with TritonClient.from_settings(settings_of(variables)) as client:
        spec = await client.model_spec("wide")
        inputs = {
            name: Tensor.from_array(array.astype(DTYPES[it.datatype]))
            for name, it in spec.inputs.items()
        }
        reply = await client.infer("wide", inputs, timeout_s=60)
    np.testing.assert_array_equal(reply.outputs["out_INT64"].to_array(), array)


async def test_a_certificate_is_no_admin_key(variables, settings_of, secure_triton):
    async with TritonClient.from_settings(settings_of(variables)) as client:
        with pytest.raises(RestrictedError, match="TRITON_ADMIN_KEY"):
            await client.load("double")
    key = {"TRITON_ADMIN_KEY": secure_triton.admin_key}
    async with TritonClient.from_settings(settings_of(variables, key)) as client:
        await client.load("double")


async def test_a_wrong_authority_is_told_from_a_triton_that_is_down(
    variables, settings_of, certificates
):
    for ca in (certificates.other_ca, None):
        wrong = certificates.variables("TRITON", ca=ca)
        said = await complaint(settings_of(variables, wrong))
        assert said.count("check TRITON_CA_FILE") == 2
    said = await complaint(settings_of(variables, TRITON_URL="127.0.0.1:1"))
    assert "refused" in said
    assert "TLS" not in said


@pytest.mark.parametrize("pair", [None, "stranger"])
async def test_without_our_certificate_nobody_is_let_in(variables, settings_of, certificates, pair):
    pair = pair and getattr(certificates, pair)
    wrong = certificates.variables("TRITON", pair=pair)
    said = await complaint(settings_of(variables, wrong))
    assert said.count("check TRITON_CERT_FILE") == 2


async def test_a_certificate_for_another_name_is_refused(
    variables, settings_of, certificates, secure_triton, tls_door
):
    async with tls_door(secure_triton.grpc_port, certificates.elsewhere, None) as door:
        said = await complaint(settings_of(variables, TRITON_URL=f"127.0.0.1:{door.port}"))
    assert "TRITON_URL has a name that stands in the certificate" in said


async def test_tls_on_one_side_only_is_said(variables, settings_of, certificates, triton):
    none = certificates.variables("TRITON", ca=None, pair=None)
    assert "set TRITON_TLS" in await complaint(settings_of(variables, none, TRITON_TLS="false"))
    said = await complaint(settings_of(variables, TRITON_URL=triton.address))
    assert "does it speak TLS there" in said
