"""Rows of transom.known_networks: from where accounts proved themselves."""

from __future__ import annotations

from dataclasses import dataclass

from server.store.pooled import Pool, transaction

PER_ACCOUNT = 20
"""Networks of one account and kind; one more makes the one seen longest ago a stranger."""
DAYS = 90
"""After which a network that was not seen is a stranger's."""

# A key is an id or the canonical spelling of an address; only the latter has an @.
_KNOWN = f"""
select n.network from transom.known_networks n join transom.users u on u.id = n.user_id
where (u.email_key = %(key)s or u.id = %(key)s) and n.kind = %(kind)s and n.network = %(network)s
  and n.seen_time > now() - interval '{DAYS} days'
"""

_SEEN = """
insert into transom.known_networks (user_id, kind, network)
select id, %(kind)s, %(network)s from transom.users where email_key = %(key)s or id = %(key)s
on conflict (user_id, kind, network) do update set seen_time = clock_timestamp()
"""

_TRIM = """
delete from transom.known_networks n using transom.users u
where (u.email_key = %(key)s or u.id = %(key)s) and n.user_id = u.id and n.kind = %(kind)s and n.network not in (
    select network from transom.known_networks
    where user_id = u.id and kind = %(kind)s order by seen_time desc limit %(most)s)
"""

# A bounded bite, as every sweep's.
_SWEEP = f"""
delete from transom.known_networks where (user_id, kind, network) in (
    select user_id, kind, network from transom.known_networks
    where seen_time < now() - interval '{DAYS} days' limit %s for update skip locked
)
"""


@dataclass(frozen=True, slots=True)
class _Network:
    network: str


class KnownNetworks:
    """Networks in Postgres. `key` is an account's id or the canonical spelling of its address."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def known(self, kind: str, key: str, network: str) -> bool:
        """Whether the account proved itself from there before."""
        async with transaction(self._pool, _Network) as cursor:
            await cursor.execute(_KNOWN, {"kind": kind, "key": key, "network": network})
            return await cursor.fetchone() is not None

    async def seen(self, kind: str, key: str, network: str) -> None:
        """The account proved itself from there now."""
        values = {"kind": kind, "key": key, "network": network, "most": PER_ACCOUNT}
        async with transaction(self._pool, _Network) as cursor:
            await cursor.execute(_SEEN, values)
            await cursor.execute(_TRIM, values)

    async def sweep(self, limit: int = 1000) -> int:
        """Deletes at most `limit` networks that were not seen for DAYS; how many it were."""
        async with transaction(self._pool, _Network) as cursor:
            await cursor.execute(_SWEEP, [limit])
            return cursor.rowcount
