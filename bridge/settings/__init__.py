"""The only reader of the environment: everything that can be set from outside.

Enters: environment variables. Leaves: one frozen `Settings`. Must not know what is done with it.
"""

from bridge.settings.parts import PARTS, TLS_FILES, Part
from bridge.settings.urls import bracketed
from bridge.settings.whole import Settings, load_settings

__all__ = ["PARTS", "TLS_FILES", "Part", "Settings", "bracketed", "load_settings"]
