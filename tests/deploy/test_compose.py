"""docker-compose.yml against the specification, the settings class, the Dockerfile and the tree."""

import re
import subprocess
import sys

import pytest
import yaml

from bridge.settings import Settings

POOLS = {
    "inference": ["api-template-worker-ml"],
    "training": ["training-worker", "training-worker-gpu"],
}
PUBLISHED = {
    "rabbitmq": {"5672", "15672"},
    "redis": {"6379"},
    "triton-cpu": {"8001"},
    "triton-gpu": {"8001"},
    "taskiq-dashboard": {"8000"},
    "grafana": {"3000"},
}
SET_BY_ITSELF = {"BRIDGE_DRAIN_REPORT"}
"""What `mlbridge worker` sets, and nobody else."""
KNOWN = {name.upper() for name in Settings.model_fields}
OURS = ["folders", "api-template-worker-ml", "training-worker", "triton-cpu", "taskiq-dashboard"]


def in_bytes(size):
    """Of `2g` and the like as Docker and Redis take them, of `1200MiB` as RabbitMQ does."""
    number, unit = re.fullmatch(r"(\d+)(MiB|[mg]b?)", size).groups()
    return int(number) * 2 ** (30 if unit[0] == "g" else 20)


def services_of(compose, profile):
    """The services that start under a profile."""
    return {
        name: service
        for name, service in compose["services"].items()
        if profile in service.get("profiles", [profile])
    }


