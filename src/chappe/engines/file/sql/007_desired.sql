-- What operators want of pools, queues and the intake: of each `what` the latest counts, the earlier ones are the audit trail.
create table desired (number integer primary key autoincrement, what text not null, value text, who text not null, at real not null) strict;
create index desired_by_what on desired (what, number);
-- When a message that was delayed or retried was due; null for one that waits since it was sent.
alter table ready add column since real;
