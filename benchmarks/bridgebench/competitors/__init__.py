"""Who is measured. A competitor says how its queue, messages, worker and results are.

Each is set up in good faith: what its documentation recommends, and of what was tried, the
fastest. Their worker processes run `bridgebench.workers`.
"""

from bridgebench.competitors.ceiling import CeilingBinary, CeilingJson
from bridgebench.competitors.celery import Celery
from bridgebench.competitors.dramatiq import Dramatiq
from bridgebench.competitors.ours import OursBinary, OursJson
from bridgebench.competitors.protocol import Competitor
from bridgebench.competitors.stock import StockClassic, StockQuorum

ALL: tuple[type[Competitor], ...] = (
    OursJson,
    OursBinary,
    StockQuorum,
    StockClassic,
    Celery,
    Dramatiq,
    CeilingJson,
    CeilingBinary,
)
"""In the order in which they take turns."""

__all__ = [
    "ALL",
    "CeilingBinary",
    "CeilingJson",
    "Celery",
    "Competitor",
    "Dramatiq",
    "OursBinary",
    "OursJson",
    "StockClassic",
    "StockQuorum",
]
