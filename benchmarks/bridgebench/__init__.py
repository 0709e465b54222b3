"""Benchmarks of the bridge beside its peers, on private servers, in one run.

Not shipped. `benchmarks/run.py` starts it and puts this package's folder, never the project's
root, on sys.path. `workers` runs inside the competitors' processes and knows nothing of the rest;
`competitors` describes each; `scenarios` measures; `findings` counts; `pages` and `plots` show.
"""
