"""Signs of life, where nothing else can tell that work goes on. In the training process only."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_S = 60.0  # the parent kills whoever says nothing for half an hour


@contextmanager
def breathing(tell: Callable[[], None], most_s: float = math.inf) -> Iterator[None]:
    """Call `tell` each minute, in a thread, until what is inside has ended.

    Args:
        tell: says that this process lives.
        most_s: for so many seconds at most: what takes longer hangs.
    """
    until = time.monotonic() + most_s

    def breathe() -> None:
        while not over.wait(_EVERY_S) and time.monotonic() < until:
            tell()

    over, thread = threading.Event(), threading.Thread(target=breathe, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
