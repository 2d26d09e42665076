-- Mail: HTML beside the text, what became of each recipient, and the addresses that nothing is sent to any more.
alter table transom.mails add column html text not null default '';
alter table transom.mails add column reply_to text not null default '';
create index mails_create_time on transom.mails (create_time);

create table transom.mail_recipients (
    mail        text not null references transom.mails (id) on delete cascade,
    address     text not null,
    token       text not null unique,           -- in the return path of what is sent to it: whose a bounce is
    state       text not null default 'waiting', -- waiting, sent, refused, suppressed, bounced
    status      text not null default '',       -- enhanced status (RFC 3463), where the server told one
    said        text not null default '',       -- what it said, in its own words
    update_time timestamptz not null default clock_timestamp(),
    primary key (mail, address)
);
create index mail_recipients_of_address on transom.mail_recipients (lower(address), update_time);

create table transom.mail_suppressions (
    address     text primary key,               -- in lower case
    reason      text not null,                  -- BOUNCED, BOUNCED_OFTEN, OPERATOR
    status      text not null default '',
    said        text not null default '',
    create_time timestamptz not null default clock_timestamp(),
    lifted_time timestamptz                     -- since then mails go there again; failures before it do not count
);

-- Schedules: when each is due next. What they are stands in the app's code; a process tells it here when it starts.
create table transom.schedules (
    name        text primary key,
    task        text not null,                  -- the function that each tick runs
    spec        text not null,                  -- what is declared, as JSON: a process runs only what it declares itself
    description text not null default '',
    next_time   timestamptz not null,           -- the first tick that was not dealt with yet
    paused      boolean not null default false,
    retired     boolean not null default false, -- no process that started lately declares it
    last_tick   timestamptz,                    -- the last tick that was enqueued
    last_run    text not null default '',       -- and what was run for it
    missed      bigint not null default 0,      -- ticks that were let go: by the policy, or beyond its bound
    create_time timestamptz not null default clock_timestamp(),
    update_time timestamptz not null default clock_timestamp()
);
create index schedules_due on transom.schedules (next_time) where not paused and not retired;
