# Four images from one file; docs/deployment.md tells how they are run, docker-compose.yml runs them.
#
#   docker build --target inference  -t taskiq-triton-bridge/inference .   thin worker, no torch
#   docker build --target training   -t taskiq-triton-bridge/training .    worker with torch
#   docker build --target triton-cpu -t taskiq-triton-bridge/triton-cpu .  Triton without a GPU
#   docker build --target dashboard  -t taskiq-triton-bridge/dashboard .   the Taskiq Dashboard
#
# What is installed is what constraints.txt names. `make images` builds them, and tries what comes of it.

FROM python:3.11-slim-bookworm AS python
# One user, the same in all images, as they share folders. A new volume takes the owner of the
# folder that it is mounted on.
RUN groupadd --gid 10001 bridge \
    && useradd --uid 10001 --gid bridge --home-dir /srv/bridge --shell /usr/sbin/nologin bridge \
    && install --directory --owner bridge --group bridge /srv/bridge /srv/bridge/model_repository \
       /srv/bridge/datasets /srv/bridge/checkpoints /srv/bridge/dashboard \
    && python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1


# The package without its code: what it needs is installed from this, and stays a layer of its own
# that a change of code leaves as it is.
FROM python AS requirements
WORKDIR /source
COPY constraints.txt ./
RUN pip install --constraint constraints.txt hatchling editables
COPY pyproject.toml LICENSE ./
COPY bridge/__init__.py bridge/
RUN touch README.md \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /requirements . \
    && cp constraints.txt /requirements/

FROM requirements AS wheel
COPY README.md ./
COPY triton triton
COPY bridge bridge
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .


# What is the same for both kinds of workers. They stop within BRIDGE_DRAIN_TIMEOUT_S and five
# seconds; an engine that kills after less (Docker: ten) loses nothing, but has tasks run again.
FROM python AS worker
ENV BRIDGE_METRICS_PORT=9464 \
    MODEL_REPOSITORY=/srv/bridge/model_repository \
    DATASET_ROOT=/srv/bridge/datasets \
    CHECKPOINT_ROOT=/srv/bridge/checkpoints
WORKDIR /srv/bridge
EXPOSE 9464
STOPSIGNAL SIGTERM
# Whether it lives, not whether it has work: with Triton away a worker pauses, and a restart would
# mend nothing.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD ["python", "-P", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ['BRIDGE_METRICS_PORT']}/livez\", timeout=5)"]


FROM worker AS inference
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --constraint /requirements/constraints.txt "$(echo /requirements/*.whl)[otel]"
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-deps --force-reinstall /wheel/*.whl
USER 10001
CMD ["mlbridge", "worker", "inference"]


FROM worker AS training
# PyPI's torch is the CUDA build, which runs without a GPU too. For the much smaller CPU
# build, name PyTorch's index of CPU builds: --build-arg TORCH_INDEX_URL=...
ARG TORCH_INDEX_URL=""
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --constraint /requirements/constraints.txt \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} "$(echo /requirements/*.whl)[train,otel]"
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-deps --force-reinstall /wheel/*.whl
USER 10001
CMD ["mlbridge", "worker", "training"]


# The server of the nvidia-pytriton wheel with our onnxruntime backend in Python. With a GPU, use
# NVIDIA's image instead: the same repository, their native backend.
FROM python AS triton-cpu
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --constraint /requirements/constraints.txt "$(echo /requirements/*.whl)[embedded]"
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-deps --force-reinstall /wheel/*.whl
ENV MODEL_REPOSITORY=/srv/bridge/model_repository
WORKDIR /srv/bridge
USER 10001
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=120s --retries=3 \
    CMD ["python", "-P", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=5)"]
CMD ["python", "-P", "-m", "bridge.embedded.container"]


# Nothing of ours but the versions.
FROM python AS dashboard
RUN --mount=type=bind,from=requirements,source=/requirements,target=/requirements \
    pip install --constraint /requirements/constraints.txt "$(echo /requirements/*.whl)[dashboard]"
ENV TASKIQ_DASHBOARD__API__PORT=8000 \
    TASKIQ_DASHBOARD__STORAGE_TYPE=sqlite \
    TASKIQ_DASHBOARD__SQLITE__DSN=sqlite+aiosqlite:////srv/bridge/dashboard/tasks.db
WORKDIR /srv/bridge/dashboard
USER 10001
EXPOSE 8000
# Its server knows no other, and the first process of a container gets none that it does not handle.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["python", "-P", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ['TASKIQ_DASHBOARD__API__PORT']}/readiness\", timeout=5)"]
CMD ["python", "-P", "-m", "taskiq_dashboard.api"]
