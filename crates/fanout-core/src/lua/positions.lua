-- Reads the positions of feeds of one partition, and by that keeps them alive. A feed without one is given its epoch
-- here, so that the epoch is stable from the first subscription on.
--
-- ARGV[3…]  the feeds
-- Returns   per feed {epoch, sequence, topic, top, topic, top, …}

local results = {}
for i = 3, #ARGV do
  local position = prefix .. 'position:' .. ARGV[i]
  local result = {open_epoch(position, ARGV[i]), 0}
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
  results[#results + 1] = result
end
return results
