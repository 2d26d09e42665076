-- From when on the event log has everything: a range of time that begins later can be told again, however much was deleted before.
alter table transom.relay
    add column trimmed_time timestamptz; -- when the youngest event that was deleted was written; null where none ever was

update transom.relay set trimmed_time = coalesce(
    (select create_time from transom.events where position > trimmed order by position limit 1), clock_timestamp())
where trimmed > 0;
