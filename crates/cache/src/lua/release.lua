-- Gives a lease back when there is nothing to fill with, so that the next reader need not wait for its end.
--
-- KEYS[1]  the key
-- KEYS[2]  its companion
-- ARGV[1]  the token of the lease
-- Returns  1 given back, 0 it had ended

if redis.call('GET', KEYS[1]) ~= '' or redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
