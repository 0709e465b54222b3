"""The Grafana dashboards, as code: what `deploy/grafana/build.py` writes to JSON.

Enters: nothing but names of metrics (docs/monitoring.md). Leaves: dashboards of the Grafana
Foundation SDK. Knows no server: `queries` reads out of a dashboard what it asks Prometheus, for
those that run it.
"""
