-- Ways to sign in beside the password, what callers may do, how often, and what they did.

-- An anonymous account has no address; one that signs in by other ways has no password.
alter table transom.users
    alter column email drop not null,
    alter column email_key drop not null,
    alter column password_hash drop not null,
    add column verified      boolean not null default false,   -- the address is proved to be the account's own
    add column anonymous     boolean not null default false,   -- nobody can sign in to it until it is upgraded
    add column roles         text[] not null default '{}',     -- what rules see as caller.roles
    add column scopes        text[],                           -- of admins: what they may do; null: everything
    add column disabled_time timestamptz,                      -- since when nobody can sign in to it
    add column delete_time   timestamptz,                      -- since when nobody can sign in, for it is to be deleted
    add column purge_time    timestamptz,                      -- when its data is removed; null while that is done
    add column purged        boolean not null default false;   -- it was; what was under way then is looked for once more
create index users_anonymous on transom.users (create_time) where anonymous;
create index users_newest on transom.users (create_time desc, id desc);
create index users_purging on transom.users (purge_time) where purge_time is not null;

-- A session ends at expire_time, whatever happens, and before that when nothing was heard of it for idle_lifetime.
alter table transom.sessions
    add column proof         text not null default 'password', -- how it was signed in
    add column web           boolean not null default false,   -- its token lives in a cookie
    add column idle_lifetime interval,                         -- null: no idle end
    add column seen_time     timestamptz not null default clock_timestamp(),  -- to the minute
    add column proof_time    timestamptz not null default clock_timestamp(),  -- when it last proved who it is
    add column address       text not null default '',         -- where it was last seen from
    add column impersonator  text not null default '';         -- the admin who acts as the account

alter table transom.keys
    add column scopes        text[];                           -- null: everything

-- Words that were mailed, or that go on with something begun. Of the word only its hash is kept; used once, it is gone.
create table transom.words (
    token_hash  bytea primary key,         -- SHA-256
    purpose     text not null,             -- verify, reset, change, code, invite, second_factor, ...
    user_id     text references transom.users on delete cascade,
    email       text not null default '',  -- the address it was sent to, or is about
    email_key   text not null default '',
    details     jsonb not null default '{}',
    attempts    int not null default 0,    -- wrong guesses at a code
    create_time timestamptz not null default clock_timestamp(),
    expire_time timestamptz not null
);
create index words_of_user on transom.words (user_id, purpose);
create index words_of_address on transom.words (email_key, purpose, create_time desc);
create index words_expire_time on transom.words (expire_time);

-- Accounts elsewhere (OIDC issuers) that sign in to accounts here.
create table transom.identities (
    issuer      text not null,
    subject     text not null,
    user_id     text not null references transom.users on delete cascade,
    email       text not null default '',  -- as the issuer said it last
    create_time timestamptz not null default clock_timestamp(),
    seen_time   timestamptz not null default clock_timestamp(),
    primary key (issuer, subject)
);
create index identities_of_user on transom.identities (user_id);

create table transom.passkeys (
    credential_id bytea primary key,
    id            text not null unique,    -- of its resource name
    user_id       text not null references transom.users on delete cascade,
    public_key    bytea not null,          -- COSE
    sign_count    bigint not null,
    transports    text[] not null default '{}',
    backup_eligible boolean not null default false,  -- it may be copied to other devices: fixed when it is made
    backed_up     boolean not null default false,
    title         text not null default '',
    create_time   timestamptz not null default clock_timestamp(),
    seen_time     timestamptz
);
create index passkeys_of_user on transom.passkeys (user_id, create_time);

-- The second factor: one authenticator app an account, and codes for when it is lost.
create table transom.authenticators (
    user_id      text primary key references transom.users on delete cascade,
    secret       bytea not null,           -- sealed with the installation's key
    confirm_time timestamptz,              -- null: enrolment has begun, nothing is asked yet
    last_step    bigint not null default 0 -- of the last code taken: none is taken twice
);
create table transom.recovery_codes (
    user_id   text not null references transom.users on delete cascade,
    code_hash bytea not null,
    primary key (user_id, code_hash)
);

