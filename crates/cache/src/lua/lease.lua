-- Looks a key up for a reader who will load what is not there: the first of them is given the lease. The key holds the
-- empty string from then until the fill, so that whatever deletes it ends the lease as well.
--
-- KEYS[1]  the key
-- KEYS[2]  its companion, in the same slot
-- ARGV[1]  the reader's token, which no other reader has
-- ARGV[2]  milliseconds that the lease lasts
-- Returns  the value; '' while somebody else fills; nil when the reader holds the lease, and is to load and then to fill

local value = redis.call('GET', KEYS[1])
if not value then
  redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
elseif value ~= '' or redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return value
end
return false
