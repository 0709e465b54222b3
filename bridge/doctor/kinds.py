"""The catalogue: the remedy of each finding's code; docs/operating.md says what each means."""

_ERRORS = {
    "settings-unusable": "correct the variable that is named; docs/settings.md lists all",
    "rabbitmq-unreachable": "start RabbitMQ, or correct the RABBITMQ_* variable that is named",
    "rabbitmq-alarm": "free memory or disk on that node, or set its limits to what the machine has",
    "consumer-timeout-short": (
        "raise RabbitMQ's consumer_timeout, or lower BRIDGE_TRAINING_SLICE_S or "
        "BRIDGE_INFER_TIMEOUT_S"
    ),
    "redis-unreachable": "start Redis, or correct REDIS_URL",
    "redis-evicts": (
        "CONFIG SET maxmemory-policy noeviction, and in redis.conf; give the bridge a Redis of "
        "its own"
    ),
    "redis-write-fails": "see Redis' log; free its disk, or correct the rights on its folder",
    "triton-unavailable": "start it, or correct TRITON_URL; its log says which model it waits for",
    "admin-key-refused": "set TRITON_ADMIN_KEY to the key that Triton was started with",
    "backend-missing": "correct `backend` in its config.pbtxt, or use a Triton that has it",
    "repository-elsewhere": (
        "mount the same folder for Triton and for training workers, and set MODEL_REPOSITORY to it"
    ),
    "disk-full": "free room there, or set the variable to a larger disk",
}

_WARNINGS = {
    "check-failed": (
        "if what it looks at is up, report this with the versions of `mlbridge --version`"
    ),
    "rabbitmq-descriptors": (
        "raise its limit (LimitNOFILE of its service, or ulimits of its container) to 65536"
    ),
    "queue-differs": (
        "drain and delete it, and a worker makes ours; or set TASKIQ_ML_QUEUE_TYPE to what it is"
    ),
    "exchange-differs": (
        "set TASKIQ_ML_EXCHANGE_TYPE to what it is, or delete it, and a worker makes ours"
    ),
    "queue-unserved": "start workers (`mlbridge worker`); if they run, they pause: see Triton",
    "consumer-timeout-near": "raise consumer_timeout, or lower BRIDGE_TRAINING_SLICE_S",
    "prefetch-below-batch": "raise BRIDGE_PREFETCH to a few times the model's max_batch_size",
    "redis-would-evict": "CONFIG SET maxmemory-policy noeviction, and in redis.conf",
    "redis-nearly-full": (
        "raise maxmemory, lower BRIDGE_RESULT_TTL_S, or put payloads elsewhere (BRIDGE_PAYLOAD_URL)"
    ),
    "redis-not-durable": "CONFIG SET appendonly yes, and in redis.conf",
    "pickled-results": (
        "find who writes them (stock taskiq-redis pickles by default) and give it a JSON "
        "serializer; keep that Redis from strangers"
    ),
    "triton-servers-differ": "give all the same image and repository, and load models into each",
    "repository-open": (
        "start Triton with --grpc-restricted-protocol and --http-restricted-api "
        "(docs/security.md), and set TRITON_ADMIN_KEY"
    ),
    "model-unavailable": "correct what Triton says, and load it again: `mlbridge load MODEL`",
    "model-fixed-rows": "export it with a dynamic first dimension, and set max_batch_size",
    "model-not-batched": "leave the first dimension out of `dims`, and set max_batch_size",
    "repository-missing": (
        "create or mount it, or set MODEL_REPOSITORY; where no training worker runs, never mind"
    ),
    "repository-not-writable": (
        "let the training workers' user write there; where none runs, never mind"
    ),
    "disk-nearly-full": "free room there, or set the variable to a larger disk",
    "descriptors-few": "ulimit -n 65536, LimitNOFILE of the service, or ulimits of the container",
    "gpu-driver-broken": (
        "see what it says; after an update of the driver, reboot; in a container, reserve the GPU"
    ),
    "torch-without-gpu": (
        "update the driver, or install PyTorch's build for its CUDA; where nothing is trained, or "
        "on processors on purpose, never mind"
    ),
    "worker-pool-unreachable": "start it with BRIDGE_METRICS_PORT, or correct BRIDGE_WORKER_URLS",
    "worker-not-ready": "mend the part that it names; it goes on by itself",
}

_NOTES = {
    "not-checked": "mend that first, and ask again",
    "queue-is-redis-streams": "use RabbitMQ in production: BRIDGE_QUEUE=rabbitmq",
    "management-absent": (
        "rabbitmq-plugins enable rabbitmq_management; give the user the tag `monitoring`; or "
        "set RABBITMQ_MANAGEMENT_URL"
    ),
    "queue-missing": "start a worker, which declares it",
    "queue-not-comparable": "ask as the workers' user",
    "dead-letters": "`mlbridge dlq list` says why; then `mlbridge dlq replay` or `purge`",
    "consumer-timeout-unknown": (
        "compare what `rabbitmqctl environment` says (30 minutes unless set) with "
        "BRIDGE_TRAINING_SLICE_S by hand"
    ),
    "prefetch-below-concurrency": (
        "raise BRIDGE_PREFETCH or ML_WORKER_COUNT, if that model is to run at its fastest"
    ),
    "redis-unbounded": "set maxmemory below what the machine has",
    "redis-not-inspectable": (
        "ask as a user with +info, or look at maxmemory-policy and appendonly by hand"
    ),
    "results-not-listable": "ask as a user with +scan and +getrange on all keys",
    "triton-untested": "use Triton 2.51 (container 24.10) or newer",
    "admin-key-missing": (
        "inference workers need none; set it for training workers and `mlbridge models`"
    ),
    "model-no-dynamic-batching": "add `dynamic_batching { }` to its config.pbtxt",
    "gpu-absent": (
        "nothing, if Triton runs elsewhere or the CPU is meant; else install NVIDIA's driver"
    ),
    "gpu-unused": (
        "nothing, if Triton runs elsewhere, as in containers; to serve from here: pip uninstall "
        "onnxruntime; pip install 'taskiq-triton-bridge[gpu]'"
    ),
    "version-differs": (
        "pip install -c constraints.txt 'taskiq-triton-bridge', if something behaves oddly"
    ),
}

catalogue: dict[str, dict[str, str]] = {
    "ERROR": _ERRORS,
    "WARNING": _WARNINGS,
    "NOTE": _NOTES,
}
