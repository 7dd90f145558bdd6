-- Comes after the commit. It replaces an older version, or fills under the writer's own lease; a key that was deleted
-- since stays deleted, because nobody knows by which version. Somebody else's lease ends: that load may be older.
--
-- KEYS[1]  the key
-- KEYS[2]  its companion, in the same slot; none for a key that is never leased
-- ARGV[1]  the token that claimed the key; '' when nothing was claimed
-- ARGV[2]  the value: a JSON object
-- ARGV[3]  its field that holds the version: a number, at most 2^53 - 1, larger with every write
-- ARGV[4]  milliseconds that it lives
-- Returns  'stored'; 'kept': what is there is as new or newer; 'absent': nothing was there, or somebody else's lease;
--          'unversioned': one of the two has no version, and now nothing is there

local function version_of(text)
  local decoded, row = pcall(cjson.decode, text)
  local version = decoded and type(row) == 'table' and row[ARGV[3]]
  if type(version) == 'number' and version >= 0 and version <= 9007199254740991 then
    return version
  end
end

local ours, value = version_of(ARGV[2]), redis.call('GET', KEYS[1])
if not value then
  return ours and 'absent' or 'unversioned'
end
local theirs = value ~= '' and version_of(value)
if not ours or theirs == nil then
  redis.call('UNLINK', KEYS[1])
  return 'unversioned'
elseif theirs and theirs >= ours then
  return 'kept'
elseif value == '' and (ARGV[1] == '' or redis.call('GET', KEYS[2]) ~= ARGV[1]) then
  redis.call('UNLINK', KEYS[1])
  return 'absent'
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
if KEYS[2] then
  redis.call('DEL', KEYS[2])
end
return 'stored'
