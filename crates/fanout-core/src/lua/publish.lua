-- Publishes a batch of publications of one partition: idempotency, fence, offset, append, expiry, publish.
--
-- ARGV[3…6]  pub/sub command, seconds that log entries are remembered, seconds that idempotency keys are remembered, the
--            server that the caller expects ('': any);
-- ARGV[7…]   per publication: feed, channel, topic, history size, history seconds, what it replaces in the history ('' on
--            an unconflated topic: nothing; else 'key KEY', or 'none'), kind of idempotency ('', 'key' or 'entry'), its
--            value, version (0: none), the version's epoch ('': any), body
-- Returns    per publication {1 published | 0 repeated, epoch, offset}; offset 0 where the topic keeps no history. What is
--            not newer than the channel's last version is answered as repeated, with the top as its offset. Another
--            server than the expected one appends nothing: it may lack what the caller published before.

local publish, entry_ttl, key_ttl, expected = ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
if fence and expected ~= '' and expected ~= server then
  return redis.error_reply('FENCED this server is ' .. server)
end

-- Entries of the change log are remembered in sets that rotate every half retention: 14 bytes each against 227 for a key.
local half = math.max(1, math.floor(entry_ttl / 2))
local period = math.floor(tonumber(time[1]) / half)

local function entry_seen(id)
  for back = 0, 2 do
    if redis.call('SISMEMBER', prefix .. 'done:' .. (period - back), id) == 1 then
      return true
    end
  end
  return false
end

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

local results = {}
for i = 7, #ARGV, 11 do
  local feed, channel, topic = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local size, ttl = tonumber(ARGV[i + 3]), ARGV[i + 4]
  local replaces, once, value = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
  local version, version_epoch, body = ARGV[i + 8], ARGV[i + 9], ARGV[i + 10]
  local versioned = size > 0 and version ~= '0'
  local position = prefix .. 'position:' .. feed
  -- A channel has colons and no blanks, so that no two pairs make the same name.
  local once_key = prefix .. 'once:' .. channel .. ' ' .. value

  local earlier = once == 'key' and redis.call('GET', once_key)
  local top = versioned and overtaken(position, topic, version, version_epoch)
  if earlier then
    local epoch, offset = string.match(earlier, '^(%S+) (%d+)$')
    results[#results + 1] = {0, epoch, tonumber(offset)}
  elseif once == 'entry' and entry_seen(value) then
    results[#results + 1] = {0, '', 0}
  elseif top then
    results[#results + 1] = {0, open_epoch(position, feed), top}
  else
    local epoch = open_epoch(position, feed)
    local sequence = redis.call('HINCRBY', position, 'sequence', 1)
    local offset = size > 0 and redis.call('HINCRBY', position, 'top:' .. topic, 1) or 0
    redis.call('EXPIRE', position, position_ttl)
    local envelope = string.format('G1 %.0f %s %.0f\n', sequence, epoch, offset) .. body
    if size > 0 then
      local history = replaces == '' and append(channel, envelope, size)
        or replace(position, topic, channel, envelope, size, replaces, offset)
      redis.call('EXPIRE', history, ttl)
    end
    redis.call(publish, prefix .. 'feed:' .. feed, envelope)
    -- Remembered last: when memory runs out half way, a repeated publication is harmless and a lost one is not.
    if versioned then
      redis.call('HSET', position, 'version:' .. topic, version .. ' ' .. version_epoch)
    end
    if once == 'entry' then
      remember_entry(value)
    elseif once == 'key' then
      redis.call('SET', once_key, string.format('%s %.0f', epoch, offset), 'EX', key_ttl)
    end
    results[#results + 1] = {1, epoch, offset}
  end
end
return results
