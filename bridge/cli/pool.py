"""taskiq's worker command with an exit code that says whether a stop left work undone.

Run as `python -P -m bridge.cli.pool`, with the arguments of `taskiq worker`, by `mlbridge worker`.
"""

import logging
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from taskiq.cli.worker.cmd import WorkerCMD

from bridge import log_lines
from bridge.settings import load_settings

EXIT_HANDED_BACK = 75
"""EX_TEMPFAIL of sysexits.h: what was in hand goes back to its queue, and will be run elsewhere."""


def main() -> int:
    """Run a pool until it is told to stop; 0, taskiq's own code, or `EXIT_HANDED_BACK`."""
    settings = load_settings()
    if (
        settings.bridge_log_format == "json"
    ):  # before taskiq, which leaves a log alone that is set up
        logging.basicConfig(level=logging.INFO)
        log_lines.write("json", settings.secrets)
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
