-- Which lists were slow, that an index might make quick: what `transom check` warns of. A row for each shape of a list, without
-- the values that were asked for.
create table transom.filters (
    resource     text not null,             -- the resource's message
    shape        text not null,             -- paths and how they are asked for, then the order: see server/query/shapes.py
    count        bigint not null,
    slowest      double precision not null, -- seconds
    last_time    timestamptz not null default clock_timestamp(),
    primary key (resource, shape)
);
