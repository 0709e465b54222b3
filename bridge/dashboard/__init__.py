"""Tells a Taskiq Dashboard (PyPI `taskiq-dashboard`) of tasks, over its HTTP API.

Enters: what taskiq, and our intake, tell middlewares. Leaves: small JSON documents without tensors,
sent by a thread of their own from a bounded buffer: a dashboard that is down or slow costs entries
on its pages, and no task anything. Does not need the dashboard's package.
"""

from bridge.dashboard.reporter import DashboardReporter

__all__ = ["DashboardReporter"]
