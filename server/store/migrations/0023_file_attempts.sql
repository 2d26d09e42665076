-- Each writing of a file's bytes has a key of its own, and the row says which one counts: whatever is written late changes nothing.
alter table transom.files
    add column attempt text not null default ''; -- they are under files/<id>.<attempt>; under files/<id> where it is empty
