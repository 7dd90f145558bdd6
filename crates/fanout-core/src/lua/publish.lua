-- Publishes a batch of publications, of any partitions of this server: idempotency, fence, offset, append, expiry, publish.
--
-- ARGV[3…6]  pub/sub command, seconds that log entries are remembered, seconds that idempotency keys are remembered, the
--            server that the caller expects ('': any);
-- ARGV[7]    how many shapes there are: what publications of a call mostly share is said once
-- ARGV[8…]   per shape: topic, history size (0: none), history seconds, 'replaces' on a conflated topic, kind of
--            idempotency ('key' or 'entry'), 'versioned' where publications have a version; each of these three else ''
-- then       per publication: number of its partition among KEYS, number of its shape, feed, channel; if its shape
--            replaces, what it replaces in the history ('key KEY', or 'none'); if it is idempotent, by what; if it is
--            versioned, version and the version's epoch ('': any); body
-- Returns    per publication a line `1 EPOCH OFFSET` if published, or `0 EPOCH OFFSET` if repeated; offset 0 where the topic
--            keeps no history. What is not newer than the channel's last version is answered as repeated, with the top as
--            its offset; of a repeated entry of the log neither is known: `0  0`. What Redis refuses is `2 ERROR`, and
--            nothing follows it: the publications behind it were not looked at. Another server than the expected one appends
--            nothing: it may lack what the caller published before.
--
-- Redis works mostly on calls, strings and tables, and not on what the calls do. Of 73,000 instructions for a publication
-- in a batch EXPIRE is 7,500, a table in the answer would be 5,700 and a further argument 1,000 (counted on Redis 7.0). So
-- the common way has nothing that it can be without.

local publish, entry_ttl, key_ttl, expected = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if fence and expected ~= '' and expected ~= server then
  return redis.error_reply('FENCED this server is ' .. server)
end

-- Entries of the change log are remembered in sets that rotate every half retention: 14 bytes each against 227 for a key.
local half, period = math.max(1, math.floor(entry_ttl / 2))

local function entry_seen(id)
  period = period or math.floor(redis.call('TIME')[1] / half)
  for back = 0, 2 do
    if redis.call('SISMEMBER', prefix .. 'done:' .. (period - back), id) == 1 then
      return true
    end
  end
  return false
end

-- Of an entry that was not seen.
local function remember_entry(id)
  local set = prefix .. 'done:' .. period
  redis.call('SADD', set, id)
  redis.call('EXPIRE', set, half * 3)
end

local function append(channel, envelope, size)
  local history = prefix .. 'history:' .. channel
  if redis.call('RPUSH', history, envelope) > size then
    redis.call('LTRIM', history, -size, -1)
  end
  return history
end

