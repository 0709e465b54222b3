"""taskiq's worker command with an exit code that says whether a stop left work undone.

Run as `python -P -m bridge.cli.pool`, with the arguments of `taskiq worker`, by `mlbridge worker`.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from taskiq.cli.worker.cmd import WorkerCMD

EXIT_HANDED_BACK = 75
"""EX_TEMPFAIL of sysexits.h: what was in hand goes back to its queue, and will be run elsewhere."""


def main() -> int:
    """Run a pool until it is told to stop; 0, taskiq's own code, or `EXIT_HANDED_BACK`."""
    with tempfile.TemporaryDirectory(prefix="mlbridge-") as folder:
        report = Path(folder) / "handed-back"
        os.environ["BRIDGE_DRAIN_REPORT"] = str(report)  # the processes inherit it
        code = WorkerCMD().exec(sys.argv[1:])
        for process in multiprocessing.active_children():
            process.join()
        if code or not report.exists():
            return code or 0
        count = sum(map(int, report.read_text().split()))
        print(
            f"{count} tasks did not end within the drain timeout; they went back to their queue",
            file=sys.stderr,
        )
        return EXIT_HANDED_BACK


if __name__ == "__main__":
    sys.exit(main())
