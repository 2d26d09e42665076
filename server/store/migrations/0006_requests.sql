-- Writes that may be repeated, and what they answered (AIP-155). Of a request only its digest is kept.
create table transom.requests (
    caller      text not null,          -- empty for nobody
    id          text not null,
    digest      bytea not null,         -- SHA-256 of the method and the request
    reply       bytea not null,
    create_time timestamptz not null default clock_timestamp(),
    primary key (caller, id)
);
create index requests_create_time on transom.requests (create_time);

-- Operations (AIP-151). Their ids sort by time.
create table transom.operations (
    id          text primary key,
    caller      text not null,          -- who may see it
    done        boolean not null,
    payload     bytea not null,         -- google.longrunning.Operation, serialized
    create_time timestamptz not null default clock_timestamp()
);
create index operations_caller on transom.operations (caller, id);
create index operations_create_time on transom.operations (create_time);
