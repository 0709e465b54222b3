"""The only reader of the environment: everything that can be set from outside.

Enters: environment variables; an empty one is an unset one. Leaves: one frozen `Settings`. Must not
know what is done with it.
"""

from bridge.settings.whole import (
    PARTS,
    TLS_FILES,
    Part,
    Settings,
    bracketed,
    load_settings,
)

__all__ = ["PARTS", "TLS_FILES", "Part", "Settings", "bracketed", "load_settings"]
