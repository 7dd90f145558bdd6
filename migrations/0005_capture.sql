-- Which tables have triggers, and from which definition: `rules apply` changes only what differs, and `status` can
-- say that a file of rules was edited and not applied.

create table griot.capture (
    -- `schema.table` as the rules name it
    source text primary key,
    -- The table itself: one that was dropped and created again needs its triggers again.
    relation oid not null,
    -- A digest of the function and its triggers
    definition text not null,
    applied_at timestamptz not null default clock_timestamp()
);

grant select on griot.capture to griot_worker;
