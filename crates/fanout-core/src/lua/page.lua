-- Reads a page of what channels of one partition keep. What was trimmed, or is of an earlier epoch, is not there.
--
-- ARGV[3]   most bytes of a page; one publication is given whatever its size
-- ARGV[4…]  per channel: feed, channel, topic, 1 when the topic conflates, epoch ('' matches any), the offset to begin
--           behind ('': none), most publications, 1 when the newest comes first
-- Returns   per channel {epoch, top, envelope, envelope, …}; none when the epoch is another

local most_bytes = tonumber(ARGV[3])
-- Entries read at once: a list may be long and a page short.
local CHUNK = 64

-- Gathers the envelopes of one epoch; `full` once no more are wanted.
local function gathering(result, epoch, limit)
  local bytes, full = 0, limit == 0
  local function take(envelope)
    if string.match(envelope, '^G1 %d+ (%S+)') ~= epoch then
      return
    end
    bytes = bytes + #envelope
    full = #result > 2 and bytes > most_bytes
    if not full then
      result[#result + 1] = envelope
      full = #result - 2 >= limit
    end
  end
  return take, function() return full end
end

-- Offsets are contiguous, so that the index of an entry follows from the top.
local function listed(channel, top, since, reverse, take, full)
  local history = prefix .. 'history:' .. channel
  local length = redis.call('LLEN', history)
  local first = top - length + 1
  local index
  if reverse then
    index = since and math.min(since - first - 1, length - 1) or length - 1
  else
    index = since and math.max(since - first + 1, 0) or 0
  end
  while index >= 0 and index < length and not full() do
    local from, to = index, math.min(index + CHUNK, length) - 1
    if reverse then
      from, to = math.max(index - CHUNK + 1, 0), index
    end
    local entries = redis.call('LRANGE', history, from, to)
    for n = 1, #entries do
      if full() then
        return
      end
      take(entries[reverse and #entries - n + 1 or n])
    end
    index = reverse and from - 1 or to + 1
  end
end

-- Of a conflated topic the newest publication of each key.
local function latest(channel, since, reverse, take, full)
  local found = {}
  for _, envelope in ipairs(redis.call('HVALS', prefix .. 'latest:' .. channel)) do
    local offset = tonumber(string.match(envelope, '^G1 %d+ %S+ (%d+)\n'))
    if not since or (reverse and offset < since) or (not reverse and offset > since) then
      found[#found + 1] = {offset, envelope}
    end
  end
  table.sort(found, function(a, b)
    if reverse then
      return a[1] > b[1]
    end
    return a[1] < b[1]
  end)
  for _, pair in ipairs(found) do
    if full() then
      return
    end
    take(pair[2])
  end
end

local results = {}
for i = 4, #ARGV, 8 do
  local feed, channel, topic, conflated = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3] == '1'
  local known_epoch, since, limit, reverse = ARGV[i + 4], tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6]), ARGV[i + 7] == '1'
  local position = prefix .. 'position:' .. feed
  local epoch = open_epoch(position, feed)
  redis.call('EXPIRE', position, position_ttl)
  local top = tonumber(redis.call('HGET', position, 'top:' .. topic) or 0)
  local result = {epoch, top}
  if known_epoch == '' or known_epoch == epoch then
    local take, full = gathering(result, epoch, limit)
    if conflated then
      latest(channel, since, reverse, take, full)
    else
      listed(channel, top, since, reverse, take, full)
    end
  end
  results[#results + 1] = result
end
return results
