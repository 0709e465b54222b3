"""Payloads: the bytes of large tensors, kept beside their messages.

Enters: bytes and references. Leaves: references, and exactly the bytes that were referred to, or
an error that says what is wrong with them. The store is what the settings name: S3 and its kind
or a folder (through obstore), or Redis. Must not know messages, queues or models.
"""

from bridge.payloads.stores import open_store
from bridge.payloads.transfers import Payloads
from bridge.settings import Settings

__all__ = ["TAKES_REFERENCES", "Payloads", "open_payloads"]

TAKES_REFERENCES = "takes_references"
"""Label of a caller who can read large outputs from the store."""


def open_payloads(settings: Settings) -> Payloads | None:
    """What moves payloads to and from the store that the settings name; None if they name none.

    Nothing is connected before the first transfer. Call it after any fork.

    Raises:
        SettingsError: the store's settings do not fit together.
    """
    store = open_store(settings)
    return None if store is None else Payloads(store, settings)
