-- What a delayed message waits for if it is no time: then it is due never, and keeps its place. A budget says its pace and until when it is closed.
alter table delayed add column budget text;
create index delayed_by_budget on delayed (queue, budget, rank, id) where budget is not null;
alter table budget add column interval real not null default 1;
alter table budget add column burst integer not null default 1;
alter table budget add column closed real not null default 0;
