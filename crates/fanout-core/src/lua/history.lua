-- Reads what channels of one partition published after a position. Nothing is returned in part: either everything after
-- the position is here, or the channel is answered as incomplete.
--
-- ARGV[3]   most publications per channel
-- ARGV[4]   most bytes per channel
-- ARGV[5…]  per channel: feed, channel, topic, 1 when the topic conflates, epoch ('' matches any), offset
-- Returns   per channel {epoch, top, 1 complete | 0 incomplete, envelope, envelope, …}, oldest first

local most, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])

-- Offsets are contiguous, so that the list's last entries are the ones asked for.
local function listed(channel, missing)
  if missing > most then
    return nil
  end
  local entries = redis.call('LRANGE', prefix .. 'history:' .. channel, -missing, -1)
  return #entries == missing and entries or nil
end

-- Of a conflated topic the newest publication of each key: everything above the floor is represented.
local function latest(channel, epoch, since, top, floor)
  if since < floor then
    return nil
  end
  local found = {}
  for _, envelope in ipairs(redis.call('HVALS', prefix .. 'latest:' .. channel)) do
    local its_epoch, offset = string.match(envelope, '^G1 %d+ (%S+) (%d+)\n')
    offset = tonumber(offset)
    if its_epoch == epoch and offset > since then
      found[#found + 1] = {offset, envelope}
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  if #found == 0 or found[#found][1] ~= top or #found > most then
    return nil
  end
  for i, pair in ipairs(found) do
    found[i] = pair[2]
  end
  return found
end

local results = {}
for i = 5, #ARGV, 6 do
  local feed, channel, topic, conflated = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3] == '1'
  local known_epoch, since = ARGV[i + 4], tonumber(ARGV[i + 5])
  local position = prefix .. 'position:' .. feed
  local epoch = open_epoch(position, feed)
  local state = redis.call('HMGET', position, 'top:' .. topic, 'floor:' .. topic)
  local top, floor = tonumber(state[1] or 0), tonumber(state[2] or 0)
  local entries
  if (known_epoch == '' or known_epoch == epoch) and since <= top then
    if since == top then
      entries = {}
    elseif conflated then
      entries = latest(channel, epoch, since, top, floor)
    else
      entries = listed(channel, top - since)
    end
  end
  local bytes = 0
  for _, envelope in ipairs(entries or {}) do
    bytes = bytes + #envelope
  end
  local result = {epoch, top, 0}
  if entries and bytes <= most_bytes then
    result[3] = 1
    for _, envelope in ipairs(entries) do
      result[#result + 1] = envelope
    end
  end
  results[#results + 1] = result
end
return results
