-- Comes before a write to the database: where there is no value, the writer takes the lease, also from a reader, whose
-- load may be from before the write. A value stays and is served until the write is done.
--
-- KEYS[1]  the key
-- KEYS[2]  its companion, in the same slot
-- ARGV[1]  the writer's token, which nobody else has
-- ARGV[2]  milliseconds that the lease lasts
-- Returns  1 the lease is the writer's, 0 there is a value

local value = redis.call('GET', KEYS[1])
if value and value ~= '' then
  return 0
end
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
