-- How far each region has applied the log. A cursor is a snapshot and not an id: ids commit out of order, and
-- "everything that this snapshot could not see" loses nothing and waits for nobody. It stands in the database that it
-- speaks of, so that a failover which rolls history back rolls the cursor back with it.

create table griot.cursor (
    region text primary key check (region ~ '^[A-Za-z0-9_-]{1,64}$'),
    snapshot pg_snapshot not null,
    saved_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50);

grant select, insert, update on griot.cursor to griot_worker;
