-- What every app has beside its resources: the event log, the relay's place in it, and what consumers have done.
create schema if not exists transom;

-- One row per committed change, written in the transaction of the change itself.
-- `id` is taken while the resource's row is locked, so for one resource ids are in commit order; `position` is
-- given by the relay, once, to committed events only: positions have no gaps and never overtake a commit in flight.
create table transom.events (
    id          bigint generated always as identity primary key,
    position    bigint unique,
    resource_type text not null,   -- full name of the message, e.g. inspect.v1.Inspection
    verb        text not null,     -- created, updated, deleted, or an app's own word (submitted)
    name        text not null,     -- resource name
    payload     bytea not null,    -- the resource after the change; before it, where it was deleted
    caller      text not null default '',
    request_id  text not null default '',
    traceparent text not null default '',
    create_time timestamptz not null default clock_timestamp()
);
create index events_unnumbered on transom.events (id) where position is null;

-- The relay: `numbered` is the last position given, `published` the last one the broker confirmed.
create table transom.relay (
    one       boolean primary key default true check (one),
    numbered  bigint not null default 0,
    published bigint not null default 0
);
insert into transom.relay default values;

-- What a consumer has finished: its effect and this row commit together, so a redelivery changes nothing.
create table transom.inbox (
    handler   text not null,
    event_id  text not null,
    done_time timestamptz not null default clock_timestamp(),
    primary key (handler, event_id)
);
create index inbox_done_time on transom.inbox (done_time);

-- Mails to send: queued by a transaction, sent by the mail consumer.
create table transom.mails (
    id          text primary key,
    recipient   text not null,
    subject     text not null,
    body        text not null,
    attachments jsonb not null default '[]',
    create_time timestamptz not null default clock_timestamp(),
    sent_time   timestamptz,
    attempts    int not null default 0,
    last_error  text not null default ''
);

-- Which column a field lives in. The field's number, not its name, is the column's identity: a rename keeps its data.
create table transom.catalogue (
    message     text not null,
    number      int not null,
    table_schema text not null,
    table_name  text not null,
    column_name text not null,
    column_type text not null,
    primary key (message, number)
);
create table transom.tables (
    message      text primary key,
    table_schema text not null,
    table_name   text not null,
    unique (table_schema, table_name)
);
