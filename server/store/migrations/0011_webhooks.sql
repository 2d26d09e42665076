-- Webhooks: whom events are posted to, how far each of them is, and what became of each posting.
create table transom.webhook_endpoints (
    id          text primary key,
    url         text not null,
    types       text[] not null,                -- *, <message>.* or <message>.<verb>
    filter      text not null default '',
    description text not null default '',
    owner       text not null,                  -- who made or changed it last: it is told what they may know
    secret      bytea not null,                 -- sealed
    old_secret  bytea,                          -- signs, too, until old_until
    old_until   timestamptz,
    state       text not null default 'active', -- active, paused, disabled
    reason      text not null default '',       -- why it was disabled
    version     bigint not null default 1,
    failures    int not null default 0,         -- postings that failed since the last that did not
    failing_since timestamptz,
    open_until  timestamptz,                    -- nothing is posted before
    create_time timestamptz not null default clock_timestamp(),
    update_time timestamptz not null default clock_timestamp()
);

-- How far in the event log: one row without an end for each endpoint, and one for each part that is to be told again.
create table transom.webhook_positions (
    id       bigint generated always as identity primary key,
    endpoint text not null references transom.webhook_endpoints (id) on delete cascade,
    position bigint not null,
    until    bigint
);
create unique index webhook_positions_of_endpoint on transom.webhook_positions (endpoint) where until is null;
create index webhook_positions_parts on transom.webhook_positions (endpoint) where until is not null;

create sequence transom.webhook_turns;
create table transom.webhook_deliveries (
    id          bigint generated always as identity primary key,
    endpoint    text not null references transom.webhook_endpoints (id) on delete cascade,
    message     text not null,                  -- the webhook-id: the same, however often it is posted
    type        text not null,
    resource    text not null,
    position    bigint not null,
    body        bytea not null,
    state       text not null default 'waiting', -- waiting, delivered, failed
    turn        bigint not null default nextval('transom.webhook_turns'), -- of one resource, they go in this order
    next_time   timestamptz not null,           -- infinity: another one of the resource goes first
    lease       text,                           -- the attempt under way; given up at next_time
    attempts    int not null default 0,
    first_time  timestamptz,                    -- of the first attempt
    last_time   timestamptz,
    code        int not null default 0,
    error       text not null default '',
    said        text not null default '',
    millis      int not null default 0,
    create_time timestamptz not null default clock_timestamp(),
    done_time   timestamptz,
    unique (endpoint, message)
);
create index webhook_deliveries_due on transom.webhook_deliveries (endpoint, next_time) where state = 'waiting';
create index webhook_deliveries_heads on transom.webhook_deliveries (endpoint, resource, turn) where state = 'waiting';
create index webhook_deliveries_list on transom.webhook_deliveries (endpoint, id);
create index webhook_deliveries_done on transom.webhook_deliveries (done_time) where state <> 'waiting';
