-- How far the look for bytes that no row knows of has come: it goes on there, whichever worker is next.
create table transom.orphan_search (
    one boolean primary key default true check (one),
    look smallint not null default 0,
    key text not null default '',
    upload text not null default ''
);
insert into transom.orphan_search default values;
