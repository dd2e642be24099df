-- The first schema. Numbers of migrations only grow; a migration that was released is never edited.
-- Every envelope is stored behind its checksum (seal.py).
-- A message is a row of exactly one of ready, delayed and dead. "Running" is not stored: the engine holds it in
-- memory for the connection it lent the message to, so a lent message is ready again when either of them dies.

create table meta (name text primary key, value any) strict, without rowid;
insert into meta values ('next_id', 1), ('held', 0);

create table exchange (name text primary key, kind text not null, archive real not null) strict, without rowid;

create table queue (
    id integer primary key autoincrement, name text not null unique, bindings text not null, origin text not null
) strict;

-- What nearly every commit changes, together, so that it is one page: "queue <id>" is [rows, delayed, dead]; "client <name>" is
-- [serial, refused, at], its last request that is stored: what a client asks after its connection was cut.
create table tally (name text primary key, value blob not null) strict, without rowid;

-- rank is the priority times -1, so that the order of the key is the order of serving.
create table ready (
    queue integer not null, rank integer not null, id integer not null, message_id text not null,
    attempt integer not null, flags integer not null, key text, note text, envelope blob not null,
    primary key (queue, rank, id)
) strict, without rowid;
create index ready_by_key on ready (queue, key, rank, id) where key is not null;

create table delayed (
    due real not null, id integer not null, queue integer not null, rank integer not null, message_id text not null,
    attempt integer not null, flags integer not null, key text, note text, envelope blob not null,
    primary key (due, id)
) strict, without rowid;
create index delayed_by_queue on delayed (queue);

-- The one pending message of a key that merges; the row goes when the message is lent to a worker.
create table pending (
    queue integer not null, key text not null, id integer not null, due real, rank integer not null, version integer not null,
    primary key (queue, key)
) strict, without rowid;

create table dead (
    number integer primary key autoincrement, queue integer not null, rank integer not null, message_id text not null,
    attempts integer not null, flags integer not null, key text, reason text not null, error text, died_at real not null,
    history blob, envelope blob not null
) strict;
create index dead_by_queue on dead (queue, number);

create table failure (message_id text not null, at real not null, attempt integer not null, error text not null) strict;
create index failure_by_message on failure (message_id);

-- How often a worker died with the message started.
create table death (message_id text primary key, count integer not null) strict, without rowid;

create table mark (message_id text not null, handler text not null, result blob, primary key (message_id, handler)) strict, without rowid;

create table tracked (
    message_id text primary key, type text not null, state text not null, queue text not null, at real not null,
    into_id text, result blob, error text, progress blob
) strict, without rowid;
create index tracked_by_into on tracked (into_id) where into_id is not null;
create index tracked_by_end on tracked (at) where state in ('done', 'dead');

create table unique_key (name text primary key, message_id text not null, until real) strict, without rowid;
create index unique_key_by_message on unique_key (message_id);
create index unique_key_by_until on unique_key (until) where until is not null;

create table idempotency (name text primary key, message_id text not null, fingerprint text not null, until real not null) strict, without rowid;
create index idempotency_by_until on idempotency (until);

create table budget (name text primary key, tat real not null) strict, without rowid;

create table schedule (name text primary key, slot real not null) strict, without rowid;

create table archive (
    seq integer primary key autoincrement, at real not null, exchange text not null, routing_key text not null,
    message_id text not null, envelope blob not null
) strict;
