"""A small process that outlives its owner by a moment, to clean up after it.

Started by `StateFolder` as `python -P -m bridge.embedded.keeper FOLDER`, with a pipe as its
standard input. Enters: one line `PID STARTED` per session that the owner starts. The end of
the pipe means that the owner has ended, even by SIGKILL: then it ends what is left of those
processes, removes the folder, and exits.
"""

import signal
import sys
from pathlib import Path

from bridge.embedded.leftovers import Session, remove_state

_GRACE_S = 3.0


def main(folder: Path) -> None:
    """Wait for the owner's end, then leave nothing of `folder`."""
    # Ctrl-C and a closed terminal reach the owner, too; it decides when all is over.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions: list[Session] = []
    for line in sys.stdin:
        pid, started = line.split()
        sessions.append(Session(int(pid), float(started)))
    remove_state(folder, sessions, grace_s=_GRACE_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
