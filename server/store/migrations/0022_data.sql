-- An operation tells its caller what it deleted, too, which is not there to be judged any more.
alter table transom.operations add column deleted text[] not null default '{}';

-- Those of who is not signed in, of which only so many are kept.
create index requests_nobodys on transom.requests (create_time) where caller = '';

-- How far a row's parent tells its owner: lists are planned by it. Tables that are made from now on have these statistics from
-- the start; those that are there have them with the next ANALYZE.
do $$
declare
    place record;
begin
    for place in
        select distinct c.table_schema, c.table_name from transom.catalogue c
        join pg_class t on t.oid = to_regclass(format('%I.%I', c.table_schema, c.table_name)) and t.relkind = 'r'
    loop
        execute format(
            'create statistics if not exists %I.%I (dependencies) on _parent, _owner from %I.%I',
            place.table_schema,
            'tx_' || left(md5(place.table_name), 8) || '_whose',
            place.table_schema,
            place.table_name
        );
    end loop;
end
$$;
