-- Messages that run alone, because a worker died while they executed (flag 64), and how often that was for a dead letter.
create index ready_suspects on ready (queue, rank, id) where flags & 64;
alter table dead add column deaths integer not null default 0;
