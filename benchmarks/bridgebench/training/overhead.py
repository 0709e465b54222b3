"""What queue, slices and checkpoints cost beside the same training by hand."""

import functools
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from bridgebench.findings import Finding, Report, Spread, Table
from bridgebench.scenarios.run import Run
from bridgebench.training.ways import Pool, Trained, pools, train_by_hand
from bridgebench.training.works import Sizes, Work, digits, synthetic

NAME = "overhead"
TITLE = "The same training through the queue and by hand"
_AIM = 1.05
_SAME_LOSS = 1e-4  # of float32 means that are taken in another order
TITLES = {
    "hand": "by hand, Lightning alone",
    "hand_checkpoints": "by hand, ModelCheckpoint after each epoch",
    "ours": "ours, default slices and checkpoints",
    "ours_short": "ours, short slices",
}

_CLOCK = (
    "Training is Lightning's loop, from its first batch to its end, with validation after each "
    "epoch. The whole is, by hand, from the start of the process to weights on the disk; of ours, "
    "from the call, through queue, export, proof and Triton, to a live model and its result. A "
    "training process that waits for the call (`BRIDGE_TRAINING_SPARE`) has loaded torch by then; "
    "what that took is in no figure but that of a further slice."
)
_UNREADY = (
    "Not so {} times, in which a worker kept no process ready: memory was short, or "
    "`BRIDGE_TRAINING_SPARE` is false."
)
_TURNS = (
    "Before each training, by hand or not, both workers had loaded the process that they keep "
    "ready, so that it did not load beside another's training."
)
_HAND = (
    "The script by hand picks rows a batch at a time, as ours does, in the same order; torch's own "
    "DataLoader, which picks row by row, would be slower. It keeps its metrics by Lightning's "
    "`self.log`, as most do; ours does not, and reports progress each second."
)
_THREADS = (
    "Torch has {} thread in both ways (`--threads`). CPU seconds say what they cost where other "
    "programs take turns on the same cores, and make seconds on the clock longer."
)
_SHORT = (
    "Short slices last {:g} s. Their training time leaves out starting, loading and resuming, "
    "which the whole has; what one more slice costs is the difference of the wholes, divided by "
    "the slices more."
)

Round = dict[str, Trained]


async def measure(run: Run, sizes: Sizes) -> Report:
    """All ways take turns, on servers and workers that run all the time."""
    works = [digits(sizes.digits_epochs)]
    if not run.options.quick:
        works.append(synthetic(sizes.synthetic_epochs))
    short = {"BRIDGE_TRAINING_SLICE_S": str(sizes.short_slice_s)}
    rounds: dict[str, list[Round]] = defaultdict(list)
    unready: list[Pool] = []
    async with pools(run, sizes, bench_default={}, bench_short=short) as made:
        for number in range(run.options.repetitions):
            for work in works:
                each = _ways(run, made, work, sizes)
                one: Round = {}
                for name in in_turns(list(each), number):
                    unready += [pool for pool in made.values() if not await pool.rest()]
                    one[name] = await each[name]()
                rounds[work.name].append({name: one[name] for name in each})
                found = {name: round(rounds[work.name][-1][name].whole_s, 1) for name in each}
                run.say(f"  {work.title}, round {number + 1}, s in all: {found}")
    report = _report(works, rounds, sizes)
    report.notes.append(f"{_TURNS} {_UNREADY.format(len(unready))}" if unready else _TURNS)
    return report


