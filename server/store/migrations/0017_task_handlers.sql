-- What workers say of the tasks that their app declares, so that servers, which do not load its tasks.py, know them.
create table transom.task_handlers (
    name        text primary key,
    callable_by text not null,                  -- who may enqueue it by a call: nobody (but keys and admins in scope), users
    payload     text not null default '',       -- full name of the message that it is told; empty for any JSON
    priority    smallint not null default 0,    -- of tasks that say none
    description text not null default '',
    update_time timestamptz not null default clock_timestamp()
);

-- What a caller has under way, and what waits for whom.
create index tasks_under_way on transom.tasks (caller, handler, state) where end_time is null;
create index tasks_of_caller on transom.tasks (caller, id);
