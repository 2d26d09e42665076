-- Who uses the app, where they are signed in, and the keys of programs. Of passwords and tokens only hashes are kept.
create table transom.users (
    id            text primary key,
    email         text not null,          -- as it was given
    email_key     text not null unique,   -- the same address in its one canonical spelling
    display_name  text not null,
    password_hash text not null,          -- argon2id, PHC string
    create_time   timestamptz not null default clock_timestamp()
);

create table transom.sessions (
    id          text primary key,
    user_id     text not null references transom.users on delete cascade,
    token_hash  bytea not null unique,    -- SHA-256 of the token
    device      text not null,
    create_time timestamptz not null default clock_timestamp(),
    expire_time timestamptz not null
);
create index sessions_newest on transom.sessions (user_id, create_time desc, id desc);
create index sessions_expire_time on transom.sessions (expire_time);

create table transom.keys (
    id          text primary key,
    token_hash  bytea not null unique,    -- SHA-256 of the token
    title       text not null,
    role        text not null check (role in ('admin', 'service')),
    create_time timestamptz not null default clock_timestamp()
);
