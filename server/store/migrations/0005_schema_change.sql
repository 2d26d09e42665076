-- What is deployed, what comes next, and how far the way there is.

-- While a table has two names, or one of its columns has, views bear them, and the table itself is called so.
alter table transom.tables add column base text;
-- Two tables may change names with each other.
alter table transom.tables drop constraint tables_table_schema_table_name_key;
alter table transom.tables add unique (table_schema, table_name) deferrable initially deferred;

create table transom.schemas (
    version     int generated always as identity primary key,
    digest      text not null,         -- SHA-256 of the image, hexadecimal
    layout      text not null,         -- the same for schemas whose tables are the same, to the last label in them
    image       bytea not null,        -- FileDescriptorSet
    follows     int,                   -- the version that was served before
    -- expanding: the tables are made fit for it; expanded: its servers may start beside those of the version before;
    -- settling: only its servers may start, and what they alone may see is done; closed: the tables are made fit for it
    -- while no server may start; serving: it is what is deployed; past: another one is
    state       text not null check (state in ('expanding', 'expanded', 'settling', 'closed', 'serving', 'past')),
    who         text not null default '',
    create_time timestamptz not null default clock_timestamp(),
    change_time timestamptz not null default clock_timestamp()
);
create unique index schemas_serving on transom.schemas (state) where state = 'serving';

-- How far the columns are that are filled in batches. A row goes when the column is what it was filled for.
create table transom.schema_fills (
    key         text primary key,
    after       text not null default '',  -- the name of the last row of the last batch
    looked_at   bigint not null default 0,
    written     bigint not null default 0,
    done        boolean not null default false,
    begin_time  timestamptz not null default clock_timestamp(),
    change_time timestamptz not null default clock_timestamp()
);
