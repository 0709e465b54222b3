"""Traces of tasks, by OpenTelemetry: the only room that touches it.

Enters: settings and tasks. Leaves: spans, to whichever collector OpenTelemetry's own variables
name. Importing this package does not import OpenTelemetry, which is the extra `otel`.
"""

from bridge.traces.middleware import TracesMiddleware

__all__ = ["TracesMiddleware"]
