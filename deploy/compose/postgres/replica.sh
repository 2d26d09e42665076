#!/bin/sh
# Starts the replica: a copy of the primary first, where there is none; then it streams from the primary's slot.
set -eu

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Copied beside and moved: a copy that was cut short is begun anew.
  rm -rf "$PGDATA.new"
  PGPASSWORD="$REPLICATION_PASSWORD" pg_basebackup --dbname "host=$PRIMARY_HOST port=${PRIMARY_PORT:-5432} user=replicator" \
    --pgdata "$PGDATA.new" --slot replica --wal-method stream --checkpoint fast
  touch "$PGDATA.new/standby.signal"
  chmod 700 "$PGDATA.new"
  rm -rf "$PGDATA"
  mv "$PGDATA.new" "$PGDATA"
fi

exec postgres "$@" \
  -c primary_conninfo="host=$PRIMARY_HOST port=${PRIMARY_PORT:-5432} user=replicator password=$REPLICATION_PASSWORD application_name=replica" \
  -c primary_slot_name=replica
