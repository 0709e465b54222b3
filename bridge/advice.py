"""Which variable to look at when a server cannot be used: how errors' sentences end.

Enters: what a library said. Leaves: advice. It goes by the text, as each library wraps what
happened in errors of its own, and gRPC gives nothing but text; all carry OpenSSL's words through.
"""

from typing import NamedTuple


class Server(NamedTuple):
    """One server's variables."""

    part: str
    """What its files' variables begin with."""
    address: str
    switch: str
    """What turns TLS on."""


RABBITMQ = Server("RABBITMQ", "RABBITMQ_HOST and RABBITMQ_PORT", "RABBITMQ_TLS")
REDIS = Server("REDIS", "REDIS_URL", "rediss:// in REDIS_URL")
PAYLOADS = Server("REDIS", "BRIDGE_PAYLOAD_URL", "rediss:// in BRIDGE_PAYLOAD_URL")
TRITON = Server("TRITON", "TRITON_URL", "TRITON_TLS")

_UNTRUSTED = ("certificate_verify_failed", "hostname verification", "verification check")
_REFUSED = ("_alert_",)
_NO_TLS = ("wrong_version_number", "handshake", "record_layer_failure")
_CLOSED = ("closed", "reset by peer", "connection lost", "broken pipe", "bytes read")


def tls_advice(said: str, server: Server, *, encrypted: bool) -> str | None:
    """What to look at if TLS is, or may be, the reason; None where it cannot be.

    Args:
        said: the library's own text.
        server: whose variables to name.
        encrypted: whether we spoke TLS.
    """
    said, part = said.lower(), server.part
    if any(word in said for word in _UNTRUSTED):
        return (
            f"TLS failed, as its certificate is not trusted: check {part}_CA_FILE, and that "
            f"{server.address} has a name that stands in the certificate"
        )
    if any(word in said for word in _REFUSED):
        return (
            f"TLS failed, as it refuses our certificate: check {part}_CERT_FILE and {part}_KEY_FILE"
        )
    if any(word in said for word in _NO_TLS):
        return f"TLS failed: does it speak TLS there? Check {server.address}, and {server.switch}"
    if any(word in said for word in _CLOSED):
        if encrypted:
            return f"if it asks for a client certificate, check {part}_CERT_FILE"
        return f"if it speaks TLS there, set {server.switch}"
    return None


def redis_advice(error: Exception, shown: str, server: Server = REDIS) -> str:
    """What to look at after an error of redis-py's.

    Args:
        error: what it raised.
        shown: the URL, without its secrets.
        server: whose variables to name.
    """
    kind = type(error).__name__
    if kind.startswith("Authentication"):  # also AuthenticationWrongNumberOfArgsError
        return f"check user and password in {server.address}"
    if kind == "NoPermissionError":
        return f"its user in {server.address} lacks rights: docs/security.md lists what is needed"
    if "used memory > 'maxmemory'" in str(error):  # of a pipeline or script, no class of its own
        return "it is full: docs/runbook.md, RedisNearLimit, says how to make room"
    encrypted = shown.startswith("rediss:")
    if encrypted and kind == "TimeoutError":  # a Redis without TLS does not answer a TLS greeting
        return f"check {server.address}: does it speak TLS there?"
    return tls_advice(str(error), server, encrypted=encrypted) or f"check {server.address}"
