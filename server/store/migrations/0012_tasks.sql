-- Tasks: work that is asked for by name. The row is the task: it is written in the transaction of whoever asks, and workers take
-- it from here in the order of priority and time.
create table transom.tasks (
    id            text primary key,
    handler       text not null,                 -- the function that runs it
    payload       text not null default '{}',    -- what it is told, as JSON
    state         text not null default 'QUEUED', -- QUEUED, RUNNING, FAILED (will be retried), SUCCEEDED, DEAD, CANCELLED, DISCARDED
    priority      smallint not null default 0,   -- higher ones first
    unique_key    text not null default '',      -- of those that have not ended there is one
    run_time      timestamptz not null default clock_timestamp(), -- not before
    attempts      int not null default 0,        -- runs begun, since it was enqueued or retried by hand
    takes         bigint not null default 0,     -- runs begun, ever: tells a run from the one after it
    lost          int not null default 0,        -- runs whose worker was not heard of again
    worker        text not null default '',
    lease_time    timestamptz,                   -- when a worker that is not heard of has lost it
    cancelling    boolean not null default false, -- it runs, and somebody has asked to cancel it
    progress      real not null default 0,       -- 0 to 1
    progress_text text not null default '',
    result        text not null default '',      -- JSON
    error         text not null default '',      -- why the last run failed
    traceback     text not null default '',
    caller        text not null default '',
    request_id    text not null default '',
    traceparent   text not null default '',
    create_time   timestamptz not null default clock_timestamp(),
    start_time    timestamptz,
    end_time      timestamptz
);
create unique index tasks_unique_key on transom.tasks (handler, unique_key)
    where unique_key <> '' and state in ('QUEUED', 'RUNNING', 'FAILED');
create index tasks_due on transom.tasks (handler, priority desc, run_time, id) where state in ('QUEUED', 'FAILED');
create index tasks_running on transom.tasks (lease_time) where state = 'RUNNING';
create index tasks_ended on transom.tasks (end_time) where end_time is not null;

-- A queue that is bounded across workers: who takes from it holds its row. `full_time` is when its bucket of tokens is full again.
create table transom.task_queues (
    queue     text primary key,
    full_time timestamptz not null default '-infinity'
);

-- Ends a run within the transaction of its effect. Where the run is not the task's any more (it was cancelled, or its worker was
-- given up and another one has it), the whole transaction fails, so an effect happens once.
create function transom.end_task(task text, take bigint, told text) returns void language plpgsql as $$
begin
    update transom.tasks set state = 'SUCCEEDED', result = told, progress = 1, error = '', traceback = '', lease_time = null,
        cancelling = false, end_time = clock_timestamp()
    where id = task and takes = take and state = 'RUNNING' and not cancelling;
    if not found then
        raise exception 'the run % of task % is over', take, task using errcode = '40001';
    end if;
end $$;
