"""The files of a TLS connection, looked at before anything connects.

Enters: paths, as the settings have them. Leaves: nothing, or a ValueError that names the variable.
Else each library would complain in its own way, some only when a connection is first tried, and
OpenSSL would ask a terminal for the passphrase of a key.
"""

import ssl
from pathlib import Path
from typing import NamedTuple


class TlsFiles(NamedTuple):
    """PEM files of one connection; None: the machine's authorities, or no certificate of ours."""

    ca: Path | None
    cert: Path | None
    key: Path | None


def check_files(part: str, files: TlsFiles) -> None:
    """Look whether the files can be read, are what they should be, and belong together.

    Args:
        part: what their variables begin with: "RABBITMQ".
        files: of one connection.

    Raises:
        ValueError: naming the variable.
    """
    ca, cert, key = names = [f"{part}_{kind.upper()}_FILE" for kind in TlsFiles._fields]
    if (files.cert is None) != (files.key is None):
        there, missing = (key, cert) if files.cert is None else (cert, key)
        raise ValueError(
            f"{missing} is not set, but {there} is: they go together (a file that holds both "
            "stands in both)"
        )
    for name, path in zip(names, files, strict=True):
        if path is not None:
            _check_readable(name, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if files.ca is not None:
            context.load_verify_locations(files.ca)
    except ssl.SSLError as error:
        raise ValueError(f"{ca}: {files.ca} holds no certificate in PEM ({_why(error)})") from None
    try:
        if files.cert is not None:
            context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
    except (ssl.SSLError, _PassphraseError) as error:
        raise ValueError(
            f"{cert}, {key}: not a certificate in PEM and its key, without a passphrase "
            f"({_why(error)})"
        ) from None


class _PassphraseError(Exception):
    """OpenSSL asked for a passphrase."""


def _no_passphrase() -> str:
    raise _PassphraseError("the key has a passphrase")


def _why(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


def _check_readable(name: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{name}: cannot read {path} ({error.strerror})") from None
