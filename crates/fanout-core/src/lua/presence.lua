-- Changes who is present in channels of one partition and announces it, or reads it.
--
-- Three keys per channel: `presence:CHANNEL`, a hash of client to `USER INFO`; `presence-until:CHANNEL`, a sorted set of
-- clients by the millisecond at which they expire; `presence-users:CHANNEL`, a hash of user to number of clients.
--
-- ARGV[3…5]  'enter' | 'refresh' | 'leave' | 'read' | 'stats', milliseconds that members live, pub/sub command
-- ARGV[6…]   to change: per member feed, channel, client, user, info, 1 when it is kept, notice ('': none);
--            to read: per channel feed, channel, most members
-- Returns    per member {1 announced | 0 not}; per channel {info, info, …} or {clients, users}

local operation, ttl, publish = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- Expired members removed in one call for a channel; reads look past those that are left.
local SWEPT = 1000

local function keys(channel)
  return prefix .. 'presence:' .. channel, prefix .. 'presence-until:' .. channel, prefix .. 'presence-users:' .. channel
end

local function remove(channel, client)
  local members, expiry, users = keys(channel)
  redis.call('ZREM', expiry, client)
  local member = redis.call('HGET', members, client)
  if not member then
    return false
  end
  redis.call('HDEL', members, client)
  -- A user's id has no blank.
  local user = string.match(member, '^(%S*) ')
  if redis.call('HINCRBY', users, user, -1) <= 0 then
    redis.call('HDEL', users, user)
  end
  return true
end

local function sweep(channel)
  local _, expiry = keys(channel)
  for _, client in ipairs(redis.call('ZRANGEBYSCORE', expiry, '-inf', now, 'LIMIT', 0, SWEPT)) do
    remove(channel, client)
  end
end

-- Whether the member was not there before.
local function put(channel, client, user, info)
  local members, expiry, users = keys(channel)
  local fresh = redis.call('HSET', members, client, user .. ' ' .. info) == 1
  if fresh then
    redis.call('HINCRBY', users, user, 1)
  end
  redis.call('ZADD', expiry, now + ttl, client)
  for _, key in ipairs({members, expiry, users}) do
    redis.call('PEXPIRE', key, ttl)
  end
  return fresh
end

local function change(i)
  local feed, channel, client, user = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local info, kept, notice = ARGV[i + 4], ARGV[i + 5] == '1', ARGV[i + 6]
  -- Of a member that is kept a repetition is known; of another only the caller knows.
  local changed = true
  if kept then
    sweep(channel)
    if operation == 'leave' then
      changed = remove(channel, client)
    else
      changed = put(channel, client, user, info)
    end
  end
  if not changed or notice == '' then
    return {0}
  end
  redis.call(publish, prefix .. 'feed:' .. feed, notice)
  return {1}
end

local function read(i)
  local channel, most = ARGV[i + 1], tonumber(ARGV[i + 2])
  sweep(channel)
  local members, expiry, users = keys(channel)
  if operation == 'stats' then
    local clients = redis.call('ZCOUNT', expiry, '(' .. now, '+inf')
    return {clients, math.min(clients, redis.call('HLEN', users))}
  end
  local result = {}
  for _, client in ipairs(redis.call('ZRANGEBYSCORE', expiry, '(' .. now, '+inf', 'LIMIT', 0, most)) do
    local member = redis.call('HGET', members, client)
    result[#result + 1] = member and string.match(member, '^%S* (.*)$')
  end
  return result
end

local results = {}
local reads = operation == 'read' or operation == 'stats'
for i = 6, #ARGV, reads and 3 or 7 do
  results[#results + 1] = reads and read(i) or change(i)
end
return results
