"""Signs of life, while there is no progress to tell. In the training process only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY_S = 60.0  # the parent kills whoever says nothing for half an hour


@contextmanager
def breathing(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` each minute, in a thread, until what is inside has ended."""

    def breathe() -> None:
        while not over.wait(_EVERY_S):
            tell()

    over, thread = threading.Event(), threading.Thread(target=breathe, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
