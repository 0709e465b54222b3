"""What the settings know of URLs and their parts. Pure."""

from urllib.parse import urlencode, urlsplit, urlunsplit

from bridge.certificates import TlsFiles


def bracketed(host: str) -> str:
    """A host as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def query_of(names: tuple[str, str, str], files: TlsFiles) -> str:
    """What a URL says of certificate files, by the names that its reader has for them."""
    return urlencode({name: str(path) for name, path in zip(names, files, strict=True) if path})


def is_port(text: str) -> bool:
    """Whether a text is a port that can be connected to; gRPC takes 70000 as 4464, silently."""
    return text.isascii() and text.isdigit() and 0 < int(text[:10]) < 2**16


def is_clear(url: str) -> bool:
    """Whether a URL has a host, and its password ends where everybody thinks that it does."""
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and "@" not in parts.path + parts.query + parts.fragment


def without_secrets(url: str) -> str:
    """A URL without user, password and options."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
