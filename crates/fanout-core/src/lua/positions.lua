-- Reads the positions of feeds of one partition, and by that keeps them alive. A feed without one is given its epoch
-- here, so that the epoch is stable from the first subscription on.
--
-- ARGV[3…]  the feeds
-- Returns   per feed {epoch, sequence, topic, top, topic, top, …}, or {error} when it has no epoch and cannot be given
--           one: memory may be full, and the other feeds of the call must not suffer from it

local function read(feed)
  local position = prefix .. 'position:' .. feed
  local result = {open_epoch(position, feed), 0}
  local all = redis.call('HGETALL', position)
  for n = 1, #all, 2 do
    if all[n] == 'sequence' then
      result[2] = tonumber(all[n + 1])
    elseif string.sub(all[n], 1, 4) == 'top:' then
      result[#result + 1] = string.sub(all[n], 5)
      result[#result + 1] = tonumber(all[n + 1])
    end
  end
  redis.call('EXPIRE', position, position_ttl)
  return result
end

local results = {}
for i = 3, #ARGV do
  local read_it, result = pcall(read, ARGV[i])
  if not read_it then
    -- Redis 7 throws tables, older ones text.
    result = {type(result) == 'table' and result.err or tostring(result)}
  end
  results[#results + 1] = result
end
return results
