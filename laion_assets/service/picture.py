"""Fetches a picture that a request names by URL: only by http(s), only from allowed addresses, with limits."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import anyio
import anyio.to_thread
import httpx

from laion_assets.service.errors import RefusedError, bad_request

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REDIRECTS = 3

REFUSED = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "::/96", "192.88.99.0/24")))
"""Networks that are not public although Python may call them global: NAT64 of a network's own, the old site-local ones,
IPv4 written as ::a.b.c.d, relays of 6to4. A connection to them may end within the network that we are in."""


@dataclass(frozen=True)
class PictureLimits:
    """The limits of a fetch, and the addresses that it may use.

    `private` are networks that are allowed although they are not public, such as the user's own picture store.
    """

    seconds: float = 10.0
    bytes: int = 20 * 2**20
    private: tuple[Network, ...] = ()

    def allows(self, address: Address) -> bool:
        """Whether a connection to this address may be made."""
        plain = _carried_ipv4(address)
        if any(plain.version == network.version and plain in network for network in self.private):
            return True
        if any(each.version == network.version and each in network for each in (address, plain) for network in REFUSED):
            return False
        return plain.is_global and not plain.is_multicast


class PictureFetches:
    """At most `running` fetches at a time, and at most `waiting` that wait for up to the time of one fetch."""

    def __init__(self, limits: PictureLimits, running: int, waiting: int) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(running)
        self._free = running + waiting

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`. Raises `RefusedError`, 503 if too many fetches wait or the wait is too long."""
        busy = RefusedError(503, "too many pictures are fetched; try again in a moment", retry_after=1)
        if self._free <= 0:
            raise busy
        self._free -= 1
        try:
            try:
                with anyio.fail_after(self._limits.seconds):
                    await self._places.acquire()
            except TimeoutError:
                raise busy from None
            try:
                return await fetch_picture(url, self._limits)
            finally:
                self._places.release()
        finally:
            self._free += 1


async def fetch_picture(url: str, limits: PictureLimits) -> bytes:
    """The bytes at `url`. Raises `RefusedError` for anything that is not a picture within the limits.

    Every address of a host name is checked, and the connection goes to the address that was checked. So it does not
    matter if the name resolves to another address a moment later. The same is done for each redirect.
    """
    try:
        with anyio.fail_after(limits.seconds):
            for _ in range(REDIRECTS + 1):
                answer = await _get(url, limits)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
    except TimeoutError:
        raise bad_request(f"the picture's URL did not answer in full within {limits.seconds:g} s") from None
    raise bad_request(f"the picture's URL redirects more than {REDIRECTS} times")


async def _get(url: str, limits: PictureLimits) -> bytes | str:
    """The picture's bytes, or the target of a redirect."""
    parts, port = _checked_url(url)
    host = parts.hostname or ""
    address = await _checked_address(host, port, limits)
    literal = f"[{address}]" if address.version == 6 else str(address)
    target = httpx.URL(url).copy_with(host=literal, port=port)
    name = host if ":" not in host else f"[{host}]"
    headers = {
        "Host": name if parts.port is None else f"{name}:{parts.port}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "User-Agent": "laion-assets",
    }
    try:
        # No proxy and no netrc from the environment: the connection must go to the address that was checked.
        async with (
            httpx.AsyncClient(trust_env=False, follow_redirects=False) as client,
            client.stream("GET", target, headers=headers, extensions={"sni_hostname": host}) as response,
        ):
            if response.is_redirect:
                return str(response.headers.get("location", ""))
            return await _body(response, limits)
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        raise bad_request("the picture's URL could not be read") from None


async def _body(response: httpx.Response, limits: PictureLimits) -> bytes:
    if response.status_code != 200:
        raise bad_request(f"the picture's URL answered {response.status_code}")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") or kind.startswith("image/svg"):
        raise bad_request("the picture's URL does not answer with a picture (Content-Type image/…)")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        # A block of 64 KiB may become one of 64 MiB, before its size can be checked.
        raise bad_request("the picture's URL answers with a Content-Encoding, which was not asked for")
    body = bytearray()
    async for block in response.aiter_raw():
        body += block
        if len(body) > limits.bytes:
            raise bad_request(f"the picture at the URL is larger than {limits.bytes:,} bytes")
    return bytes(body)


def _checked_url(url: str) -> tuple[SplitResult, int]:
    """The parts of an http(s) URL without a user, and its port."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        raise bad_request("image_url is not a URL") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise bad_request("image_url is not an http or https URL with a host")
    if parts.username is not None or parts.password is not None:
        raise bad_request("image_url has a user or a password in it")
    return parts, port or (443 if parts.scheme.lower() == "https" else 80)


async def _checked_address(host: str, port: int, limits: PictureLimits) -> Address:
    """The first address of a host; every address of the host must be allowed."""
    try:
        found = await anyio.to_thread.run_sync(
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), abandon_on_cancel=True
        )
    except (OSError, UnicodeError):
        raise bad_request("the host of the picture's URL is not known") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses or not all(limits.allows(address) for address in addresses):
        raise RefusedError(403, "the picture's URL leads to an address that is not public")
    return addresses[0]


def _carried_ipv4(address: Address) -> Address:
    """The IPv4 address within an IPv6 address (mapped, 6to4, NAT64), which is where the connection really goes."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
