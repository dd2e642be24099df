-- The unique key that a dead letter had while it waited and ran: it needs it again to be retried.
alter table dead add column unique_name text;
