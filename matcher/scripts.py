"""The gallery's server-side scripts. Each runs as one: nothing else happens on the server meanwhile.

KEYS  1 meta (hash), 2 lease, 3 events (stream), 4 state (hash), 5 index (set of the keys that hold one entity each)
"""

ACQUIRE = """
-- ARGV: owner, lease ms, 1 to take over
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] and ARGV[3] ~= '1' then
    return {0, holder, redis.call('PTTL', KEYS[2])}
end
local epoch = redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return {epoch}
"""

RELEASE = """
-- ARGV: epoch, owner
if redis.call('HGET', KEYS[1], 'epoch') == ARGV[1] and redis.call('GET', KEYS[2]) == ARGV[2] then
    redis.call('DEL', KEYS[2])
end
return 1
"""

COMMIT = """
-- ARGV: epoch, owner, lease ms, the commit before this one, this one (the same: there is nothing new), clock ns, horizon ns,
--       expiry ms of what has none of its own (0: never), then the counts of: events, meta fields, state fields, state fields gone, entities, entities gone; then they:
--       number, event | field, value | field, value | field | value, expiry ms | (key alone)
-- KEYS 6 and on: entities, entities gone
local held = redis.call('HMGET', KEYS[1], 'epoch', 'owner')
if tonumber(held[1] or '0') < tonumber(ARGV[1]) then
    return '' -- emptied, or gone back
end
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
    return held[2]
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local stored = tonumber(redis.call('HGET', KEYS[1], 'commit') or '0')
if stored < tonumber(ARGV[4]) then
    return '' -- gone back
end
if stored >= tonumber(ARGV[5]) then
    return 1 -- stored before: the answer was lost, or the network kept this call back and its repetition came first
end
local clock, expiry, at, key = ARGV[6], tonumber(ARGV[8]), 15, 6
for _ = 1, tonumber(ARGV[9]) do
    redis.call('XADD', KEYS[3], ARGV[at] .. '-0', 'clock', clock, 'event', ARGV[at + 1])
    at = at + 2
end
for _ = 1, tonumber(ARGV[10]) do
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 1])
    at = at + 2
end
for _ = 1, tonumber(ARGV[11]) do
    redis.call('HSET', KEYS[4], ARGV[at], ARGV[at + 1])
    at = at + 2
end
for _ = 1, tonumber(ARGV[12]) do
    redis.call('HDEL', KEYS[4], ARGV[at])
    at = at + 1
end
for _ = 1, tonumber(ARGV[13]) do
    if ARGV[at + 1] == '0' then
        redis.call('SET', KEYS[key], ARGV[at])
    else
        redis.call('SET', KEYS[key], ARGV[at], 'PXAT', ARGV[at + 1])
    end
    redis.call('SADD', KEYS[5], KEYS[key])
    at, key = at + 2, key + 1
end
for _ = 1, tonumber(ARGV[14]) do
    redis.call('DEL', KEYS[key])
    redis.call('SREM', KEYS[5], KEYS[key])
    key = key + 1
end
local horizon, kept = tonumber(ARGV[7]), nil
local oldest = redis.call('XRANGE', KEYS[3], '-', '+', 'COUNT', 200)
for _, entry in ipairs(oldest) do
    if tonumber(entry[2][2]) > horizon then
        kept = entry[1]
        break
    end
end
if #oldest > 0 and not kept then
    redis.call('XTRIM', KEYS[3], 'MAXLEN', redis.call('XLEN', KEYS[3]) - #oldest)
elseif kept and kept ~= oldest[1][1] then
    redis.call('XTRIM', KEYS[3], 'MINID', kept)
end
if expiry > 0 then
    for n = 3, 5 do
        redis.call('PEXPIREAT', KEYS[n], expiry)
    end
end
redis.call('HSET', KEYS[1], 'commit', ARGV[5])
return 1
"""
