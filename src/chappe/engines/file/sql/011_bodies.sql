-- Messages whose bodies are in files beside this one: the flag 256 says so, in the archive a column.
create index ready_bodies on ready (id) where flags & 256;
create index delayed_bodies on delayed (id) where flags & 256;
create index dead_bodies on dead (number) where flags & 256;
alter table archive add column has_file integer;
create index archive_bodies on archive (seq) where has_file;
