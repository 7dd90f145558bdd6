-- Old entries are given back by TRUNCATE of a whole partition, which costs nothing and leaves no dead tuples. Whether a
-- partition may go is proved by its rows and never by the clock: rows that lie in an unexpected partition, because their
-- transaction was long or because the length of the partitions was changed, only keep it longer.

-- Seconds per partition. Replacing this function is how the length is set: it is inlined, so that writers pay nothing
-- for it. A partition can be emptied for 2 × its length − the retention before its turn comes again: for 30 minutes of
-- retention, half an hour.
create function griot.bucket_seconds() returns integer language sql immutable parallel safe return 1800;

-- The partition of the present.
create function griot.bucket() returns smallint language sql volatile parallel safe
return (floor(extract(epoch from clock_timestamp()) / griot.bucket_seconds())::bigint % 3)::smallint;

-- Writers wait this long at most, and then the migration is tried again.
set local lock_timeout = '5s';
alter table griot.log alter column bucket set default griot.bucket();

-- What was visible when: the retention is measured by when transactions were committed, which `at` does not tell.
create table griot.tick (
    at timestamptz primary key default clock_timestamp(),
    snapshot pg_snapshot not null
);
grant select on griot.tick to griot_worker;

-- The region was away for longer than the retention, and entries that it has not applied are gone.
alter table griot.cursor add column lapsed boolean not null default false;

-- Notes the present, and gives the newest note that is older than the retention; null when there is none yet.
create function griot.tick(retention interval) returns pg_snapshot
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    since timestamptz := clock_timestamp() - tick.retention;
begin
    -- Restored from a dump, notes speak of transactions that this database has not had.
    delete from griot.tick t where pg_snapshot_xmax(t.snapshot) > pg_snapshot_xmax(pg_current_snapshot());
    insert into griot.tick (snapshot)
    select pg_current_snapshot()
    where not exists (select from griot.tick t where t.at > clock_timestamp() - tick.retention / 60)
    on conflict do nothing;
    delete from griot.tick t where t.at < (select max(o.at) from griot.tick o where o.at <= since);
    return (select t.snapshot from griot.tick t where t.at <= since order by t.at desc limit 1);
end
$$;

-- Whether the partition has an entry that the snapshot does not see. A snapshot of another history sees nothing.
create function griot.unseen(slot smallint, snapshot pg_snapshot) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from griot.log l
        where l.bucket = unseen.slot
          and (l.xid >= pg_snapshot_xmax(unseen.snapshot)
               or pg_snapshot_xmax(unseen.snapshot) > pg_snapshot_xmax(pg_current_snapshot()))
    ) or exists (
        select from griot.log l
        where l.bucket = unseen.slot and l.xid = any (array(select pg_snapshot_xip(unseen.snapshot)))
    )
$$;

-- Whether the partition has an entry that may not go: it was committed after `since`, and is kept for replays, or a
-- region has not applied it. A region whose cursor stood still for the whole retention is not waited for.
create function griot.needed(slot smallint, since pg_snapshot, retention interval) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
    select needed.since is null or griot.unseen(needed.slot, needed.since) or exists (
        select from griot.cursor c
        where not c.lapsed and c.saved_at > clock_timestamp() - needed.retention
          and griot.unseen(needed.slot, c.snapshot)
    )
$$;

-- Empties one partition if it may be emptied now, and says what came of it:
--   emptied; current: it is written to now; empty: it was; needed: an entry in it is; later: a lock was not free;
--   superseded: the caller does not lead its region.
-- The term is asked for so that one worker per region does this; any number of them could, for the proof is by rows.
-- `lapsed` are the regions that were not waited for and lost entries by it.
create function griot.rotate(region text, term bigint, slot smallint, retention interval,
                             out outcome text, out lapsed text[])
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    partition text;
    since pg_snapshot;
begin
    lapsed := '{}';
    if rotate.slot is null or rotate.slot not in (0, 1, 2) or rotate.retention is null then
        raise exception 'griot: rotate needs a slot of 0, 1 or 2 and a retention' using errcode = '22023';
    elsif current_setting('transaction_isolation') <> 'read committed' then
        -- A snapshot from before the lock would prove nothing.
        raise exception 'griot: rotate needs the isolation level read committed' using errcode = '25001';
    elsif not exists (
        select from griot.leader l
        where l.region = rotate.region and l.term = rotate.term and l.until > clock_timestamp()
    ) then
        outcome := 'superseded';
        return;
    end if;
    since := griot.tick(rotate.retention);
    partition := 'griot.log_' || rotate.slot;
    -- First without a lock: most of the time there is nothing to do.
    outcome := case
        when rotate.slot = griot.bucket() then 'current'
        when pg_relation_size(partition::regclass) = 0 then 'empty'
        when griot.needed(rotate.slot, since, rotate.retention) then 'needed'
    end;
    if outcome is not null then
        return;
    end if;
    begin
        -- Nobody waits for a lock that waits behind others. A transaction that wrote here and is open, or prepared,
        -- holds one; and a cursor must not move between the proof and the end.
        execute 'lock table only ' || partition || ' in access exclusive mode nowait';
        lock table griot.cursor in share row exclusive mode nowait;
    exception
        when lock_not_available then
            outcome := 'later';
            return;
    end;
    -- Again, by a snapshot from after the lock: whoever wrote here has committed, and may have done so since.
    if griot.needed(rotate.slot, since, rotate.retention) then
        outcome := 'needed';
        return;
    end if;
    with marked as (
        update griot.cursor c set lapsed = true
        where not c.lapsed and griot.unseen(rotate.slot, c.snapshot)
        returning c.region
    )
    select coalesce(array_agg(m.region), '{}') into rotate.lapsed from marked m;
    execute 'truncate only ' || partition;
    outcome := 'emptied';
end
$$;

revoke all on function
    griot.bucket_seconds(), griot.bucket(), griot.tick(interval), griot.unseen(smallint, pg_snapshot),
    griot.needed(smallint, pg_snapshot, interval), griot.rotate(text, bigint, smallint, interval)
    from public;
grant execute on function griot.rotate(text, bigint, smallint, interval) to griot_worker;
