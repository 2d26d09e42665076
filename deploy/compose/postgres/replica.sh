#!/bin/sh
# Starts the replica: a copy of the primary first, where there is none; then it streams from the primary's slot.
set -eu

# For the copy, and for the stream afterwards: on a command line it could be read by others.
export PGPASSWORD="$REPLICATION_PASSWORD"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Copied beside and moved: a copy that was cut short is begun anew.
  rm -rf "$PGDATA.new"
  pg_basebackup --dbname "host=$PRIMARY_HOST port=${PRIMARY_PORT:-5432} user=replicator" \
    --pgdata "$PGDATA.new" --slot replica --wal-method stream --checkpoint fast
  touch "$PGDATA.new/standby.signal"
  chmod 700 "$PGDATA.new"
  rm -rf "$PGDATA"
  mv "$PGDATA.new" "$PGDATA"
fi

exec postgres "$@" \
  -c primary_conninfo="host=$PRIMARY_HOST port=${PRIMARY_PORT:-5432} user=replicator application_name=replica" \
  -c primary_slot_name=replica
