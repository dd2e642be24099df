-- How many bytes of events an exchange keeps; 0 for as many as there are.
alter table exchange add column archive_bytes integer not null default 0;
