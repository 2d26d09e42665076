-- What is known of files; their bytes are in S3, under files/<id> once they are checked and uploads/<id> before.
create table transom.files (
    id            text primary key,
    owner         text not null,          -- users/..., keys/... or system
    filename      text not null,
    content_type  text not null,
    size_bytes    bigint not null,
    sha256        bytea,
    state         text not null check (state in ('PENDING', 'READY', 'DELETING')),
    source        text unique,            -- what the task that made it calls it: the same word is the same file
    create_time   timestamptz not null default clock_timestamp(),
    complete_time timestamptz,
    delete_time   timestamptz,            -- since when it is DELETING
    upload_expire_time timestamptz        -- until when bytes may arrive under uploads/<id>; null: nothing can lie there
);
create index files_newest on transom.files (owner, create_time desc, id desc) where state <> 'DELETING';
create index files_pending on transom.files (owner) where state = 'PENDING';
-- What the sweep looks for: few rows at any time.
create index files_deleting on transom.files (delete_time) where state = 'DELETING';
create index files_unfinished on transom.files (create_time) where state = 'PENDING';
create index files_uploaded on transom.files (upload_expire_time) where upload_expire_time is not null and state = 'READY';
