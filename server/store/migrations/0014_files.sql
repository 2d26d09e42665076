-- Files: uploads by form and in parts, who may read, what processing found out, and how much each owner has.
alter table transom.files
    add column public           boolean not null default false,
    add column bounded          boolean not null default false, -- size_bytes is a bound until the upload is complete
    add column upload_key       text,                           -- S3's id of an upload in parts
    add column part_size_bytes  bigint,                         -- of an upload in parts
    add column variants         jsonb not null default '[]',
    add column metadata         jsonb not null default '{}',
    add column rejection        jsonb,                          -- {"reason", "message"}
    add column process_time     timestamptz;
alter table transom.files drop constraint files_state_check;
alter table transom.files add constraint files_state_check
    check (state in ('PENDING', 'UPLOADED', 'READY', 'REJECTED', 'DELETING')) not valid;

-- What the sweep looks for after a completion, whatever came of it.
drop index transom.files_uploaded;
create index files_uploaded on transom.files (upload_expire_time)
    where upload_expire_time is not null and state in ('UPLOADED', 'READY', 'REJECTED');

-- How much each owner has, announced uploads included; kept by triggers, so that no statement can forget it. Copies of
-- accounts and what is the system's do not count.
create table transom.file_usage (
    owner text primary key,
    files bigint not null,
    bytes bigint not null
);

create function transom.count_files() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into transom.file_usage as u (owner, files, bytes)
        select owner, count(*), sum(size_bytes) from after_files
        where state <> 'DELETING' and not private and owner <> 'system' group by owner order by owner
        on conflict (owner) do update set files = u.files + excluded.files, bytes = u.bytes + excluded.bytes;
    elsif tg_op = 'DELETE' then
        insert into transom.file_usage as u (owner, files, bytes)
        select owner, -count(*), -sum(size_bytes) from before_files
        where state <> 'DELETING' and not private and owner <> 'system' group by owner order by owner
        on conflict (owner) do update set files = u.files + excluded.files, bytes = u.bytes + excluded.bytes;
    else
        insert into transom.file_usage as u (owner, files, bytes)
        select owner, sum(n), sum(b) from (
            select owner, 1 as n, size_bytes as b from after_files
            where state <> 'DELETING' and not private and owner <> 'system'
            union all
            select owner, -1, -size_bytes from before_files
            where state <> 'DELETING' and not private and owner <> 'system'
        ) as changed
        group by owner having sum(n) <> 0 or sum(b) <> 0 order by owner
        on conflict (owner) do update set files = u.files + excluded.files, bytes = u.bytes + excluded.bytes;
    end if;
    -- Of who has nothing any more nothing is kept.
    if tg_op <> 'INSERT' then
        delete from transom.file_usage
        where files <= 0 and owner in (select distinct owner from before_files);
    end if;
    return null;
end $$;
create trigger count_made after insert on transom.files
    referencing new table as after_files for each statement execute function transom.count_files();
create trigger count_changed after update on transom.files
    referencing old table as before_files new table as after_files for each statement execute function transom.count_files();
create trigger count_removed after delete on transom.files
    referencing old table as before_files for each statement execute function transom.count_files();
insert into transom.file_usage (owner, files, bytes)
select owner, count(*), sum(size_bytes) from transom.files
where state <> 'DELETING' and not private and owner <> 'system' group by owner;
