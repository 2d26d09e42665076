-- How far back the event log goes, and how large it is: whoever follows it is told when it asks for what is gone, and it can be
-- bounded without being counted.
alter table transom.relay
    add column trimmed bigint not null default 0,    -- the last position that was deleted; all before it are gone, too
    add column kept_bytes bigint not null default 0; -- of the events with a position that are there, as consumers/keeping.py counts

update transom.relay set
    trimmed = coalesce((select min(position) - 1 from transom.events), numbered),
    kept_bytes = (select coalesce(sum(octet_length(payload) + coalesce(octet_length(before), 0) + 400), 0) from transom.events where position is not null);
