-- What a saved cursor takes for granted, and what was still under way when it was saved. It stands in the cursor's own
-- row, so that it moves in the same transaction: sweeps and what waits for them then hold no cursor back, and whoever
-- leads next knows in which database and under which Redis server everything before the cursor took effect.

alter table griot.cursor
    -- `SYSTEM_IDENTIFIER/TIMELINE` of the database that the cursor was saved in. Another one means that history was
    -- rolled back or restored: caches may hold values that no commit has any more.
    add column lineage text,
    -- The identity (master_replid) of the Redis server on which everything before the cursor took effect. A replica
    -- that was promoted in its place may lack the newest of that.
    add column server text,
    -- Where a replay on such a server begins: a snapshot that was applied at least a minute before that server was
    -- last seen well.
    add column replay_from pg_snapshot,
    -- Patterns whose sweep is not done, each with the microseconds since 1970 at which it was asked for
    add column sweeps jsonb not null default '{}',
    -- Entries with publications that wait for these sweeps
    add column waiting bigint[] not null default '{}';
