"""Postgres: two servers, of which one is the primary and the other streams from it through a slot.

Which one leads is written down in a file beside their data. A server looks there each time it starts, and comes up as what
it is to be: so a former primary that was killed in a failover returns as a replica, whoever starts it.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import remove, replace
from .machine import User, birth, unprivileged
from .place import Place, Secrets
from .ports import Ports
from .program import Program
from .servers import Servers

if TYPE_CHECKING:
    import psycopg

NODES = ("postgres-1", "postgres-2")

SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700    # and so is the folder: for who runs the stack, and root
port = {port}
cluster_name = '{name}'
max_connections = 200
shared_buffers = 128MB
jit = off                         # short queries: compiling them costs more than it saves
wal_level = replica
wal_log_hints = on                # a former primary can be rewound
max_wal_senders = 8
max_replication_slots = 8
max_slot_wal_keep_size = 1GB      # a replica that stays away longer than this is built anew
hot_standby = on
hot_standby_feedback = on
wal_receiver_status_interval = 1s # so often the feedback: until then, versions of rows that nobody sees stay, however many
password_encryption = scram-sha-256
log_min_messages = warning
include_if_exists = '../synchronous.conf'
"""

LEADER_SECONDS = 60.0
"""How long a server that is to follow waits for the one that leads."""


