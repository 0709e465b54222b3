"""Tries the Dockerfile without an engine: `python -P scripts/try_dockerfile [TARGET...]`.

Each stage's steps run in a Debian root of its own, Debian's Python 3.11 in the place of the
official image's; what came of it then runs as it would in a container: on a network of its own, as
a user without rights, on files that it cannot change. What this does not show: the official base
image, BuildKit's own reading of the Dockerfile, and an engine's networks and limits.

Needs Linux, root and debootstrap, and this project's environment with the extra `test`.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from builder import Builder
from container import TrialError
from dockerfile import DockerfileError, Image, Stage, needed, read_stages
from roots import RootError, missing_tools, size_mb
from trial import ORDER, run_images

_ALONE = "TRY_DOCKERFILE_ALONE"
_NO_TOOLS = 3


def main() -> int:
    """Build the targets, then run them; 0 if all of them did what they are for."""
    project = Path(__file__).parents[2]
    parser = argparse.ArgumentParser(prog="try_dockerfile", description=(__doc__ or "")[:70])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(ORDER)}")
    parser.add_argument("--store", type=Path, default=project / "build" / "images")
    options = parser.parse_args()
    targets = options.targets or list(ORDER)
    if others := sorted(set(targets) - set(ORDER)):  # there is nothing to run in them
        parser.error(f"no image is called {', '.join(others)}; there are {', '.join(ORDER)}")
    if lacking := missing_tools():
        print(f"this machine lacks {', '.join(lacking)}", file=sys.stderr)
        return _NO_TOOLS
    stages = read_stages((project / "Dockerfile").read_text())
    alone = _ALONE in os.environ  # with the internet away, as its first run built all
    builder = Builder(stages, project, options.store.resolve(), reuse=alone)
    try:
        images = _build(builder, stages, targets)
        if not alone:
            return _run_alone()
        rows = asyncio.run(run_images(images))
    except (DockerfileError, RootError, TrialError) as error:
        print(error, file=sys.stderr)
        return 1
    ground = size_mb(builder.root("python"))
    for row in rows:
        row["MB above the base"] = size_mb(images[str(row["target"])][0]) - ground
        print("  ".join(f"{name}: {value}" for name, value in row.items()))
    return 0


def _build(
    builder: Builder, stages: dict[str, Stage], targets: list[str]
) -> dict[str, tuple[Path, Image]]:
    images: dict[str, tuple[Path, Image]] = {}
    for target in targets:
        for name in (name for name in needed(stages, target) if name not in images):
            started = time.perf_counter()
            images[name] = (builder.root(name), builder.build(name))
            took = time.perf_counter() - started
            if took > 1:
                print(f"{name}: built in {took:.0f} s", file=sys.stderr)
    return {target: images[target] for target in targets}


def _run_alone() -> int:
    """This program again, with nothing but a loopback device for a network."""
    again = [sys.executable, "-P", *sys.argv]
    script = 'ip link set lo up && exec "$@"'
    return subprocess.run(
        ["unshare", "--net", "sh", "-c", script, "sh", *again],
        check=False,
        env={**os.environ, _ALONE: "1"},
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
