"""What counting costs: processor time for each message of an inference worker, on and off.

    python -P benchmarks/metrics_cost.py

Tells an observer what a worker tells for each message, in batches of 16, and nothing else: no
server is needed. Off is an observer that does nothing.
"""

import time
from statistics import median

from taskiq import TaskiqMessage

from bridge.errors import Outcome
from bridge.metrics.counts import Counts
from bridge.metrics.labels import Labels
from bridge.observer import SILENT, Observer

BATCH = 16
BATCHES = 1000
WRITTEN = 50
"""After so many batches: a worker writes four times a second, and does more between."""
REPETITIONS = 7
ANSWER = {"model_name": "m", "model_version": "1"}


def messages() -> list[TaskiqMessage]:
    """One batch of them."""
    return [
        TaskiqMessage(
            task_id=f"{number:032x}", task_name="ml_inference", labels={}, args=["m"], kwargs={}
        )
        for number in range(BATCH)
    ]


def one_batch(observer: Observer, batch: list[TaskiqMessage]) -> None:
    """What intake and batcher tell of so many messages."""
    for message in batch:
        observer.received(400)
        observer.taken(message, 0.1)
        observer.begun(message)
    observer.sent("m", BATCH, [0.001] * BATCH)
    observer.answered("m", "1", 0.005)
    for message in batch:
        observer.saved(300, 0.002)
        observer.ended(message, ANSWER, Outcome.SUCCEEDED, 0.01)
        observer.left(message)


def cost_us(observer: Observer) -> float:
    """Microseconds of this process's time for one message."""
    batch = messages()
    started = time.process_time()
    for number in range(BATCHES):
        one_batch(observer, batch)
        if isinstance(observer, Counts) and number % WRITTEN == 0:
            observer.write()
    return (time.process_time() - started) / (BATCHES * BATCH) * 1e6


def main() -> None:
    """Measure, and print both."""
    labels = Labels(
        {"ml_inference"}.__contains__,
        {"m"}.__contains__,
        {"ml_inference": lambda message, value: (message.args[0], (value or {}).get("v"))},
    )
    on, off = [], []
    for _ in range(REPETITIONS):  # by turns: the machine has other things to do
        on.append(cost_us(Counts(labels)))
        off.append(cost_us(SILENT))
    print(f"on  {median(on):6.2f} microseconds a message ({min(on):.2f} to {max(on):.2f})")
    print(f"off {median(off):6.2f} microseconds a message ({min(off):.2f} to {max(off):.2f})")


if __name__ == "__main__":
    main()
