-- What is remembered beside RabbitMQ. Times are seconds since the epoch, by the clock of this server.

create sequence place;          -- where a message stands among those of its priority: the order of publishing
create sequence publication;    -- one for all copies of a publication
create sequence session_number as integer minvalue 1 maxvalue 2147483647 cycle;

create function now_seconds() returns double precision language sql volatile as
    'select extract(epoch from clock_timestamp())::double precision';

create table topology (version bigint not null);
insert into topology values (0);

create table exchange (
    name text primary key,
    kind text not null,
    archive double precision not null
);

create table queue (
    id integer generated always as identity primary key,
    name text not null unique,
    bindings jsonb not null,
    origin text not null,
    lanes smallint not null default 0    -- 1: a lane for larger priorities exists, 2: one for smaller ones
);

-- One copy of a message for one queue, or one publication that only an exchange waits for (queue is null).
create table message (
    place bigint primary key default nextval('place'),
    number bigint not null,
    queue integer references queue,
    rank bigint not null,                -- minus the priority
    message_id text not null,
    state smallint not null,             -- 0 delayed, 1 ready, 2 running
    due double precision,
    attempt integer not null default 0,
    flags smallint not null default 0,
    key text,
    version bigint,                      -- of what is pending: others may be merged into it
    pending boolean generated always as (version is not null) stored,  -- unlike the version it stays in a merge, which then touches no index
    note text,
    session integer,                     -- who runs it
    ticket text,                         -- by which ticket it was lent
    loan integer not null default 0,     -- how often it was lent: no two loans are the same
    sending integer not null default 0,  -- how often it was given a ticket
    ticketed boolean not null,           -- its ticket waits in the broker
    sent boolean not null,               -- the broker confirmed that ticket
    stored_at double precision not null default now_seconds(),
    exchange text,                       -- where its first ticket goes, if not straight to the queue
    routing_key text,
    envelope bytea not null
) with (fillfactor = 80);

create unique index message_by_number on message (number, queue);
create index message_by_ticket on message (ticket) where state = 2;
create index message_by_id on message (message_id);
create index message_due on message (due, place) where state = 0;
create index message_unsent on message (stored_at) where state = 1 and not sent;
create index message_line on message (queue, key, rank, place) where key is not null and state = 1;
create unique index message_pending on message (queue, key) where pending;
create index message_counted on message (queue, state, rank, place);

-- Which message of a key has its turn, from its first start to its end.
create table held (
    queue integer not null,
    key text not null,
    number bigint not null,
    primary key (queue, key)
);

-- What a message that waits in the broker itself has behind it.
create table attempt (
    queue integer not null,
    message_id text not null,
    attempt integer not null,
    note text,
    at double precision not null default now_seconds(),
    primary key (queue, message_id)
);

create table failure (
    queue integer not null,
    message_id text not null,
    at double precision not null,
    attempt integer not null,
    error text not null
);
create index failure_by_message on failure (queue, message_id);

-- How many workers died while they ran a message; it is known by a mark of its queue and its id.
create table death (
    mark bigint primary key,
    deaths integer not null,
    at double precision not null default now_seconds()
);

create table dead (
    number bigint generated always as identity primary key,
    queue integer not null references queue,
    rank bigint not null,
    message_id text not null,
    attempts integer not null,
    flags smallint not null,
    key text,
    reason text not null,
    error text,
    died_at double precision not null,
    history bytea not null,
    envelope bytea not null
);
create index dead_by_queue on dead (queue, number);

create table mark (
    message_id text not null,
    handler text not null,
    result bytea,
    primary key (message_id, handler)
);

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
create index tracked_at on tracked (at);

create table idempotency (
    name text primary key,
    message_id text not null,
    fingerprint text not null,
    until double precision not null
);
create index idempotency_until on idempotency (until);

create table unique_key (
    name text primary key,
    message_id text not null,
    until double precision
);
create index unique_key_by_message on unique_key (message_id);

create table budget (name text primary key, tat double precision not null);
create table schedule (name text primary key, slot double precision not null);

create table session (
    number integer primary key,
    name text not null,
    role text not null,
    info bytea not null,
    consumes boolean not null,
    started_at double precision not null default now_seconds()
);

create table follower (name text primary key, position bigint not null);

-- What operators want of pools and the intake: of each `what` the latest counts, the earlier ones are the audit trail.
create table desired (
    number bigint generated always as identity primary key, what text not null, value text, who text not null, at double precision not null
);
