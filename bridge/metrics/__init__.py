"""Figures for Prometheus, of all processes of a worker pool together, alive or dead.

Enters: what happens, as a `bridge.observer.Observer` hears it, and how things stand once a second.
Leaves: Prometheus' text format. Counters and histograms of each process lie in a file of its own,
which stays when it dies; gauges in another, which then counts no more. Who is scraped reads all.
Import its modules only in a worker that has BRIDGE_METRICS_PORT: `series` makes the folder.
"""
