-- Words and parts of texts are found by their trigrams. The extension is one of those that an owner of the database may create.
create extension if not exists pg_trgm;
