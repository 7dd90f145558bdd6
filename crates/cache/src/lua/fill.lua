-- Fills a key with what was loaded under the lease, unless the lease has ended: by a deletion, a write or its time.
--
-- KEYS[1]  the key
-- KEYS[2]  its companion
-- ARGV[1]  the token of the lease
-- ARGV[2]  the value, not empty
-- ARGV[3]  milliseconds that it lives
-- Returns  1 filled, 0 lost: what was loaded may be older than what ended the lease

if redis.call('GET', KEYS[1]) ~= '' or redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
