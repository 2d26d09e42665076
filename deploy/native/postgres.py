"""Postgres: a primary, and a replica that streams from it through a slot."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from .files import remove, replace
from .machine import User, birth, unprivileged
from .place import Place, Secrets
from .ports import Ports
from .program import Program
from .servers import Servers

SLOT = "replica"

SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
port = {port}
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
password_encryption = scram-sha-256
log_min_messages = warning
"""


class Postgres:
    """The pair, as programs."""

    def __init__(self, place: Place, ports: Ports, secrets: Secrets, servers: Servers) -> None:
        self.ports, self.secrets = ports, secrets
        self.bin = servers.postgres
        self.env = servers.env(servers.postgres)
        self.user: User | None = unprivileged()
        self.place, data = place, place.data("postgres", self.user)
        self.primary, self.replica = data / "primary", data / "replica"

    def url(self, name: str) -> str:
        """Connection string of "primary" or "replica" for the product."""
        return f"postgresql://transom:{self.secrets.postgres}@127.0.0.1:{self.ports[name]}/transom"

    def programs(self) -> list[Program]:
        """Primary and replica."""
        return [
            self._program("primary", self.primary, self._prepare_primary, self._after_primary, ()),
            self._program("replica", self.replica, self._prepare_replica, lambda: None, ("primary",)),
        ]

    def _program(
        self, name: str, data: Path, prepare: Callable[[], None], after: Callable[[], None], needs: tuple[str, ...]
    ) -> Program:
        return Program(
            name=name,
            command=[str(self.bin / "postgres"), "-D", str(data)],
            env=self.env,
            needs=needs,
            address=f"127.0.0.1:{self.ports[name]}",
            prepare=prepare,
            ready=lambda: self._accepts(name),
            after=after,
            user=self.user,
            stop_signal=signal.SIGINT,  # fast: open transactions are rolled back, data is flushed
            kill_signal=signal.SIGQUIT,  # immediate: as a crash, but shared memory is given back
            outlives=True,
        )

    def _prepare_primary(self) -> None:
        self.place.make_data("postgres", self.user)
        if not self.primary.exists():
            new = self.primary.with_name("primary.new")
            remove(new)
            word = self.primary.with_name("password")
            replace(word, self.secrets.superuser, mode=0o600, owner=self.user)
            auth = ["-A", "scram-sha-256", f"--pwfile={word}", "-U", "postgres"]
            self._run("initdb", "-D", str(new), *auth, "-k", "-E", "UTF8", "--locale=C.UTF-8", "-N")
            word.unlink()
            self._include(new)
            new.rename(self.primary)
        self._settle(self.primary, "primary", "")

    def _after_primary(self) -> None:
        import psycopg
        from psycopg import sql

        word = sql.Literal(self.secrets.postgres)
        replication = sql.Literal(self.secrets.replication)
        with psycopg.connect(self._superuser("primary"), autocommit=True) as db:
            if not db.execute("select 1 from pg_roles where rolname = 'replicator'").fetchone():
                db.execute(sql.SQL("create role replicator replication login password {}").format(replication))
            if not db.execute("select 1 from pg_replication_slots where slot_name = %s", [SLOT]).fetchone():
                db.execute("select pg_create_physical_replication_slot(%s, true)", [SLOT])
            if not db.execute("select 1 from pg_roles where rolname = 'transom'").fetchone():
                # pg_monitor: its metrics say how far the replica is behind
                db.execute(sql.SQL("create role transom login createdb in role pg_monitor password {}").format(word))
            if not db.execute("select 1 from pg_database where datname = 'transom'").fetchone():
                db.execute("create database transom owner transom")

    def _prepare_replica(self) -> None:
        import psycopg

        with psycopg.connect(self._superuser("primary"), autocommit=True) as db:
            row = db.execute("select wal_status from pg_replication_slots where slot_name = %s", [SLOT]).fetchone()
            if row and row[0] == "lost":  # it stayed away too long: what it would need next is gone
                db.execute("select pg_drop_replication_slot(%s)", [SLOT])
                db.execute("select pg_create_physical_replication_slot(%s, true)", [SLOT])
                remove(self.replica)
        if not self.replica.exists():
            new = self.replica.with_name("replica.new")
            remove(new)
            source = f"host=127.0.0.1 port={self.ports['primary']} user=replicator"
            options = ["-D", str(new), "-S", SLOT, "-X", "stream", "-c", "fast", "-N"]
            self._run("pg_basebackup", "-d", source, *options, PGPASSWORD=self.secrets.replication)
            (new / "standby.signal").touch()
            if self.user:
                self.user.owns(new / "standby.signal")
            new.rename(self.replica)
        source = f"host=127.0.0.1 port={self.ports['primary']} user=replicator password={self.secrets.replication}"
        upstream = f"primary_conninfo = '{source} application_name=replica'\nprimary_slot_name = '{SLOT}'\n"
        self._settle(self.replica, "replica", upstream)

    def _include(self, data: Path) -> None:
        with (data / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'transom.conf'\n")

    def _settle(self, data: Path, name: str, more: str) -> None:
        """Settings as they are now (ports may have moved), and no trace of a server that was killed."""
        text = SETTINGS.format(port=self.ports[name]) + more
        replace(data / "transom.conf", text, mode=0o600, owner=self.user)
        note = data / "postmaster.pid"
        try:
            pid = int(note.read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return
        # Postgres would refuse to start if a stranger now has its old number.
        if birth(pid) is None or str(data).encode() not in _command(pid):
            note.unlink(missing_ok=True)

    def _accepts(self, name: str) -> bool:
        import psycopg

        try:
            with psycopg.connect(self._superuser(name), connect_timeout=3, autocommit=True) as db:
                db.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def _superuser(self, name: str) -> str:
        word = self.secrets.superuser
        return f"host=127.0.0.1 port={self.ports[name]} user=postgres password={word} dbname=postgres"

    def _run(self, program: str, *arguments: str, **env: str) -> None:
        user = self.user
        drop = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
        command: Sequence[str] = [str(self.bin / program), *arguments]
        run = subprocess.run(  # type: ignore[call-overload]
            command, capture_output=True, text=True, env={**self.env, **env}, cwd="/", check=False, **drop
        )
        if run.returncode:
            raise RuntimeError(f"{program}: {(run.stderr or run.stdout).strip()[-800:]}")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def replication(primary: str) -> tuple[int, float] | None:
    """Bytes and seconds by which the replica is behind the primary at that URL; None if it does not stream."""
    import psycopg

    try:
        with psycopg.connect(primary, connect_timeout=3, autocommit=True) as db:
            row = db.execute(
                # replay_lag is null once it has caught up and nothing is written
                "select pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint,"
                " coalesce(extract(epoch from replay_lag), 0)::float"
                " from pg_stat_replication where application_name = 'replica' and state = 'streaming'"
            ).fetchone()
    except psycopg.Error:
        return None
    return (int(row[0] or 0), float(row[1])) if row else None
