"""The catalogue: each finding's code, what it means, and its remedy. Data only."""

_ERRORS = {
    "settings-unusable": (
        "an environment variable cannot be used",
        "correct the variable that is named; docs/settings.md lists all",
    ),
    "rabbitmq-unreachable": (
        "nothing usable answers at RABBITMQ_HOST, or it refuses the user or the virtual host",
        "start RabbitMQ, or correct the RABBITMQ_* variable that is named",
    ),
    "rabbitmq-alarm": (
        "RabbitMQ takes no messages, as a node is short of memory or disk",
        "free memory or disk on that node, or set its limits to what the machine has",
    ),
    "consumer-timeout-short": (
        "RabbitMQ takes deliveries away before a slice of a training, or an inference, may end",
        (
            "raise RabbitMQ's consumer_timeout, or lower BRIDGE_TRAINING_SLICE_S or "
            "BRIDGE_INFER_TIMEOUT_S"
        ),
    ),
    "redis-unreachable": (
        "no Redis answers at REDIS_URL, or it refuses the user",
        "start Redis, or correct REDIS_URL",
    ),
    "redis-evicts": (
        "a full Redis throws results and trainings' records away",
        (
            "CONFIG SET maxmemory-policy noeviction, and in redis.conf; give the bridge a Redis "
            "of its own"
        ),
    ),
    "redis-write-fails": (
        "Redis could not write its last snapshot or its append-only file",
        "see Redis' log; free its disk, or correct the rights on its folder",
    ),
    "triton-unavailable": (
        "a Triton does not answer, or is not ready",
        "start it, or correct TRITON_URL; its log says which model it waits for",
    ),
    "admin-key-refused": (
        "Triton refuses TRITON_ADMIN_KEY",
        "set TRITON_ADMIN_KEY to the key that Triton was started with",
    ),
    "backend-missing": (
        "a model asks for a backend that this Triton does not have",
        "correct `backend` in its config.pbtxt, or use a Triton that has it",
    ),
    "repository-elsewhere": (
        "Triton reads another model repository than MODEL_REPOSITORY: trained models never go live",
        "mount the same folder for Triton and for training workers, and set MODEL_REPOSITORY to it",
    ),
    "disk-full": (
        "a folder that is written to has next to no room left",
        "free room there, or set the variable to a larger disk",
    ),
}

_WARNINGS = {
    "check-failed": (
        "a check could not be made",
        "if what it looks at is up, report this with the versions of `mlbridge --version`",
    ),
    "rabbitmq-descriptors": (
        "a node of RabbitMQ may open few files and sockets",
        "raise its limit (LimitNOFILE of its service, or ulimits of its container) to 65536",
    ),
    "queue-differs": (
        "a queue exists with another type or arguments than ours; it is used as it is",
        "drain and delete it, and a worker makes ours; or set TASKIQ_ML_QUEUE_TYPE to what it is",
    ),
    "exchange-differs": (
        "the exchange exists with another type than ours; it is used as it is",
        "set TASKIQ_ML_EXCHANGE_TYPE to what it is, or delete it, and a worker makes ours",
    ),
    "queue-unserved": (
        "messages wait, and nobody consumes",
        "start workers (`mlbridge worker`); if they run, they pause: see Triton",
    ),
    "consumer-timeout-near": (
        "RabbitMQ's consumer_timeout is less than twice what a delivery may take",
        "raise consumer_timeout, or lower BRIDGE_TRAINING_SLICE_S",
    ),
    "prefetch-below-batch": (
        "a worker takes fewer messages than one batch of a model has rows",
        "raise BRIDGE_PREFETCH to a few times the model's max_batch_size",
    ),
    "redis-would-evict": (
        "Redis would throw records away once it has a limit of memory",
        "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
    ),
    "redis-nearly-full": (
        "Redis has used nine tenths of its maxmemory; full, it takes no results",
        (
            "raise maxmemory, lower BRIDGE_RESULT_TTL_S, or put payloads elsewhere "
            "(BRIDGE_PAYLOAD_URL)"
        ),
    ),
    "redis-not-durable": (
        "Redis keeps no append-only file: a restart loses results and whose turn it is",
        "CONFIG SET appendonly yes, and in redis.conf",
    ),
    "pickled-results": (
        "results in Redis are pickled: whoever reads them with pickle runs what was written",
        (
            "find who writes them (stock taskiq-redis pickles by default) and give it a JSON "
            "serializer; keep that Redis from strangers"
        ),
    ),
    "triton-servers-differ": (
        "the Tritons of TRITON_URL have other versions or serve other models",
        "give all the same image and repository, and load models into each",
    ),
    "repository-open": (
        "anybody who reaches Triton may load models, and with them run code",
        (
            "start Triton with --grpc-restricted-protocol and --http-restricted-api "
            "(docs/security.md), and set TRITON_ADMIN_KEY"
        ),
    ),
    "model-unavailable": (
        "Triton knows a model, but could not load it",
        "correct what Triton says, and load it again",
    ),
    "model-fixed-rows": (
        "a model's first dimension has a fixed size, so that it cannot batch",
        "export it with a dynamic first dimension, and set max_batch_size",
    ),
    "model-not-batched": (
        "a model's first dimension is dynamic, but its max_batch_size is 0: requests run alone",
        "leave the first dimension out of `dims`, and set max_batch_size",
    ),
    "repository-missing": (
        "MODEL_REPOSITORY is no folder here; training workers need it",
        "create or mount it, or set MODEL_REPOSITORY; where no training worker runs, never mind",
    ),
    "repository-not-writable": (
        "MODEL_REPOSITORY cannot be written; training workers publish there",
        "let the training workers' user write there; where none runs, never mind",
    ),
    "disk-nearly-full": (
        "a folder that is written to has little room left",
        "free room there, or set the variable to a larger disk",
    ),
    "descriptors-few": (
        "a process of this user may open few files and sockets",
        "ulimit -n 65536, LimitNOFILE of the service, or ulimits of the container",
    ),
    "gpu-driver-broken": (
        "nvidia-smi is installed, but reaches no GPU",
        "see what it says; after an update of the driver, reboot; in a container, reserve the GPU",
    ),
    "gpu-unused": (
        "there is a GPU, but this Python's onnxruntime cannot use it",
        "pip uninstall onnxruntime; pip install 'taskiq-triton-bridge[gpu]'",
    ),
    "worker-pool-unreachable": (
        "no worker pool answers at an address of BRIDGE_WORKER_URLS",
        "start it with BRIDGE_METRICS_PORT, or correct BRIDGE_WORKER_URLS",
    ),
    "worker-not-ready": (
        "a worker process is not ready",
        "mend the part that it names; it goes on by itself",
    ),
}

