"""Which addresses are one caller's."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=10_000)
def network(address: str) -> str:
    """An IPv4 address itself; of an IPv6 address the first half, for a household or a server has all of the second.

    What is no address is taken as it is, and empty stays empty.
    """
    if ":" not in address:
        return address
    try:
        found = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(found) >> 64 << 64)}/64"
