"""Other settings of Celery and of the hand-written loop: whether they are set up as well as can be.

The fastest of a peer's is what `drain` has to run; it is set there by hand, once it is known.
"""

from collections.abc import Mapping, Sequence
from itertools import product

from bridgebench.competitors import CeilingBinary, CeilingJson, Celery, Competitor
from bridgebench.draining import Drain
from bridgebench.findings import Finding, Report, Spread
from bridgebench.ground import Ground
from bridgebench.scenarios.drain import drain_in_turns, plain, table
from bridgebench.scenarios.run import Run

NAME = "variants"
TITLE = "Peers in other settings"
_CELERY = (("prefork", 2), ("prefork", 4), ("prefork", 8), ("threads", 4), ("threads", 16))
_LOOP = tuple(product((1, 2, 4), (256, 1024)))  # batches out, prefetch

Group = Sequence[Competitor]
"""One peer: first as `drain` runs it, then in other settings."""


async def measure(run: Run) -> Report:
    """All of them take turns, as in `drain`."""
    groups = made(run.ground)
    if run.options.quick:
        groups = {title: group[:2] for title, group in groups.items()}
    everybody = [each for group in groups.values() for each in group]
    drains = await drain_in_turns(run, everybody, run.few_repetitions)
    return _report(groups, drains)


def made(ground: Ground) -> dict[str, Group]:
    """By the peer's name."""
    celery = [Celery(ground), *(Celery(ground, *each) for each in _CELERY)]
    groups: dict[str, Group] = {"Celery": celery}
    for kind in (CeilingJson, CeilingBinary):
        groups[kind.title] = [kind(ground), *(kind(ground, *each) for each in _LOOP)]
    # What `drain` runs is among the others too.
    return {
        title: list({each.key: each for each in group}.values()) for title, group in groups.items()
    }


def _report(groups: Mapping[str, Group], drains: Mapping[str, list[Drain]]) -> Report:
    report = Report(NAME, TITLE)
    for title, group in groups.items():
        titles = {each.key: each.title for each in group}
        own = {key: drains[key] for key in titles}
        rates = {key: [drain.per_s for drain in each] for key, each in own.items()}
        usual = group[0].key
        fastest = max(rates, key=lambda key: Spread.of(rates[key]).median)
        report.findings.append(
            Finding(
                f"tasks/s, {title}: {titles[fastest]} : as in `drain`",
                Spread.ratio(rates[fastest], rates[usual]),
            )
        )
        report.tables.append(table(f"{title}, first as in `drain`", titles, own, usual))
        report.data |= plain(titles, own)
    return report
