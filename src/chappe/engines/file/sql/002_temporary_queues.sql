-- Queues that go with the client that made them; an owner that does not come back after a restart of the engine has left them.
create table temporary_queue (queue integer primary key, owner text not null) strict;
