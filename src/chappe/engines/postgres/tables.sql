-- Every message is in exactly one of message, running and dead. Times are seconds since the epoch, by the clock of this server.

create sequence place;          -- where a message stands among those of its priority: the order of publishing
create sequence session_number as integer minvalue 1 maxvalue 2147483647 cycle;

create function now_seconds() returns double precision language sql volatile as
    'select extract(epoch from clock_timestamp())::double precision';

create table made_by (fingerprint text not null);  -- of this file, so that a release finds out that the tables are not its own

create table topology (version bigint not null);
insert into topology values (0);

create table exchange (
    name text primary key, kind text not null, archive double precision not null, archive_bytes bigint not null default 0
);

create table queue (
    id integer generated always as identity primary key,
    name text not null unique,
    bindings jsonb not null,
    origin text not null,
    owner integer,                       -- the session that a temporary queue goes with
    paused boolean not null default false,  -- whether nothing of it is lent
    fair boolean not null default false  -- whether everything in it has a tenant
);

-- What waits.
create table message (
    place bigint primary key default nextval('place'),
    queue integer not null,
    rank bigint not null,                -- minus the priority
    state smallint not null default 1,   -- 0 delayed, 1 ready, 2 behind another of its key, 3 ready to run alone
    due double precision,                -- infinity for what waits for a budget
    message_id text not null,
    attempt integer not null default 0,
    deaths smallint not null default 0,  -- of workers that ran it
    flags smallint not null default 0,
    key text,
    pending boolean not null default false,  -- others may be merged into it
    version bigint,                      -- of what is pending
    note text,
    budget text,                         -- what it waits for
    tenant text,                         -- whose share of the workers' time it counts against
    envelope bytea not null
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000);
create index message_line on message (queue, rank, place) where state = 1;
create index message_tenant on message (queue, rank, tenant, place) where state = 1 and tenant is not null;
create index message_alone on message (queue, rank, place) where state = 3;
create index message_behind on message (queue, key, rank, place) where state = 2;
create index message_budget on message (queue, budget, rank, place) where budget is not null;
create index message_due on message (due, place) where state = 0;
create index message_delayed on message (queue, due, place) where state = 0;
create unique index message_pending on message (queue, key) where pending;
create index message_by_id on message (message_id collate "C");
create index message_failed on message (place) where flags & 4 > 0;  -- and waits for another attempt

