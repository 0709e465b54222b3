"""What goes wrong in practice, looked for, each with its remedy.

Enters: settings. Leaves: findings, worst first; no exception. One function for each check, all at
the same time, each within seconds. Nothing is changed but a hidden, empty folder in the model
repository, which is gone at once. Must not know how findings are shown.
"""

from bridge.doctor.examination import CHECKS, examine
from bridge.doctor.findings import KINDS, Finding, Kind, Severity, finding

__all__ = ["CHECKS", "KINDS", "Finding", "Kind", "Severity", "examine", "finding"]
