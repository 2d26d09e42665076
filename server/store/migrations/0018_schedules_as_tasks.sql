-- A tick is run by a task.
alter table transom.schedules add column last_task text not null default '';

-- Workers that were heard of lately, and the tasks that each declares: those are what transom.task_handlers holds.
create table transom.task_workers (
    worker    text primary key,
    names     text[] not null,
    seen_time timestamptz not null default clock_timestamp()
);

-- For the transaction that enqueues a task: fails where workers have declared tasks, and none of that name.
create function transom.require_task_handler(wanted text) returns void language plpgsql as $$
begin
    if not exists (select from transom.task_handlers where name = wanted) and exists (select from transom.task_handlers) then
        raise exception 'no worker has declared a task called %', wanted using errcode = 'TR001';
    end if;
end $$;

-- For a transaction that was decided in the belief that the task has its unique key: fails, to be decided again, where it has not.
create function transom.require_task_key(task text, of_handler text, key text) returns void language plpgsql as $$
begin
    if not exists (
        select from transom.tasks
        where id = task and handler = of_handler and unique_key = key and state in ('QUEUED', 'RUNNING', 'FAILED')
    ) then
        raise exception 'the task % does not have its key', task using errcode = '40001';
    end if;
end $$;
