-- One schema of our own keeps Griot out of the application's names, and two roles keep its rights small:
-- griot_writer may append to the change log through the checked functions, griot_worker may read it and keep cursors.
-- Rights are granted to these roles only; grant the roles to your own users.

do $$
begin
    -- Lengths are limits in bytes of UTF-8, and what enters the log leaves it towards browsers.
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'griot needs a database with encoding UTF8, this one has %', current_setting('server_encoding');
    end if;
end
$$;

-- Roles belong to the whole cluster: another database may be migrating at this moment, and whichever comes second
-- finds the role (duplicate_object) or loses the race for its name (unique_violation).
do $$
declare
    wanted text;
begin
    foreach wanted in array array['griot_writer', 'griot_worker'] loop
        if not exists (select from pg_catalog.pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin', wanted);
            exception
                when duplicate_object or unique_violation then
                    null;
                when insufficient_privilege then
                    raise exception 'griot: the role % does not exist and % may not create roles', wanted, current_user
                        using errcode = '42501', hint = format('Let an administrator run: create role %I nologin', wanted);
            end;
        end if;
    end loop;
end
$$;

create schema if not exists griot;
revoke all on schema griot from public;
grant usage on schema griot to griot_writer, griot_worker;
