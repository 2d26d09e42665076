#!/bin/sh
# Run once by the image of Postgres, when the primary's data folder is new: roles, the database, the replica's place.
set -eu

psql --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set password="$TRANSOM_PASSWORD" --set replication="$REPLICATION_PASSWORD" <<'SQL'
-- pg_monitor: its metrics say how far the replica is behind.
create role transom login createdb in role pg_monitor password :'password';
create database transom owner transom;
create role replicator replication login password :'replication';
select pg_create_physical_replication_slot('replica', true);
SQL

echo "host replication replicator all scram-sha-256" >> "$PGDATA/pg_hba.conf"