def test_it_follows_the_compose_specification(root):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"),
            str(root / "docker-compose.yml"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", [name for names in POOLS.values() for name in names])
def test_workers_are_given_settings_that_there_are(compose, service):
    given = set(compose["services"][service]["environment"])
    assert all(name.startswith("OTEL_") for name in given - KNOWN)  # its SDK reads them itself


@pytest.mark.parametrize("pool", POOLS)
def test_every_setting_reaches_a_pool(compose, pool):
    """Of inference workers all but what training alone reads, and the other way about."""
    services = compose["services"]
    environments = {
        name: set(services[POOLS[name][0]]["environment"]) for name in ("inference", "training")
    }
    missing = KNOWN - SET_BY_ITSELF - environments["inference"] - environments["training"]
    assert missing == set(), "add them to docker-compose.yml"
    for name in POOLS[pool]:
        assert set(services[name]["environment"]) == environments[pool]


def test_the_docs_name_services_that_there_are(root, compose):
    """Where they have somebody ask Docker for one."""
    verbs = r"docker compose (?:ps|logs|exec|restart|run|up -d)"
    options = r"(?: -T| --rm| --no-deps| --force-recreate| --tail \d+| -v \S+)*"
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    named = {
        (page.name, name)
        for page in pages
        for name in re.findall(
            rf"{verbs}{options} ([a-z][a-z-]*)", page.read_text().replace("\n", " ")
        )
    }
    assert {"triton-cpu", "training-worker", "rabbitmq"} <= {name for _, name in named}
    assert {each for each in named if each[1] not in compose["services"]} == set()


def test_the_admin_key_is_for_triton_and_training_alone(compose):
    holders = {
        name for name, service in compose["services"].items() if "TRITON_ADMIN_KEY" in str(service)
    }
    assert holders == {"triton-cpu", "triton-gpu", "training-worker", "training-worker-gpu"}


def test_worker_processes_are_counted_by_their_variable(compose):
    worker = compose["services"]["api-template-worker-ml"]
    assert worker["command"] == ["mlbridge", "worker", "inference"]
    assert worker["environment"]["ML_WORKER_COUNT"] is None  # as .env or the shell says


def test_every_folder_and_file_that_is_mounted_is_there(compose, root):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            if source.startswith("."):
                assert (root / source).exists(), f"{name} mounts {source}"
            else:
                assert source in compose["volumes"], f"{name} mounts the volume {source}"
            assert target.startswith("/")


def test_what_is_built_is_a_stage_with_the_folders_that_it_gets(compose, root):
    dockerfile = (root / "Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    for name, service in compose["services"].items():
        build = service.get("build")
        if build is None:
            assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), f"{name}: pin its tag"
            continue
        assert build["target"] in stages
        for argument in build.get("args", {}):
            assert f"ARG {argument}=" in dockerfile
        for volume in service.get("volumes", []):
            assert volume.split(":")[1] in dockerfile, f"{name}: a volume without an owner"


@pytest.mark.parametrize(
    ("profile", "triton", "training"),
    [("cpu", "triton-cpu", "training-worker"), ("gpu", "triton-gpu", "training-worker-gpu")],
)
def test_a_profile_has_one_triton_and_one_training_pool(compose, profile, triton, training):
    services = services_of(compose, profile)
    names = {
        alias: [
            name
            for name, service in services.items()
            if name == alias
            or alias in ((service.get("networks") or {}).get("default") or {}).get("aliases", [])
        ]
        for alias in ("triton", "training-worker")
    }
    assert names == {"triton": [triton], "training-worker": [training]}
    gpus = {name for name, service in services.items() if "nvidia" in str(service.get("deploy"))}
    assert gpus == ({"triton-gpu", "training-worker-gpu"} if profile == "gpu" else set())


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_nothing_starts_before_what_it_needs_is_healthy(compose, profile):
    services = services_of(compose, profile)
    done: list[str] = []
    while len(done) < len(services):
        needs = {
            name: [needed for needed in service.get("depends_on", {}) if needed in services]
            for name, service in services.items()
            if name not in done
        }
        ready = [name for name, needed in needs.items() if set(needed) <= set(done)]
        assert ready, f"a circle among {set(needs)}"
        done += ready
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            if needed not in services:
                assert how["required"] is False, f"{name} waits for {needed}, which does not start"
            elif needed == "folders":
                assert how["condition"] == "service_completed_successfully"
            else:
                assert how["condition"] == "service_healthy"
                other = services[needed]
                assert "healthcheck" in other or "build" in other  # our images bring theirs
    for pool in ("api-template-worker-ml", next(n for n in services if n.startswith("training-"))):
        needs = set(services[pool]["depends_on"]) & set(services)
        assert {"rabbitmq", "redis"} < needs
        assert any(name.startswith("triton-") for name in needs)


def test_only_what_users_call_is_published_and_only_on_the_address_they_chose(compose):
    published = {}
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            # The dashboard's pages ask nobody for a password.
            where = "127.0.0.1" if name == "taskiq-dashboard" else "${BIND_ADDRESS:-127.0.0.1}"
            assert port.startswith(f"{where}:"), f"{name}: {port}"
            published.setdefault(name, set()).add(port.rpartition(":")[2])
    assert published == PUBLISHED


@pytest.mark.parametrize("service", OURS)
def test_our_containers_have_no_rights(compose, service):
    described = compose["services"][service]
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    if service != "folders":
        assert described["read_only"] is True


def test_everything_that_stays_has_a_limit_of_memory(compose):
    for name, service in compose["services"].items():
        if name != "folders":
            assert service["deploy"]["resources"]["limits"]["memory"], name


def test_workers_have_the_time_that_they_need_to_stop(compose):
    drain = Settings.model_fields["bridge_drain_timeout_s"].default
    for name in [name for names in POOLS.values() for name in names]:
        grace = compose["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= drain + 10


@pytest.mark.parametrize("service", ["triton-gpu"])
def test_triton_loads_for_nobody_without_the_key(compose, service):
    command = " ".join(compose["services"][service]["command"])
    for option in ("--grpc-restricted-protocol", "--http-restricted-api"):
        restricted = "model-repository,shared-memory,trace,logging:triton-admin-key=${"
        assert f"{option}={restricted}TRITON_ADMIN_KEY:?" in command
    assert "--model-control-mode=explicit" in command


def test_redis_keeps_what_it_confirmed_and_evicts_nothing(compose):
    command = " ".join(compose["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_example_of_an_override_file_changes_memory_ports_and_replicas_alone(root, compose):
    """A command in it takes the place of ours, so has to say all of it."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!override", Loader.construct_yaml_seq)
    page = (root / "docs" / "deployment.md").read_text()
    [text] = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    services = yaml.load(text, Loader)["services"]  # noqa: S506 - a SafeLoader
    assert set(services) == {"redis", "api-template-worker-ml"}
    ours, theirs = compose["services"]["redis"], services["redis"]
    memory = ours["command"].index("--maxmemory") + 1
    for command in (ours["command"], theirs["command"]):
        assert command[-1].startswith("${REDIS_PASSWORD")
    assert in_bytes(theirs["command"][memory]) > in_bytes(ours["command"][memory])
    assert [*theirs["command"][:memory], *theirs["command"][memory + 1 : -1]] == [
        *ours["command"][:memory],
        *ours["command"][memory + 1 : -1],
    ]
    assert "ports: !override [" in text
    limit = theirs["deploy"]["resources"]["limits"]["memory"]
    assert in_bytes(limit) >= 2 * in_bytes(theirs["command"][memory])


def test_redis_has_room_for_the_results_of_a_busy_service(compose):
    """500 a second of 300 bytes, each 200 more in Redis; and twice that to rewrite its file."""
    redis = compose["services"]["redis"]
    memory = in_bytes(redis["command"][redis["command"].index("--maxmemory") + 1])
    kept = compose["services"]["api-template-worker-ml"]["environment"]["BRIDGE_RESULT_TTL_S"]
    kept_s = int(re.fullmatch(r"\$\{BRIDGE_RESULT_TTL_S:-(\d+)}", kept)[1])
    assert memory / kept_s / (200 + 300) >= 500
    assert in_bytes(redis["deploy"]["resources"]["limits"]["memory"]) >= 2 * memory
    # A training of the night is read in the morning.
    trained = compose["services"]["training-worker"]["environment"]["BRIDGE_RESULT_TTL_S"]
    assert trained is None
    assert Settings.model_fields["bridge_result_ttl_s"].default >= 86_400


def test_rabbitmq_blocks_publishers_before_its_container_is_full(compose, root):
    """Its own `relative` would be of the machine's memory, which may be many times the limit."""
    text = (root / "deploy" / "rabbitmq" / "20-bridge.conf").read_text()
    settings = dict(re.findall(r"^([a-z_.]+) = (\S+)$", text, re.MULTILINE))
    assert "vm_memory_high_watermark.relative" not in settings
    highest = in_bytes(settings["vm_memory_high_watermark.absolute"])
    limit = in_bytes(compose["services"]["rabbitmq"]["deploy"]["resources"]["limits"]["memory"])
    assert 0.5 <= highest / limit <= 0.65


def test_rabbitmq_keeps_dead_letters_that_are_looked_at(root):
    """RabbitMQ 4 throws away what comes back for the 21st time, and each look returns all."""
    text = (root / "deploy" / "rabbitmq" / "20-bridge.conf").read_text()
    policy = dict(
        re.findall(r"^default_policies\.operator\.dead-letters\.(\w+) = (\S+)$", text, re.MULTILINE)
    )
    settings = Settings.model_fields
    for queue in ("taskiq_ml_queue", "taskiq_ml_training_queue"):
        assert re.search(policy["queue_pattern"], f"{settings[queue].default}.dead_letter")
        assert not re.search(policy["queue_pattern"], settings[queue].default)
    assert re.search(policy["vhost_pattern"], settings["rabbitmq_vhost"].default)
    assert int(policy["delivery_limit"]) >= 10_000


def test_rabbitmq_has_its_management_page_and_metrics(root):
    plugins = (root / "deploy" / "rabbitmq" / "enabled_plugins").read_text()
    assert plugins.strip() == "[rabbitmq_management,rabbitmq_prometheus]."


def test_there_is_a_stand_in_for_each_official_image(compose, root):
    """`make images` tries all that is named but NVIDIA's, which only a GPU could try."""
    text = (root / "scripts" / "try_images" / "stand-ins" / "build").read_text()
    stood_in = set(re.findall(r"^  [a-z]+=(\S+)$", text, re.MULTILINE))
    named = {service["image"] for service in compose["services"].values()}
    named |= set(re.findall(r"^FROM (\S+:\S+)", (root / "Dockerfile").read_text(), re.MULTILINE))
    theirs = {
        image for image in named if not image.startswith(("taskiq-triton-bridge/", "nvcr.io/"))
    }
    assert stood_in == theirs


@pytest.mark.parametrize("name", ["run", "engine", "trial", "stand-ins/build"])
def test_the_scripts_that_try_it_can_be_read(root, name):
    script = root / "scripts" / "try_images" / name
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert script.stat().st_mode & 0o111
