-- Publishes a batch of publications of one partition: idempotency, fence, offset, append, expiry, publish.
--
-- ARGV[3…5]  pub/sub command, seconds that log entries are remembered, seconds that idempotency keys are remembered;
-- ARGV[6…]   per publication: feed, channel, topic, history size, history seconds, kind of idempotency
--            ('', 'key' or 'entry'), its value, body
-- Returns    per publication {1 published | 0 repeated, epoch, offset}; offset 0 where the topic keeps no history

local publish, entry_ttl, key_ttl = ARGV[3], tonumber(ARGV[4]), ARGV[5]

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

local function append(channel, envelope, size, ttl)
  local history = prefix .. 'history:' .. channel
  if redis.call('RPUSH', history, envelope) > size then
    redis.call('LTRIM', history, -size, -1)
  end
  redis.call('EXPIRE', history, ttl)
end

local results = {}
for i = 6, #ARGV, 8 do
  local feed, channel, topic = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local size, ttl = tonumber(ARGV[i + 3]), ARGV[i + 4]
  local once, value, body = ARGV[i + 5], ARGV[i + 6], ARGV[i + 7]
  -- A channel has colons and no blanks, so that no two pairs make the same name.
  local once_key = prefix .. 'once:' .. channel .. ' ' .. value

  local earlier = once == 'key' and redis.call('GET', once_key)
  if earlier then
    local epoch, offset = string.match(earlier, '^(%S+) (%d+)$')
    results[#results + 1] = {0, epoch, tonumber(offset)}
  elseif once == 'entry' and entry_seen(value) then
    results[#results + 1] = {0, '', 0}
  else
    local position = prefix .. 'position:' .. feed
    local epoch = open_epoch(position, feed)
    local sequence = redis.call('HINCRBY', position, 'sequence', 1)
    local offset = size > 0 and redis.call('HINCRBY', position, 'top:' .. topic, 1) or 0
    redis.call('EXPIRE', position, position_ttl)
    local envelope = string.format('G1 %.0f %s %.0f\n', sequence, epoch, offset) .. body
    if size > 0 then
      append(channel, envelope, size, ttl)
    end
    redis.call(publish, prefix .. 'feed:' .. feed, envelope)
    -- Remembered last: when memory runs out half way, a repeated publication is harmless and a lost one is not.
    if once == 'entry' then
      remember_entry(value)
    elseif once == 'key' then
      redis.call('SET', once_key, string.format('%s %.0f', epoch, offset), 'EX', key_ttl)
    end
    results[#results + 1] = {1, epoch, offset}
  end
end
return results