def in_turns(ways: Sequence[str], number: int) -> list[str]:
    """The order of a round: in as many rounds as there are ways, each follows each other one once.

    E. J. Williams, "Experimental Designs Balanced for the Estimation of Residual Effects of
    Treatments", 1949. For an even number of ways.
    """
    count = len(ways)
    zigzag = [(at + 1) // 2 if at % 2 else -(at // 2) for at in range(count)]
    return [ways[(at + number) % count] for at in zigzag]


def _ways(
    run: Run, made: dict[str, Pool], work: Work, sizes: Sizes
) -> dict[str, Callable[[], Awaitable[Trained]]]:
    datasets = made["bench_default"].datasets
    by_hand = functools.partial(train_by_hand, work, sizes, run.ground.state, datasets)
    return {
        "hand": functools.partial(by_hand, checkpoints=False),
        "hand_checkpoints": functools.partial(by_hand, checkpoints=True),
        "ours": functools.partial(made["bench_default"].train, work),
        "ours_short": functools.partial(made["bench_short"].train, work),
    }


def _report(works: Sequence[Work], rounds: dict[str, list[Round]], sizes: Sizes) -> Report:
    report = Report(NAME, TITLE)
    for work in works:
        each = rounds[work.name]
        report.findings += _findings(work, each)
        report.tables.append(_table(work, each))
        report.notes.append(_fairness(work, each))
        report.data[work.name] = [
            {name: asdict(trained) for name, trained in one.items()} for one in each
        ]
    report.notes += [
        _CLOCK,
        _HAND,
        _THREADS.format(sizes.threads),
        _SHORT.format(sizes.short_slice_s),
    ]
    return report


def _findings(work: Work, rounds: list[Round]) -> list[Finding]:
    def ratio(field: str, way: str, to: str) -> Spread:
        return Spread.ratio(
            [getattr(one[way], field) for one in rounds],
            [getattr(one[to], field) for one in rounds],
        )

    return [
        Finding(
            f"{work.title}: training, ours : by hand",
            ratio("train_s", "ours", "hand"),
            at_most=_AIM,
        ),
        Finding(
            f"{work.title}: training, ours : by hand with ModelCheckpoint",
            ratio("train_s", "ours", "hand_checkpoints"),
        ),
        Finding(
            f"{work.title}: the whole, ours to a live model : by hand",
            ratio("whole_s", "ours", "hand"),
        ),
        Finding(
            f"{work.title}: the whole without going live, ours : by hand",
            Spread.ratio(
                [_before_live(one["ours"]) for one in rounds],
                [one["hand"].whole_s for one in rounds],
            ),
            at_most=_AIM,
        ),
        Finding(
            f"{work.title}: CPU seconds of the whole, ours to a live model : by hand",
            ratio("cpu_s", "ours", "hand"),
        ),
        Finding(
            f"{work.title}: what one more slice costs",
            Spread.of([_slice_s(one, "whole_s") for one in rounds]),
            unit="s",
        ),
        Finding(
            f"{work.title}: what one more slice costs, CPU",
            Spread.of([_slice_s(one, "cpu_s") for one in rounds]),
            unit="s",
        ),
    ]


def _before_live(trained: Trained) -> float:
    """Seconds to trained weights: what comes after has no counterpart by hand."""
    after = {key: value for key, value in (trained.timings or {}).items() if key != "train_s"}
    return trained.whole_s - sum(after.values())


def _slice_s(one: Round, field: str) -> float:
    short, long = one["ours_short"], one["ours"]
    more = short.slices - long.slices
    return (getattr(short, field) - getattr(long, field)) / more if more else math.nan


def _table(work: Work, rounds: list[Round]) -> Table:
    rows = []
    for name, title in TITLES.items():
        each = [one[name] for one in rounds]
        outside = [_before_live(trained) - trained.train_s for trained in each]
        live = [trained.whole_s - _before_live(trained) for trained in each]
        rows.append(
            (
                title,
                Spread.of([trained.train_s for trained in each]).shown(),
                Spread.of(outside).shown(),
                Spread.of(live).shown() if each[0].timings else "-",
                Spread.of([trained.whole_s for trained in each]).shown(),
                Spread.of([trained.cpu_s for trained in each]).shown(),
                Spread.of([float(trained.slices) for trained in each]).shown(),
                f"{each[0].accuracy:.4f}, {each[0].loss:.4f}",
            )
        )
    return Table(
        f"{work.title}, {work.epochs} epochs in batches of {work.batch_size}; seconds",
        (
            *("", "training", "queue, start, reading, checkpoints", "going live", "the whole"),
            *("CPU", "slices", "accuracy, loss"),
        ),
        tuple(rows),
    )


def _fairness(work: Work, rounds: list[Round]) -> str:
    """Whether all ways came to the same network, as far as metrics tell."""
    all_of_them = [trained for one in rounds for trained in one.values()]
    losses = [trained.loss for trained in all_of_them]
    same = len({round(trained.accuracy, 6) for trained in all_of_them}) == 1
    if same and max(losses) - min(losses) <= _SAME_LOSS:
        return (
            f"{work.title}: all ways, in all rounds, end with the same accuracy, and with losses "
            f"within {max(losses) - min(losses):.1g}."
        )
    return (
        f"{work.title}: the ways do NOT end alike: losses from {min(losses):.6f} to "
        f"{max(losses):.6f}. Threads of torch's add in an order that changes from run to run where "
        "networks are large."
    )
