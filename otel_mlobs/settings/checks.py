"""Whether a value can be what it is given for; what is wrong raises with the value, unless that may be a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from otel_mlobs.errors import ConfigurationError

if TYPE_CHECKING:
    from otel_mlobs.settings.records import Signal


_NO_PORT = re.compile(r"^(\[[^\]/]*\]|[^:/]*):(?!\d{0,5}(?:/|$))[^/]*")
_SHORTEST_SECRET = 4


def redacted(url: str) -> str:
    """``url`` without what may hold secrets: user information, query, and a port that is none; it may be invalid."""
    scheme, sign, rest = url.partition("://") if "://" in url else ("", "", url)
    # A password may hold any of "/?#" by mistake: what stands before the last "@" goes, whatever it is.
    rest = rest.rpartition("@")[2]
    kept = re.split(r"[?#]", rest, maxsplit=1)[0]
    query = "?***" if kept != rest else ""
    return scheme + sign + _NO_PORT.sub(r"\1:***", kept) + query


def hidden(text: str, url: str, headers: Mapping[str, str]) -> str:
    """``text`` without the secrets of ``url`` and ``headers``, and without the words that these consist of."""
    try:
        parts = urlsplit(url)
        secrets = [parts.query, parts.password or "", *(value for _, value in parse_qsl(parts.query))]
    except ValueError:
        secrets = []
    for value in headers.values():
        # "Bearer <token>": who answers quotes the token alone. Shorter words would hide half of what is said.
        secrets += [value, *(word for word in re.split(r"[\s,;=]+", value) if len(word) >= _SHORTEST_SECRET)]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):  # a part goes after what it is a part of
        text = text.replace(secret, "***")
    return text


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


def headers_of(blame: str, given: Any) -> dict[str, str]:
    """Headers by lower-case name; no message shows a value."""
    if isinstance(given, str):
        pairs = [pair.partition("=") for pair in given.split(",") if pair.strip()]
        if any(not key.strip() or not sign for key, sign, _ in pairs):
            raise ConfigurationError(f"{blame} must read key=value,key=value (its value is not shown)")
        given = {unquote(key.strip()): unquote(value.strip()) for key, _, value in pairs}
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{blame} must be a mapping of strings, got a {type(given).__name__}")
    for key, value in given.items():
        check_header_name(blame, key)
        if not isinstance(value, str):
            raise ConfigurationError(f"{blame}: header {key!r} must have a string as its value, got {_kind(value)}")
        if any(sign in value for sign in "\r\n"):
            raise ConfigurationError(f"{blame}: the value of header {key!r} has a line break in it (it is not shown)")
        if not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(f"{blame}: the value of header {key!r} is not ASCII (it is not shown)")
    return {key.lower(): value.strip() for key, value in given.items()}


def check_header_name(blame: str, key: object) -> None:
    """Raise unless ``key`` can be a header's name; it is not shown whole."""
    if not isinstance(key, str):
        raise ConfigurationError(f"{blame}: a header's name must be a string, got {_kind(key)}")
    if not _HEADER_NAME.fullmatch(key):
        begun = _HEADER_NAME.match(key)  # what follows may be the secret itself, as in "authorization: Bearer …"
        raise ConfigurationError(
            f"{blame}: a name that begins with {begun.group() if begun else ''!r} is no header name: letters, "
            "digits and hyphens were expected"
        )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def check_certificates(files: Mapping[str, str | None]) -> None:
    """Try what TLS will be given, so that a wrong file is said now and not by every export."""
    authorities, certificate, key = files["certificate"], files["client_certificate"], files["client_key"]
    if key and not certificate:
        raise ConfigurationError("client_key is given without client_certificate: TLS needs both")
    if not authorities and not certificate:
        return
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities:
        try:
            context.load_verify_locations(authorities)
        except OSError as error:
            raise ConfigurationError(f"certificate={authorities!r} holds no certificate in PEM form") from error
    if certificate:
        try:
            context.load_cert_chain(certificate, key, password=lambda: "")
        except OSError as error:
            raise ConfigurationError(
                f"client_certificate={certificate!r} and client_key={key!r} are no certificate with its key in PEM "
                "form, without a pass phrase"
            ) from error


_SIGNALS_PATH = re.compile(r"/v1/(traces|metrics|logs)$")


def complete(blame: str, url: Any, signal: Signal, protocol: str) -> str:
    """Add the signal's path to a base URL; where a signal's path is there already, it is replaced."""
    if not isinstance(url, str):
        raise ConfigurationError(f"{blame} must be a URL, as http://localhost:4318, got {_kind(url)}")
    base = url.strip()
    if protocol == "grpc" or "://" not in base:
        return base
    base, *query = re.split(r"(?=[?#])", base, maxsplit=1)
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{_SIGNALS_PATH.sub('', rest.rstrip('/'))}/v1/{signal}" + "".join(query)


def check_url(blame: str, url: str, protocol: str) -> None:
    """Raise unless ``url`` is one that an exporter can send to, shown without what may be secret."""
    shown = redacted(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        if "port" in str(error).lower():
            message = f"{blame}={shown!r}: the port must be a number from 1 to 65535"
        else:
            message = f"{blame}={shown!r} is no URL: http://localhost:4318 would be one"
        raise ConfigurationError(message) from None
    if parts.scheme not in ("http", "https") or "://" not in url:
        raise ConfigurationError(f"{blame}={shown!r} has no scheme: write http://… or https://…")
    if not parts.hostname:
        raise ConfigurationError(f"{blame}={shown!r} names no host")
    if re.search(r"\s", url):
        raise ConfigurationError(f"{blame}={shown!r} has a space in it")
    if port == 0:
        raise ConfigurationError(f"{blame}={shown!r}: the port must be a number from 1 to 65535")
    if protocol == "grpc" and ("@" in parts.netloc or parts.query):
        raise ConfigurationError(f"{blame}={shown!r}: gRPC takes no credentials in the URL; give them as headers=")


_LONGEST_SHOWN = 60


def number(name: str, value: Any, *, at_least: float, at_most: float = float("inf")) -> float:
    """``value`` as a finite number within the limits."""
    expected = f"a number from {at_least:g}" + ("" if at_most == float("inf") else f" to {at_most:g}")
    try:
        if isinstance(value, bool):
            raise TypeError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigurationError(f"{name} must be {expected}, got {_shown(value)}") from None
    if not at_least <= found <= at_most or found == float("inf"):
        raise ConfigurationError(f"{name} must be {expected}, got {_shown(value)}")
    return found


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        return _kind(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def positive(name: str, value: Any, *, at_most: float = float("inf")) -> float:
    """``value`` as a finite number above zero."""
    checked = number(name, value, at_least=0.0, at_most=at_most)
    if checked == 0.0:
        raise ConfigurationError(f"{name} must be positive, got {value!r}")
    return checked


def checked_choice(name: str, value: Any, known: tuple[str, ...]) -> Any:
    """``value``, which must be one of ``known``."""
    if value not in known:
        raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def checked_bool(name: str, value: Any) -> bool:
    """``value``, which must be a truth value and no lookalike."""
    if isinstance(value, bool):
        return value
    raise ConfigurationError(f"{name} must be true or false, got {value!r}")
