"""One page from the web: bounded in size, time and redirects, and never from a private address.

A name is resolved once and the connection goes to the very address that was judged, so that a name
which changes its mind in between gains nothing. Redirects are judged like the first address.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

MAX_BYTES: Final = 5 << 20
MAX_REDIRECTS: Final = 5
TIMEOUT_S: Final = 30.0

AGENT: Final = "loomd (a coding agent's web_fetch)"


class FetchError(Exception):
    """It was not fetched. code: bad_args, denied, timeout, too_large, not_found, failed."""

    def __init__(self, text: str, code: str = "failed") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


@dataclass(frozen=True)
class Page:
    url: str
    status: int
    kind: str  # the content type, without parameters
    charset: str
    body: bytes


@dataclass(frozen=True)
class Address:
    """A checked address. target: path and query."""

    url: str
    tls: bool
    host: str
    port: int
    target: str

    @property
    def shown(self) -> str:
        return f"{self.host}:{self.port}"


def parse(url: str) -> Address:
    """FetchError(bad_args) for what is no plain http(s) address."""
    if any(ord(char) <= 32 or ord(char) == 127 for char in url):
        raise FetchError(f"{url!r} is no address: it has spaces in it", "bad_args")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        host = host if host is None or ":" in host else host.encode("idna").decode()
    except ValueError as error:  # UnicodeError among them
        raise FetchError(f"{url!r} is no address: {error}", "bad_args") from None
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError(f"{url!r}: only http:// and https:// addresses are fetched", "bad_args")
    if parts.username is not None or parts.password is not None:
        raise FetchError("an address with a user name in it is not fetched", "bad_args")
    tls = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        target.encode("ascii")
    except UnicodeEncodeError:
        target = quote(target, safe="/?&=%:@!$'()*+,;~-._")
    return Address(url, tls, host, port or (443 if tls else 80), target)


def public(address: str) -> bool:
    """Is this IP address one that everybody on the net reaches? An IPv4 address in IPv6 clothes is
    judged as what it is."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def fetch(
    url: str,
    private: Collection[str] = (),
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Page:
    """private: hosts (`host` or `host:port`) that may be private addresses. FetchError."""
    deadline = time.monotonic() + timeout_s
    at = parse(url)
    for _ in range(MAX_REDIRECTS + 1):
        page, location = _get(at, private, deadline, max_bytes)
        if not location:
            return page
        following = parse(urljoin(at.url, location))
        if at.tls and not following.tls:
            raise FetchError(f"{at.url} redirects from https to {following.url}", "denied")
        at = following
    raise FetchError(f"{url} redirects more than {MAX_REDIRECTS} times")


def _get(
    at: Address, private: Collection[str], deadline: float, max_bytes: int
) -> tuple[Page, str]:
    """The page, and where it redirects to."""
    try:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(_connect(at, private, deadline))
            connection = http.client.HTTPConnection(at.host, at.port)
            connection.sock = sock
            connection.request(
                "GET",
                at.target,
                headers={
                    "User-Agent": AGENT,
                    "Accept": "text/html, text/*;q=0.9, application/json;q=0.9, */*;q=0.5",
                    "Accept-Encoding": "gzip",
                    "Connection": "close",
                },
            )
            answer = stack.enter_context(connection.getresponse())
            location = answer.getheader("Location") or ""
            if answer.status in (301, 302, 303, 307, 308) and location:
                return Page(at.url, answer.status, "", "", b""), location
            body = _body(answer, sock, deadline, max_bytes)
            kind = answer.headers.get_content_type()
            charset = answer.headers.get_content_charset() or ""
            return Page(at.url, answer.status, kind, charset, body), ""
    except TimeoutError:
        raise FetchError(f"{at.shown} did not answer in time", "timeout") from None
    except ssl.SSLError as error:
        raise FetchError(f"{at.shown}: no secure connection: {error.reason or error}") from None
    except (OSError, http.client.HTTPException, zlib.error) as error:
        raise FetchError(f"{at.shown}: {error or type(error).__name__}") from None


def _connect(at: Address, private: Collection[str], deadline: float) -> socket.socket:
    try:
        found = socket.getaddrinfo(at.host, at.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise FetchError(f"{at.host} has no address: {error}", "not_found") from None
    allowed = at.host in private or at.shown in private
    places = [place for place in found if allowed or public(str(place[4][0]))]
    if not places:
        raise FetchError(
            f"{at.host} is a private address ({found[0][4][0]}); tools.web_private in config.toml "
            "may name it",
            "denied",
        )
    last: OSError | None = None
    for family, kind, protocol, _, address in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline))
            sock.connect(address)
            if not at.tls:
                return sock
            return ssl.create_default_context().wrap_socket(sock, server_hostname=at.host)
        except OSError as error:
            sock.close()
            last = error
    assert last is not None
    raise last


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _body(
    answer: http.client.HTTPResponse, sock: socket.socket, deadline: float, max_bytes: int
) -> bytes:
    """What came, unpacked; never more than the limit of either."""
    packed = (answer.getheader("Content-Encoding") or "").strip().lower()
    if packed not in ("", "identity", "gzip", "x-gzip"):
        raise FetchError(f"the page is packed as {packed}, which was not asked for")
    unpack = zlib.decompressobj(31) if packed in ("gzip", "x-gzip") else None
    body = bytearray()
    while True:
        sock.settimeout(_left(deadline))
        data = answer.read1(1 << 16)
        if not data:
            break
        body += unpack.decompress(data, max_bytes + 1 - len(body)) if unpack else data
        if len(body) > max_bytes:
            raise FetchError(f"the page has more than {max_bytes} bytes", "too_large")
    if answer.length:
        raise FetchError(f"the page was cut off: {answer.length} bytes are missing")
    return bytes(body)