-- On a conflated topic the history holds the newest publication of each key. All above the floor is represented in it:
-- what falls out for lack of room raises the floor. Room is made for a quarter at once, so that it costs little each time.
local function replace(position, topic, channel, envelope, size, replaces, offset)
  local latest = prefix .. 'latest:' .. channel
  if offset == 1 then
    redis.call('DEL', latest)
  elseif redis.call('EXISTS', latest) == 0 then
    redis.call('HSET', position, 'floor:' .. topic, offset - 1)
  end
  redis.call('HSET', latest, replaces == 'none' and 'offset ' .. offset or replaces, envelope)
  if redis.call('HLEN', latest) > size + math.floor(size / 4) then
    local all, oldest = redis.call('HGETALL', latest), {}
    for n = 1, #all, 2 do
      oldest[#oldest + 1] = {tonumber(string.match(all[n + 1], '^G1 %d+ %S+ (%d+)\n')), all[n]}
    end
    table.sort(oldest, function(a, b) return a[1] < b[1] end)
    for n = 1, #oldest - size do
      redis.call('HDEL', latest, oldest[n][2])
      redis.call('HSET', position, 'floor:' .. topic, oldest[n][1])
    end
  end
  return latest
end

-- Numbers of 64 bits do not fit a number of Lua, so that they are compared as the digits they came in.
local function newer(version, than)
  return #version > #than or (#version == #than and version > than)
end

-- The top of a channel whose last version is as new as this one, else nothing; a version is stored as `NUMBER EPOCH`.
local function overtaken(position, topic, version, version_epoch)
  local state = redis.call('HMGET', position, 'version:' .. topic, 'top:' .. topic)
  local last, last_epoch = string.match(state[1] or '', '^(%d+) (.*)$')
  local comparable = last and (version_epoch == '' or version_epoch == last_epoch)
  if comparable and not newer(version, last) then
    return tonumber(state[2] or 0)
  end
end

-- Publishes what begins at an argument; returns its line of the answer, and where the next begins.
local function publish_at(at)
  prefix = KEYS[tonumber(ARGV[at])]
  local shape, feed, channel = 2 + 6 * ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local topic, size, ttl = ARGV[shape], tonumber(ARGV[shape + 1]), ARGV[shape + 2]
  local once, replaces, value, version, version_epoch = ARGV[shape + 4]
  at = at + 4
  if ARGV[shape + 3] ~= '' then
    replaces, at = ARGV[at], at + 1
  end
  if once ~= '' then
    value, at = ARGV[at], at + 1
  end
  if ARGV[shape + 5] ~= '' then
    version, version_epoch, at = ARGV[at], ARGV[at + 1], at + 2
  end
  local position = prefix .. 'position:' .. feed
  -- A channel has colons and no blanks, so that no two pairs make the same name.
  local once_key = once == 'key' and prefix .. 'once:' .. channel .. ' ' .. value

  local earlier = once_key and redis.call('GET', once_key)
  local top = version and overtaken(position, topic, version, version_epoch)
  if earlier then
    return '0 ' .. earlier, at + 1
  elseif once == 'entry' and entry_seen(value) then
    return '0  0', at + 1
  elseif top then
    return string.format('0 %s %d', open_epoch(position, feed), top), at + 1
  end
  local epoch = open_epoch(position, feed)
  -- Numbers as text: Redis writes a number of Lua with 17 digits of a float.
  local sequence = redis.call('HINCRBY', position, 'sequence', '1')
  local offset = size > 0 and redis.call('HINCRBY', position, 'top:' .. topic, '1') or 0
  local place = string.format('%s %d', epoch, offset)
  local envelope = string.format('G1 %d ', sequence) .. place .. '\n' .. ARGV[at]
  if size > 0 then
    local history = replaces and replace(position, topic, channel, envelope, size, replaces, offset)
      or append(channel, envelope, size)
    redis.call('EXPIRE', history, ttl)
  end
  redis.call(publish, prefix .. 'feed:' .. feed, envelope)
  -- Remembered last: when memory runs out half way, a repeated publication is harmless and a lost one is not.
  if version then
    redis.call('HSET', position, 'version:' .. topic, version .. ' ' .. version_epoch)
    -- Whoever reads a position keeps it alive. The last version has to last though nobody reads.
    redis.call('EXPIRE', position, position_ttl)
  end
  if once == 'entry' then
    remember_entry(value)
  elseif once_key then
    redis.call('SET', once_key, place, 'EX', key_ttl)
  end
  return '1 ' .. place, at + 1
end

-- One by one, until Redis refuses one: what was published before it is answered all the same.
local results, last, at = {}, #ARGV, 8 + 6 * ARGV[7]
local done, refused = pcall(function()
  while at <= last do
    results[#results + 1], at = publish_at(at)
  end
end)
if not done then
  -- Redis 7 raises tables, earlier ones text.
  refused = type(refused) == 'table' and refused.err or refused
  results[#results + 1] = '2 ' .. string.gsub(refused, '%s+', ' ')
end
return table.concat(results, '\n')
