-- Begins every script that gives out or reads positions: the fence.
--
-- KEYS     the prefixes `griot:{TAG}:` of the partitions it is for, mostly one. Every key of a script begins with one of
--          them, so all are in their slots.
-- ARGV[1]  1 when positions are fenced by the server's identity, else 0
-- ARGV[2]  seconds that positions live

local prefix, fence, position_ttl = KEYS[1], ARGV[1] == '1', ARGV[2]

-- The server's own word: whatever a caller believes to know about it may be stale. A plain search, for a pattern would be
-- tried at each byte of the report.
local server = ''
if fence then
  local report = redis.call('INFO', 'replication')
  local _, before = string.find(report, 'master_replid:', 1, true)
  server = string.sub(report, before + 1, before + 40)
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
  local time = redis.call('TIME')
  local fresh = string.sub(redis.sha1hex(table.concat({server, feed, time[1], time[2]}, '.')), 1, 8)
  redis.call('HSET', position, 'epoch', fresh, 'server', server)
  redis.call('EXPIRE', position, position_ttl)
  return fresh
end

