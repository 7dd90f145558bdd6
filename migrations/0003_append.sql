-- The three ways to append to the log by hand. They check everything here, in the caller's transaction, because a
-- refusal later could only be counted: whoever commits a channel name has been told that it is one.
-- They run with their owner's rights and a pinned search path, so that callers need no right on the log itself.

create function griot.shown(value text) returns text
language sql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
    select '"' || left(value, 64) || case when length(value) > 64 then '…' else '' end || '"'
$$;

-- A channel is TOPIC (broadcast), TOPIC:#USER (personal) or TOPIC:NAME (named). Neither USER nor NAME may hold `#`,
-- `,` or blanks: the client protocol separates with them, and `orders:#4,2` would reach others.
create function griot.check_channel(channel text) returns void
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
declare
    topic text := split_part(channel, ':', 1);
    rest text := substr(channel, length(topic) + 2);
    who text := substr(rest, 2);
    shown text := griot.shown(channel);
begin
    if channel is null or channel = '' then
        raise exception 'griot: channel is missing' using errcode = '22023';
    elsif octet_length(channel) > 255 then
        raise exception 'griot: channel % has % bytes, the limit is 255', shown, octet_length(channel)
            using errcode = '22023';
    elsif topic collate "C" !~ '^[A-Za-z0-9_.-]+$' or octet_length(topic) > 64 then
        raise exception 'griot: channel %: a topic is 1 to 64 characters of A-Z a-z 0-9 _ . -', shown
            using errcode = '22023';
    elsif channel = topic then
        return;
    elsif left(rest, 1) = '#' then
        if who collate "C" !~ '^[!-"$-+\--~]+$' or octet_length(who) > 128 then
            raise exception 'griot: channel %: a user id is 1 to 128 printable ASCII characters without # , and blanks',
                shown using errcode = '22023';
        end if;
    elsif rest collate "C" !~ '^[!-"$-+\--~]+$' then
        raise exception 'griot: channel %: a name is printable ASCII without # , and blanks, at least one character',
            shown using errcode = '22023';
    end if;
end
$$;

create function griot.check_key(field text, value text) returns void
language plpgsql immutable parallel safe
set search_path = pg_catalog, pg_temp
as $$
begin
    if value is null or value = '' then
        raise exception 'griot: % is missing', field using errcode = '22023';
    elsif octet_length(value) > 512 then
        raise exception 'griot: % % has % bytes, the limit is 512', field, griot.shown(value), octet_length(value)
            using errcode = '22023';
    elsif starts_with(value, 'griot:') then
        raise exception 'griot: % %: names that start with griot: are Griot''s own', field, griot.shown(value)
            using errcode = '22023';
    end if;
end
$$;

create function griot.publish(channel text, data jsonb, conflation_key text default null) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    entry uuid;
begin
    perform griot.check_channel(publish.channel);
    if publish.data is null then
        raise exception 'griot: data is missing' using errcode = '22023';
    elsif octet_length(publish.data::text) > 65536 then
        raise exception 'griot: data has % bytes, the limit is 65536', octet_length(publish.data::text)
            using errcode = '22023';
    elsif publish.conflation_key = '' then
        raise exception 'griot: conflation_key is empty; leave it out to conflate nothing' using errcode = '22023';
    elsif octet_length(publish.conflation_key) > 128 then
        raise exception 'griot: conflation_key % has % bytes, the limit is 128',
            griot.shown(publish.conflation_key), octet_length(publish.conflation_key) using errcode = '22023';
    end if;
    insert into griot.log (kind, channel, data, conflation_key)
    values ('publish', publish.channel, publish.data::json, publish.conflation_key)
    returning uid into entry;
    return entry;
end
$$;

create function griot.invalidate(key text) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    entry uuid;
begin
    perform griot.check_key('key', invalidate.key);
    insert into griot.log (kind, key) values ('invalidate', invalidate.key) returning uid into entry;
    return entry;
end
$$;

-- A pattern is Redis's glob: * ? [abc], and \ makes the next character literal. It must begin with a literal
-- character: `*` and its likes would empty the cache of everybody who shares this Redis.
create function griot.invalidate_pattern(pattern text) returns uuid
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    entry uuid;
begin
    perform griot.check_key('pattern', invalidate_pattern.pattern);
    if left(invalidate_pattern.pattern, 1) in ('*', '?', '[') then
        raise exception 'griot: pattern % must begin with a literal character; write \* for a literal star',
            griot.shown(invalidate_pattern.pattern) using errcode = '22023';
    end if;
    insert into griot.log (kind, pattern) values ('invalidate_pattern', invalidate_pattern.pattern)
    returning uid into entry;
    return entry;
end
$$;

revoke all on all functions in schema griot from public;
grant execute on function
    griot.publish(text, jsonb, text), griot.invalidate(text), griot.invalidate_pattern(text)
    to griot_writer;
