-- What refusals have taught of a limit that nobody declared.
alter table budget add column learned blob;
