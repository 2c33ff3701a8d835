-- Appends what a server has to say to the room's stream, in order and each message once, and says
-- that the server is alive. Without messages it says only that.
--
-- A server `registers` when it is new, or connected again: then the messages are not its next ones,
-- which begin with number `first`, but who is there. Whoever is not in `servers` is new, or was
-- taken for expired, and has to enter first.
local stream, servers, count, members, sequence, alive_since = unpack(KEYS)
-- Not all at once: there may be more than Lua's stack has room for.
local FIXED = 5
local server, expiry, length, registers, first = unpack(ARGV, 1, FIXED)
expiry, registers, first = tonumber(expiry), registers == '1', tonumber(first)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The number, which no entry is without, shows to a reader whether it has missed one.
local function append(author, line)
    redis.call('XADD', stream, 'MAXLEN', '~', length, '*',
        'number', redis.call('INCR', count), 'author', author, 'line', line)
end

-- Who has not been heard of left, and the members with it. This judges only who has been heard of
-- itself for all that time: where Redis was away or stood still, or its clock was set, all were
-- silent, and those who are about to speak again are not expired.
local since = not registers and tonumber(redis.call('GET', alive_since)) or now
redis.call('SET', alive_since, since, 'PX', math.floor(expiry / 2))
if now - since > expiry then
    for _, expired in ipairs(redis.call('ZRANGE', servers, '-inf', now, 'BYSCORE')) do
        if expired ~= server then
            local key = string.sub(members, 1, -#server - 1) .. expired
            local left = redis.call('HGETALL', key)
            for index = 1, #left, 2 do
                append(expired .. ':' .. left[index], left[index + 1])
            end
            redis.call('DEL', key)
            redis.call('ZREM', servers, expired)
        end
    end
end

local is_known = redis.call('ZSCORE', servers, server)
local last = math.max(tonumber(redis.call('GET', sequence) or '0'), first - 1)
-- Who was there before the last message may have left with it.
local is_outdated = registers and last >= first
if is_outdated or not (registers or is_known) then
    return {0, last}
end
redis.call('ZADD', servers, now + expiry, server)

-- What came before, and only its answer was lost, is not said twice.
local skip = last + 1 - first
if registers then
    -- A Redis that has lost its last words knows others.
    redis.call('DEL', members)
end
for index = FIXED + 1 + 4 * skip, #ARGV, 4 do
    local author, line, kind, leave_message = unpack(ARGV, index, index + 3)
    if not (registers and is_known) then
        append(server .. ':' .. author, line)
    end
    if kind == 'join' then
        redis.call('HSET', members, author, leave_message)
    elseif kind == 'leave' then
        redis.call('HDEL', members, author)
    end
    if not registers then
        last = last + 1
    end
end
-- Kept for as long as a message may be on its way, and no longer than anybody asks.
redis.call('SET', sequence, string.format('%.0f', last), 'PX', 86400000)
return {1, last}
