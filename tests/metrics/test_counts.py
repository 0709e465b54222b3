"""What a training pool counts; in a process of its own, as counting makes files."""

import os
import subprocess
import sys

_SLICES = """
from prometheus_client import REGISTRY

from bridge.metrics.counts import Counts
from bridge.metrics.labels import _MOST_MODELS, Labels

counts = Counts(Labels(lambda name: False, lambda name: False, {}))


def ended(model, how):
    found = REGISTRY.get_sample_value(
        "bridge_training_slices_total", {"model": model, "outcome": how}
    )
    return int(found or 0)


counts.slice_ended("fresh", "failed")  # before it said how far it is
counts.progressed("other", {"epoch": 1})
counts.slice_ended("other", "finished")
print(ended("fresh", "failed"), ended("other", "finished"), ended("unknown", "failed"))
for number in range(_MOST_MODELS):
    counts.progressed(f"m{number}", {"epoch": 1})
    counts.slice_ended(f"m{number}", "finished")
print(len(list(counts.standing())))
"""


def test_each_slice_is_of_its_model_and_leaves_no_gauge(tmp_path):
    """Of a model that Triton does not have yet, also where it failed before its first report."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _SLICES],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # where the pool's folder is made
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1", "0", "0"]
