"""`AllowedHosts`: where the notifications of a service may go. A tenant names the URL, and the service is within the operator's network.

A host's name says nothing about where it leads, and may lead elsewhere a moment later. So the name is compared when a job is submitted,
and the address when the connection is made, to the address that was compared.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from autoslim.errors import RequestError

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

FLAG = "autoslim serve --webhook-allow HOST"


class AllowedHosts:
    """`entries` are names of hosts, IP addresses and networks such as 10.0.0.0/8. A network also allows the addresses in it as what names
    lead to; other names lead to public addresses only.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        parsed = {entry.strip().lower(): _network(entry.strip()) for entry in entries}
        self._networks = [network for network in parsed.values() if network is not None]
        self._names = [name for name, network in parsed.items() if network is None]

    def __bool__(self) -> bool:
        return bool(self._names or self._networks)

    def problem_with(self, url: str) -> str | None:
        """Why the URL is not allowed, to follow its field's name; None where its host is."""
        host = (urlsplit(url).hostname or "").lower()
        if host in self._names or self._has_address(host):
            return None
        allowed = ", ".join([*self._names, *map(str, self._networks)])
        return f"has the host {host!r}; allowed: " + (
            f"{allowed} (the operator's {FLAG})" if allowed else f"none, unless the operator names it ({FLAG})"
        )

    def check_address(self, host: str, address: str) -> None:
        """Raises RequestError for an address that is not public, unless the operator has named it or its network."""
        found = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if any(found in network for network in self._networks if network.version == found.version):
            return
        if not found.is_global or found.is_multicast:
            raise RequestError(
                f"the webhook's host {host} leads to {found}, which is not a public address; allowed where the operator names it: "
                f"autoslim serve --webhook-allow {found}"
            )

    def _has_address(self, host: str) -> bool:
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(found in network for network in self._networks if network.version == found.version)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _unwrapped(address: IpAddress) -> IpAddress:
    """The IPv4 address that an IPv6 address leads to, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1] or address