-- Networks from which an account proved itself: what strangers try elsewhere does not slow these down.
create table transom.known_networks (
    user_id   text not null references transom.users on delete cascade,
    kind      text not null,               -- what was proved: password, code, totp
    network   text not null,               -- an IPv4 address, or the first half of an IPv6 address
    seen_time timestamptz not null default clock_timestamp(),
    primary key (user_id, kind, network)
);

-- What was done to accounts and by admins. Kept when the account goes.
create table transom.audit (
    id          bigint generated always as identity primary key,
    time        timestamptz not null default clock_timestamp(),
    actor       text not null,             -- resource name of the caller; empty for nobody
    impersonator text not null default '',
    action      text not null,             -- sign_in, password_changed, ...
    target      text not null default '',  -- resource name of what it was done to
    outcome     text not null,             -- ok, or the reason of the refusal
    address     text not null default '',
    device      text not null default '',
    request_id  text not null default '',
    details     jsonb not null default '{}'
);
create index audit_of_actor on transom.audit (actor, id desc);
create index audit_of_impersonator on transom.audit (impersonator, id desc) where impersonator <> '';
create index audit_of_target on transom.audit (target, id desc);
create index audit_of_action on transom.audit (action, id desc);
create index audit_time on transom.audit (time);

-- Copies of all that belongs to an account, made by a consumer.
create table transom.exports (
    id            text primary key,
    user_id       text not null references transom.users on delete cascade,
    state         text not null default 'RUNNING' check (state in ('RUNNING', 'READY', 'FAILED')),
    file          text not null default '',  -- files/..., once READY
    create_time   timestamptz not null default clock_timestamp(),
    complete_time timestamptz,
    expire_time   timestamptz                -- when the file goes
);
create index exports_of_user on transom.exports (user_id, create_time desc, id desc);
create unique index exports_running on transom.exports (user_id) where state = 'RUNNING';
create index exports_expire_time on transom.exports (expire_time);

-- Nobody but its owner reads it, though they know its name: copies of accounts.
alter table transom.files add column private boolean not null default false;

-- Mails of identity carry words that are keys: their text is forgotten once they are sent.
alter table transom.mails add column fleeting boolean not null default false;
create index mails_fleeting on transom.mails (create_time) where fleeting;
create index mails_of_address on transom.mails (lower(recipient));  -- they go with its account

-- What servers remember of callers is forgotten when it changes, whoever changes it and however: the change itself
-- tells them when it commits (server/store/announcements.py). At most 100 tokens in a word, which may have 8000 bytes.
create function transom.announce_ended() returns trigger language plpgsql as $$
begin
    perform pg_notify('transom_callers', 'ended ' || string_agg(encode(token_hash, 'hex'), ' '))
    from (select token_hash, row_number() over () / 100 as part from ended) each group by part;
    return null;
end $$;
create function transom.announce_rotated() returns trigger language plpgsql as $$
begin
    perform pg_notify('transom_callers', 'ended ' || encode(old.token_hash, 'hex'));
    return null;
end $$;
create function transom.announce_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('transom_callers', 'changed ' || tg_table_name || '/' || new.id);
    return null;
end $$;
create trigger ended after delete on transom.sessions
    referencing old table as ended for each statement execute function transom.announce_ended();
create trigger ended after delete on transom.keys
    referencing old table as ended for each statement execute function transom.announce_ended();
create trigger rotated after update of token_hash on transom.sessions
    for each row when (old.token_hash <> new.token_hash) execute function transom.announce_rotated();
create trigger changed after update of roles, scopes, verified, anonymous, disabled_time, delete_time on transom.users
    for each row when (
        (old.roles, old.scopes, old.verified, old.anonymous, old.disabled_time, old.delete_time)
        is distinct from (new.roles, new.scopes, new.verified, new.anonymous, new.disabled_time, new.delete_time)
    ) execute function transom.announce_changed();
create trigger changed after update of role, scopes on transom.keys
    for each row execute function transom.announce_changed();
create index sessions_of_impersonator on transom.sessions (impersonator) where impersonator <> '';
