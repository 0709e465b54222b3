"""What the doctor finds on real Tritons, and in the repositories that they read."""

import pytest

from bridge.doctor import triton as triton_checks
from bridge.doctor.versions import versions
from bridge.embedded.ports import free_ports


@pytest.fixture
def keyed(settings_of, triton, model_repository):
    """The session's Triton, with its key, and the repository that it reads."""

    def make(**variables):
        given = {
            "TRITON_URL": triton.address,
            "TRITON_ADMIN_KEY": triton.admin_key,
            "MODEL_REPOSITORY": model_repository,
        }
        return settings_of(given, **variables)

    return make


async def test_ours(found, keyed):
    codes = await found(keyed(), "triton", "repository")
    assert set(codes) == {"ok"}
    told = [each.what for each in codes["ok"]]
    assert any(text.startswith(f"Triton {versions()['triton']}.") for text in told)  # the wheel's


async def test_one_that_is_not_there(found, settings_of, tmp_path):
    settings = settings_of(
        TRITON_URL=f"127.0.0.1:{free_ports(1)[0]}", MODEL_REPOSITORY=str(tmp_path)
    )
    codes = await found(settings, "triton", "models", "prefetch", "repository")
    assert set(codes) == {"triton-unavailable", "not-checked", "ok"}
    assert [each.what for each in codes["ok"]] == [f"{tmp_path} can be written"]
    assert list(tmp_path.iterdir()) == []


async def test_keys(found, keyed):
    assert "admin-key-refused" in await found(keyed(TRITON_ADMIN_KEY="wrong"), "triton")
    keyless = keyed().model_copy(update={"triton_admin_key": None})
    assert "admin-key-missing" in await found(keyless, "triton")
    codes = await found(keyless, "models")
    assert codes["not-checked"][0].what.endswith("that takes the admin key")


async def test_anybody_may_load(found, settings_of, open_triton):
    codes = await found(settings_of(TRITON_URL=open_triton.address), "triton")
    assert set(codes) == {"ok", "repository-open"}


async def test_an_older_one_than_tested(found, keyed, monkeypatch):
    monkeypatch.setattr(triton_checks, "TESTED_TRITON", (99, 0))
    assert "triton-untested" in await found(keyed(), "triton")


async def test_two_that_serve_other_models(found, settings_of, triton, open_triton):
    both = settings_of(TRITON_URL=f"{triton.address},{open_triton.address}")
    codes = await found(both, "triton")
    assert "double 1" in codes["triton-servers-differ"][0].what
    one_twice = settings_of(TRITON_URL=f"{triton.address},{triton.address}")
    assert "triton-servers-differ" not in await found(one_twice, "triton")


async def test_models_with_something_wrong(found, settings_of, open_triton):
    codes = await found(settings_of(TRITON_URL=open_triton.address), "models")
    told = {code: sorted(each.what.split()[0].strip(":") for each in codes[code]) for code in codes}
    del told["ok"]
    assert told == {
        "backend-missing": ["backless"],
        "model-unavailable": ["halved"],
        "model-fixed-rows": ["frozen", "one_row"],
        "model-not-batched": ["unbatched"],
        "model-no-dynamic-batching": ["lonely"],
    }


async def test_prefetch(found, keyed):
    assert set(await found(keyed(), "prefetch")) == {"ok"}
    codes = await found(keyed(BRIDGE_PREFETCH=4), "prefetch")
    assert any("max_batch_size of double 8" in each.what for each in codes["prefetch-below-batch"])
    codes = await found(keyed(BRIDGE_PREFETCH=8, ML_WORKER_COUNT=1), "prefetch")
    assert "prefetch-below-concurrency" in codes
    # Triton may have other tests' models, with larger batches.
    below = codes.get("prefetch-below-batch", [])
    assert not any("max_batch_size of double" in each.what for each in below)


@pytest.mark.parametrize("key", [True, False], ids=["by a folder", "by what is served"])
async def test_triton_reads_another_repository(found, keyed, tmp_path, key):
    settings = keyed(MODEL_REPOSITORY=tmp_path)
    if not key:
        settings = settings.model_copy(update={"triton_admin_key": None})
    codes = await found(settings, "repository")
    assert set(codes) == {"ok", "repository-elsewhere"}
    assert str(tmp_path) in codes["repository-elsewhere"][0].what


async def test_without_the_key_what_is_served_lies_here(found, keyed):
    settings = keyed().model_copy(update={"triton_admin_key": None})
    assert set(await found(settings, "repository")) == {"ok"}


async def test_a_repository_that_is_missing_or_cannot_be_written(found, keyed, tmp_path):
    missing = keyed(MODEL_REPOSITORY=tmp_path / "nowhere")
    assert set(await found(missing, "repository")) == {"repository-missing"}
    codes = await found(keyed(MODEL_REPOSITORY="/proc"), "repository")  # not even by root
    assert "repository-not-writable" in codes
    assert "repository-elsewhere" in codes
    beside = keyed(MODEL_REPOSITORY="/proc/sysvipc").model_copy(update={"triton_admin_key": None})
    codes = await found(
        beside, "repository"
    )  # as where inference workers run: it is none of theirs
    assert set(codes) == {"repository-not-writable", "not-checked"}
