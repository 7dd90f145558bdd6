-- The change log: what was committed and must take effect in every region, written by the transactions themselves.
-- It is append-only, so that it makes no dead tuples, and split in three partitions by time, so that old entries can
-- be given back by TRUNCATE of a whole partition.

-- No cache: ids must rise in the order in which they are drawn, for entries are applied in id order.
create sequence griot.log_id as bigint cache 1;

create table griot.log (
    id bigint not null default nextval('griot.log_id'),
    -- Ten minutes per partition; a transaction that runs longer writes to two of them.
    bucket smallint not null default (floor(extract(epoch from clock_timestamp()) / 600)::bigint % 3),
    -- The transaction that wrote the entry: a cursor is a snapshot, and a snapshot speaks of transactions.
    xid xid8 not null default pg_current_xact_id(),
    -- The public id. Repeated effects carry the same one; ids of the sequence come back after a failover, these never.
    uid uuid not null default gen_random_uuid(),
    at timestamptz not null default clock_timestamp(),
    kind text not null check (kind in ('publish', 'invalidate', 'invalidate_pattern', 'row', 'truncate')),

    -- publish
    channel text,
    -- publish: the data. row: the columns that publications name, in their own JSON types, new (of a delete: old).
    -- json and not jsonb: a user's json value is copied as it is and can never fail to convert in the user's write.
    data json,
    conflation_key text,
    -- invalidate, invalidate_pattern
    key text,
    pattern text,
    -- row, truncate: `schema.table` as the rules name it
    source text,
    op text check (op in ('insert', 'update', 'delete')),
    -- row: the columns that keys, patterns and channels name, as text, so that a bigint stays exact
    old_row jsonb,
    new_row jsonb,
    -- row, update: which of the watched columns changed; null when any change counts
    changed text[]
) partition by list (bucket);

create table griot.log_0 partition of griot.log for values in (0);
create table griot.log_1 partition of griot.log for values in (1);
create table griot.log_2 partition of griot.log for values in (2);

create index on griot.log (id);
create index on griot.log (xid);

-- Read the log, but never write it by hand: the functions check what they append.
grant select on griot.log to griot_worker;