_NOTES = {
    "not-checked": (
        "something was not looked at, as what it needs is missing",
        "mend that first, and ask again",
    ),
    "queue-is-redis-streams": (
        "tasks wait in Redis Streams, which is for trying things out",
        "use RabbitMQ in production: BRIDGE_QUEUE=rabbitmq",
    ),
    "management-absent": (
        "RabbitMQ's management API cannot be used: no rates, alarms or policies",
        (
            "rabbitmq-plugins enable rabbitmq_management; give the user the tag `monitoring`; or "
            "set RABBITMQ_MANAGEMENT_URL"
        ),
    ),
    "queue-missing": (
        "an exchange or queue does not exist yet",
        "start a worker, which declares it",
    ),
    "queue-not-comparable": (
        "this user may not declare, so that arguments cannot be compared",
        "ask as the workers' user",
    ),
    "dead-letters": (
        "messages lie among the dead letters",
        "`mlbridge dlq list` says why; then `mlbridge dlq replay` or `purge`",
    ),
    "consumer-timeout-unknown": (
        "RabbitMQ's consumer_timeout cannot be read from here",
        (
            "compare what `rabbitmqctl environment` says (30 minutes unless set) with "
            "BRIDGE_TRAINING_SLICE_S by hand"
        ),
    ),
    "prefetch-below-concurrency": (
        "the workers take fewer messages than would keep all of a model's instances busy",
        "raise BRIDGE_PREFETCH or ML_WORKER_COUNT, if that model is to run at its fastest",
    ),
    "redis-unbounded": (
        "Redis has no maxmemory: a full one is ended by the kernel, instead of refusing",
        "set maxmemory below what the machine has",
    ),
    "redis-not-inspectable": (
        "this user may not ask Redis how it is",
        "ask as a user with +info, or look at maxmemory-policy and appendonly by hand",
    ),
    "results-not-listable": (
        "this user may not list keys, so that pickled results are not looked for",
        "ask as a user with +scan and +getrange on all keys",
    ),
    "triton-untested": (
        "Triton is older than the one with which this was tested",
        "use Triton 2.51 (container 24.10) or newer",
    ),
    "admin-key-missing": (
        "Triton's repository protocol asks for a key, and TRITON_ADMIN_KEY is not set",
        "inference workers need none; set it for training workers and `mlbridge models`",
    ),
    "model-no-dynamic-batching": (
        "a model batches, but Triton does not join requests of several workers or direct callers",
        "add `dynamic_batching { }` to its config.pbtxt",
    ),
    "gpu-absent": (
        "there is no NVIDIA GPU or driver here; models run on the CPU",
        "nothing, if Triton runs elsewhere or the CPU is meant; else install NVIDIA's driver",
    ),
    "version-differs": (
        "an installed version is not the tested one",
        "pip install -c constraints.txt 'taskiq-triton-bridge', if something behaves oddly",
    ),
}

catalogue: dict[str, dict[str, tuple[str, str]]] = {
    "ERROR": _ERRORS,
    "WARNING": _WARNINGS,
    "NOTE": _NOTES,
}