class Postgres:
    """The two, as programs."""

    def __init__(self, place: Place, ports: Ports, secrets: Secrets, servers: Servers) -> None:
        self.ports, self.secrets = ports, secrets
        self.bin = servers.postgres
        self.env = servers.env(servers.postgres)
        self.user: User | None = unprivileged()
        self.place, self.folder = place, place.data("postgres", self.user)

    @property
    def leader(self) -> str:
        """The one that is the primary, or shall be."""
        note = self.folder / "leader"
        name = note.read_text() if note.exists() else NODES[0]
        return name if name in NODES else NODES[0]

    def lead(self, name: str) -> None:
        """Writes down who leads from now on."""
        replace(self.folder / "leader", name, mode=0o644)

    def wait(self, wanted: bool) -> None:
        """Writes down whether commits wait for the replica: read by either server when it starts or is told to look."""
        names = ", ".join(f'"{name}"' for name in NODES)
        text = f"synchronous_standby_names = 'FIRST 1 ({names})'\n" if wanted else ""
        replace(self.folder / "synchronous.conf", text, mode=0o644)

    def data(self, name: str) -> Path:
        """The data folder of one of the two."""
        return self.folder / name

    def url(self, role: str) -> str:
        """Connection string for the product of the "primary" or the "replica", whichever of the two that is."""
        hosts = ",".join(f"127.0.0.1:{self.ports[name]}" for name in NODES)
        kind = {"primary": "read-write", "replica": "standby"}[role]
        return f"postgresql://transom:{self.secrets.postgres}@{hosts}/transom?target_session_attrs={kind}"

    def nearby(self, role: str) -> str:
        """As `url`, for processes on this machine: by the servers' sockets, at less cost, and by their ports where one that runs
        was started without (or there is no socket)."""
        if not self.sockets:
            return self.url(role)
        hosts = ",".join([*(self.sockets for _ in NODES), *("127.0.0.1" for _ in NODES)])
        ports = ",".join([str(self.ports[name]) for name in NODES] * 2)
        address, _, options = self.url(role).partition("?")
        base, _, database = address.rpartition("/")
        return f"{base.partition('@')[0]}@/{database}?host={hosts}&port={ports}&{options}"

    @property
    def sockets(self) -> str:
        """The folder of the servers' sockets; empty where there are none."""
        longest = max((_socket(self.ports[name]) for name in NODES), key=len)
        return str(self.folder) if self.place.socket(self.folder, longest) else ""

    def programs(self) -> list[Program]:
        """Both."""
        leader = self.leader
        return [self._program(name, () if name == leader else (leader,)) for name in NODES]

    def _program(self, name: str, needs: tuple[str, ...]) -> Program:
        return Program(
            name=name,
            command=[str(self.bin / "postgres"), "-D", str(self.data(name))],
            env=self.env,
            needs=needs,
            address=f"127.0.0.1:{self.ports[name]}",
            prepare=partial(self._prepare, name),
            ready=partial(self.accepts, name),
            after=partial(self._after, name),
            user=self.user,
            stop_signal=signal.SIGINT,  # fast: open transactions are rolled back, data is flushed
            kill_signal=signal.SIGQUIT,  # immediate: as a crash, but shared memory is given back
            outlives=True,
        )

    def _prepare(self, name: str) -> None:
        self.place.make_data("postgres", self.user)
        if name == self.leader:
            self._prepare_leader(name)
        else:
            self._prepare_follower(name, self.leader)

    def _after(self, name: str) -> None:
        if name == self.leader:
            with self.superuser(name) as db:
                if not self.leads(_other(name)):
                    # Written down as the leader and not promoted yet: what did that has died in between.
                    db.execute("select pg_promote(true, 60) where pg_is_in_recovery()")
                # A commit would wait for the other, which comes after this one.
                db.execute("set synchronous_commit = local")
                self._provide(db, name)

    def _prepare_leader(self, name: str) -> None:
        data = self.data(name)
        if not data.exists():
            new = data.with_name(f"{name}.new")
            remove(new)
            word = data.with_name("password")
            replace(word, self.secrets.superuser, mode=0o600, owner=self.user)
            auth = ["-A", "scram-sha-256", f"--pwfile={word}", "-U", "postgres"]
            self._run("initdb", "-D", str(new), *auth, "-k", "-E", "UTF8", "--locale=C.UTF-8", "-N")
            word.unlink()
            with (new / "postgresql.conf").open("a") as conf:
                conf.write("\ninclude 'transom.conf'\n")
            new.rename(data)
        self._settle(name, "")

    def _provide(self, db: psycopg.Connection[Any], name: str) -> None:
        """What the leader has: roles, the database, and a slot for the other."""
        from psycopg import sql

        word = sql.Literal(self.secrets.postgres)
        replication = sql.Literal(self.secrets.replication)
        if not db.execute("select 1 from pg_roles where rolname = 'replicator'").fetchone():
            db.execute(sql.SQL("create role replicator replication login password {}").format(replication))
        slot = _slot(_other(name))
        if not db.execute("select 1 from pg_replication_slots where slot_name = %s", [slot]).fetchone():
            db.execute("select pg_create_physical_replication_slot(%s, true)", [slot])
        # Its own, from when it followed: it would keep the log for ever.
        db.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s and not active",
            [_slot(name)],
        )
        if not db.execute("select 1 from pg_roles where rolname = 'transom'").fetchone():
            # pg_monitor: its metrics say how far the replica is behind
            db.execute(sql.SQL("create role transom login createdb in role pg_monitor password {}").format(word))
        if not db.execute("select 1 from pg_database where datname = 'transom'").fetchone():
            db.execute("create database transom owner transom")

    def _prepare_follower(self, name: str, leader: str) -> None:
        data, slot = self.data(name), _slot(name)
        self.until_leads(leader)
        with self.superuser(leader) as db:
            db.execute("set synchronous_commit = local")
            row = db.execute("select wal_status from pg_replication_slots where slot_name = %s", [slot]).fetchone()
            if row is None or row[0] == "lost":  # it stayed away too long: what it would need next is gone
                if row is not None:
                    db.execute("select pg_drop_replication_slot(%s)", [slot])
                    remove(data)
                db.execute("select pg_create_physical_replication_slot(%s, true)", [slot])
        under_way = data.with_name(f"{name}.rewinding")
        if under_way.exists():  # whoever did that died: what is left is neither the one nor the other
            remove(data)
        if data.exists() and not (data / "standby.signal").exists():
            replace(under_way, "")
            self._rewind(name, leader)
        under_way.unlink(missing_ok=True)
        if not data.exists():
            new = data.with_name(f"{name}.new")
            remove(new)
            source = f"host=127.0.0.1 port={self.ports[leader]} user=replicator"
            options = ["-D", str(new), "-S", slot, "-X", "stream", "-c", "fast", "-N"]
            self._run("pg_basebackup", "-d", source, *options, PGPASSWORD=self.secrets.replication)
            self._follows(new)
            new.rename(data)
        host = self.sockets or "127.0.0.1"
        source = f"host={host} port={self.ports[leader]} user=replicator password={self.secrets.replication}"
        upstream = f"primary_conninfo = '{source} application_name={name}'\nprimary_slot_name = '{slot}'\n"
        self._settle(name, upstream)

    def _rewind(self, name: str, leader: str) -> None:
        """Takes back what a former primary has that its successor has not. Where that cannot be, it is built anew."""
        data = self.data(name)
        self._settle(name, "")
        source = f"host=127.0.0.1 port={self.ports[leader]} user=postgres dbname=postgres"
        with self.superuser(leader) as db:
            db.execute("checkpoint")  # else the new history is not in what the rewinding reads
        try:
            self._run(
                "pg_rewind",
                *("-D", str(data), "--source-server", source, "-N"),
                PGPASSWORD=self.secrets.superuser,
            )
        except RuntimeError:
            remove(data)
        else:
            self._follows(data)

    def _follows(self, data: Path) -> None:
        replace(data / "standby.signal", "", mode=0o600, owner=self.user)

    def until_leads(self, leader: str) -> None:
        """Returns once the server called `leader` is a primary. Raises RuntimeError where it is none after a minute."""
        until = time.monotonic() + LEADER_SECONDS
        while not self.leads(leader):
            if time.monotonic() > until:
                raise RuntimeError(f"{leader}, which leads, is no primary after {LEADER_SECONDS:.0f} s")
            time.sleep(0.05)

    def leads(self, name: str) -> bool:
        """Whether the server called `name` runs as a primary."""
        import psycopg

        try:
            with self.superuser(name) as db:
                row = db.execute("select not pg_is_in_recovery()").fetchone()
        except psycopg.Error:
            return False
        return bool(row and row[0])

    def _settle(self, name: str, more: str) -> None:
        """Settings as they are now (ports may have moved), and no trace of a server that was killed."""
        data = self.data(name)
        port = self.ports[name]
        text = SETTINGS.format(port=port, name=name, sockets=self.sockets) + more
        replace(data / "transom.conf", text, mode=0o600, owner=self.user)
        for note in (data / "postmaster.pid", self.folder / f"{_socket(port)}.lock"):
            try:
                pid = int(note.read_text().splitlines()[0])
            except (OSError, ValueError, IndexError):
                continue
            # Postgres would refuse to start if a stranger now has its old number.
            if birth(pid) is None or str(data).encode() not in _command(pid):
                note.unlink(missing_ok=True)

    def accepts(self, name: str) -> bool:
        """Whether the server called `name` answers."""
        import psycopg

        try:
            with self.superuser(name) as db:
                db.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def superuser(self, name: str) -> psycopg.Connection[Any]:
        """A connection to one of the two that may do everything; each statement is a transaction."""
        import psycopg

        word = self.secrets.superuser
        dsn = f"host=127.0.0.1 port={self.ports[name]} user=postgres password={word} dbname=postgres"
        return psycopg.connect(dsn, connect_timeout=3, autocommit=True)

    def _run(self, program: str, *arguments: str, **env: str) -> None:
        user = self.user
        drop = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
        command: Sequence[str] = [str(self.bin / program), *arguments]
        run = subprocess.run(  # type: ignore[call-overload]
            command, capture_output=True, text=True, env={**self.env, **env}, cwd="/", check=False, **drop
        )
        if run.returncode:
            raise RuntimeError(f"{program}: {(run.stderr or run.stdout).strip()[-800:]}")


def _other(name: str) -> str:
    return NODES[1 - NODES.index(name)]


def _socket(port: int) -> str:
    return f".s.PGSQL.{port}"


def _slot(name: str) -> str:
    return name.replace("-", "_")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class Replication:
    """How the primary finds its replica."""

    primary: str
    """Its name."""
    synchronous: bool
    """Whether commits wait for the replica."""
    streaming: bool
    """Whether there is a replica at all."""
    lag_bytes: int = 0
    lag_seconds: float = 0.0


def replication(primary: str) -> Replication | None:
    """What the primary at that URL says; None where none answers."""
    import psycopg

    try:
        with psycopg.connect(primary, connect_timeout=3, autocommit=True) as db:
            row = db.execute(
                # replay_lag is null once it has caught up and nothing is written
                "select current_setting('cluster_name'), current_setting('synchronous_standby_names') <> '', "
                "pid is not null, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::bigint, "
                "coalesce(extract(epoch from replay_lag), 0)::float "
                "from (select 1) one left join pg_stat_replication "
                "on application_name like 'postgres-_' and state = 'streaming'"
            ).fetchone()
    except psycopg.Error:
        return None
    return Replication(*row) if row else None