-- What is lent, and to which session.
create table running (
    place bigint primary key,
    queue integer not null,
    rank bigint not null,
    message_id text not null,
    attempt integer not null,
    deaths smallint not null,
    flags smallint not null,
    key text,
    note text,
    session integer not null,
    tenant text,
    envelope bytea not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
create index running_tracked on running (message_id) where flags & 1 > 0;

-- The message of each key whose turn it is, from when it is the first that waits to its end.
create table line (
    queue integer not null,
    key text not null,
    head bigint not null,
    primary key (queue, key)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create table failure (
    queue integer not null,
    message_id text not null,
    at double precision not null,
    attempt integer not null,
    error text not null
);
create index failure_by_message on failure (queue, message_id);

create table dead (
    number bigint generated always as identity primary key,
    queue integer not null,
    rank bigint not null,
    message_id text not null,
    attempts integer not null,
    deaths smallint not null default 0,
    flags smallint not null,
    key text,
    unique_name text,                    -- the unique key that it had, and needs again to be retried
    reason text not null,
    error text,
    died_at double precision not null,
    history jsonb not null,
    tenant text,
    envelope bytea not null
);
create index dead_by_queue on dead (queue, number);
create index dead_by_id on dead (message_id collate "C");

-- What became of each queue's messages since the last look, a row for each batch: nobody waits for anybody, and whoever tends adds them up.
-- `passed` counts what was published to an `exchange`: once, in the row of the first queue that took it, or of no queue (0).
create table tally (
    queue integer not null, published bigint not null default 0, done bigint not null default 0, retried bigint not null default 0,
    died bigint not null default 0, exchange text not null default '', passed bigint not null default 0
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

create table mark (message_id text not null, handler text not null, result bytea, primary key (message_id, handler));

create table tracked (
    message_id text primary key,
    type text not null,
    state text not null,
    queue text not null,
    at double precision not null,
    into_id text,
    result bytea,
    error text,
    progress bytea
);
create index tracked_into on tracked (into_id) where into_id is not null;
create index tracked_at on tracked (at) where state in ('done', 'dead');
create index tracked_batch on tracked (message_id collate "C") where substr(message_id, 37, 1) = '.';

create table idempotency (
    name text primary key,
    message_id text not null,
    fingerprint text not null,
    until double precision not null
);
create index idempotency_until on idempotency (until);

create table unique_key (name text primary key, message_id text not null, until double precision);
create index unique_key_by_message on unique_key (message_id);
create index unique_key_until on unique_key (until) where until is not null;

create table budget (
    name text primary key,
    tat double precision not null,       -- the theoretical arrival time of the next start
    pace double precision not null default 1,   -- seconds from one start to the next
    burst integer not null default 1,
    closed double precision not null default 0, -- until when there is no start
    learned bytea                               -- what refusals have taught of a limit that nobody declared
);
-- The queues and budgets for which something waits, and when to look whether there is room.
create table gate (queue integer not null, budget text not null, opens double precision not null, primary key (queue, budget));
create index gate_opens on gate (opens);
-- What tenants have had of the workers' time, in seconds by weight; `last` is what was added last, `least` what those had that waited at the last look.
create table share (
    queue integer not null, tenant text not null, used double precision not null, last double precision not null,
    estimate double precision not null, at double precision not null, primary key (queue, tenant)
) with (fillfactor = 80);
create table turn (queue integer primary key, least double precision not null default 0) with (fillfactor = 50);
create table weight (tenant text primary key, weight double precision not null);

create table schedule (name text primary key, slot double precision not null);
create table schedule_definition (name text primary key, application text not null, definition text);

-- Events that were published together and follow one another in one exchange: those from `first` to `seq`.
create table archive (
    first bigint not null,
    seq bigint primary key,
    at double precision not null,
    exchange text not null,
    routing_keys text[] not null,
    envelopes bytea[] not null
);
create table archive_head (seq bigint not null);
insert into archive_head values (0);
-- A statement of its own: only what begins when it has the head sees everybody who listens.
create function tell_archived() returns void language plpgsql volatile as $$
begin
    if exists (select 1 from asker where message_id = '') then perform pg_notify('chappe_ended', ''); end if;
end $$;
create table follower (name text primary key, position bigint not null);

create table session (
    number integer primary key,
    name text not null,
    role text not null,
    info bytea not null,
    consumes boolean not null default false,  -- it holds messages of a broker beside this one
    started_at double precision not null default now_seconds()
);

-- What was taken over from a broker beside this one, under which tag it was lent there; and deaths with what it has still, by the marks in their tags.
create table adoption (tag bigint primary key, place bigint not null, at double precision not null);
create index adoption_at on adoption (at);
create table stray_death (mark bigint primary key, death bytea not null, deaths smallint not null, at double precision not null);

-- Who waits for what: told by NOTIFY, which is sent to nobody else. After a crash of the server they wait anew.
create unlogged table waiter (queue integer not null, session integer not null, primary key (queue, session));
create unlogged table asker (message_id text not null, session integer not null, primary key (message_id, session));

-- What operators want of pools, queues and the intake: of each `what` the latest counts, the earlier ones are the audit trail.
create table desired (
    number bigint generated always as identity primary key,
    what text not null,
    value text,
    who text not null,
    at double precision not null default now_seconds()
);
create index desired_by_what on desired (what, number);

-- What is read only together is kept in one place, where it fits.
alter table archive alter envelopes set storage main;
-- What is long is compressed, by default in a way that takes as long as all else that storing it costs; not every server knows the other one.
do $$ begin
    execute 'alter table message alter envelope set compression lz4';
    execute 'alter table running alter envelope set compression lz4';
    execute 'alter table dead alter envelope set compression lz4';
    execute 'alter table archive alter envelopes set compression lz4';
exception when feature_not_supported or syntax_error then null;
end $$;
