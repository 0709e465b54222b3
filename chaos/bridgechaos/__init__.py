"""Proof that nothing is lost silently: a real stack under load, broken at random, and counted.

Not shipped. `chaos/run.py` starts it and puts this package's folder, never the project's root, on
sys.path. `stack` is what is broken, `proxy` stands between its parts, `plan` says what breaks when
and `faults` how; `producers` submit; `ledger` is the pure judge and `audit` brings it the evidence;
`watch` looks on; `report` and `pages` show.
"""
