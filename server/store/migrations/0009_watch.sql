-- What a watcher must know of a change beside the resource after it: whether it was among those watched before, by a filter or
-- by the rules. All are NULL in events of processes that did not write them yet.
alter table transom.events
    add column owner  text,    -- who owned the resource; also who made it, with its first event
    add column before bytea,   -- the resource before the change; NULL where there was none, and where `payload` is that
    add column gone   boolean; -- whether it is not there any more: `payload` is then the resource before the change
