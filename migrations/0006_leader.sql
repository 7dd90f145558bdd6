-- Two workers per region, so that one may die: who leads a region is a row that its holder renews, and whoever finds it
-- run out takes it over under the next term. Only PostgreSQL's clock decides between workers. The cursor carries the
-- term of whoever may move it, and taking over moves that term too: a leader that was stopped and wakes saves nothing.

create table griot.leader (
    region text primary key check (region ~ '^[A-Za-z0-9_-]{1,64}$'),
    -- Host, process id and a random part: for people, and so that a process that was restarted is another one.
    holder text not null,
    -- Counts the takeovers of the region
    term bigint not null,
    -- Until then nobody else takes over.
    until timestamptz not null
) with (fillfactor = 50);

-- 0: nobody has led the region yet.
alter table griot.cursor add column term bigint not null default 0;

grant select, insert, update on griot.leader to griot_worker;
