"""Variables that nobody reads because of a slip of the pen. Pure.

Enters: names of variables. Leaves: those that are nearly a setting's. A worker that serves
another queue than its owner named runs without an error, and nothing arrives.
"""

import difflib
import re
from collections.abc import Collection, Iterable

_OURS = ("BRIDGE_", "TASKIQ_ML_")
_ALIKE = 0.8
# Kubernetes sets such for every service, after the service's name.
_SERVICES = re.compile(r".*_(SERVICE_(HOST|PORT\w*)|PORT|PORT_\d+_\w+)")


def mistyped(names: Iterable[str], known: Collection[str]) -> dict[str, str]:
    """By name, which setting was probably meant.

    Args:
        names: of variables that are set.
        known: those that are read, in capitals.
    """
    found: dict[str, str] = {}
    for name in sorted(set(names)):
        upper = name.upper()
        if upper.startswith(_OURS) and upper not in known and not _SERVICES.fullmatch(upper):
            for meant in difflib.get_close_matches(upper, known, n=1, cutoff=_ALIKE):
                found[name] = meant
    return found
