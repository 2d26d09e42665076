-- What the resume tokens of watches are signed with: whoever has one was told all before it. Each database makes its own; it is
-- worth no more than the database itself, where the log can be read without a token.
alter table transom.relay
    add column token_key bytea not null default uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
