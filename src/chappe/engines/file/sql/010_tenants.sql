-- Whose share of the workers' time a ready message counts against (flag 128); elsewhere its envelope says it.
alter table ready add column tenant text;
create index ready_by_tenant on ready (queue, tenant, rank, id) where tenant is not null;
