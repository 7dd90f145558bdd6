-- Begins every script that gives out or reads positions: the fence.
--
-- KEYS[1]  the partition's prefix `griot:{TAG}:`. Every key of a script begins with it, so all are in its slot.
-- ARGV[1]  1 when positions are fenced by the server's identity, else 0
-- ARGV[2]  seconds that positions live

local prefix, fence, position_ttl = KEYS[1], ARGV[1] == '1', ARGV[2]
local time = redis.call('TIME')

-- The server's own word: whatever a caller believes to know about it may be stale.
local server = ''
if fence then
  server = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
end

-- Returns the epoch of a feed. A feed that has none gets one. Another server identity than the stored one means that a
-- replica without the newest entries may have been promoted: the offsets run on in a new epoch, so that no position
-- ever names two publications, and the parent position is kept.
local function open_epoch(position, feed)
  local state = redis.call('HMGET', position, 'epoch', 'server')
  local epoch, seen = state[1], state[2]
  if epoch and (not fence or seen == server) then
    return epoch
  end
  if epoch then
    local all = redis.call('HGETALL', position)
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, 4) == 'top:' then
        redis.call('HSET', position, 'parent:' .. string.sub(all[i], 5), all[i + 1])
      end
    end
    redis.call('HSET', position, 'parent', epoch)
  end
  local fresh = string.sub(redis.sha1hex(table.concat({server, feed, time[1], time[2]}, '.')), 1, 8)
  redis.call('HSET', position, 'epoch', fresh, 'server', server)
  return fresh
end

