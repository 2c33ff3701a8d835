-- Appends a server's messages to the room's stream, in order and each once, and counts as its
-- heartbeat. Returns whether the server is registered, and the number of its last appended message.
--
-- A call either appends messages, the first of which has the number `first`, or registers a server
-- that is new or has reconnected. The messages of a registration are the joins of all members of
-- the server, and have no numbers. A server that is not in `servers` has to register first.
local stream, servers, count, members, sequence, alive_since = unpack(KEYS)
-- The messages follow. Unpacking all arguments at once could overflow Lua's stack.
local FIXED = 5
local server, expiry, length, is_registration, first = unpack(ARGV, 1, FIXED)
expiry, is_registration, first = tonumber(expiry), is_registration == '1', tonumber(first)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Every entry has a number, so that a reader notices a gap.
local function append(author, line)
    redis.call('XADD', stream, 'MAXLEN', '~', length, '*',
        'number', redis.call('INCR', count), 'author', author, 'line', line)
end

-- Expires other servers, and appends the leave messages of their members. Only a server whose own
-- heartbeats came without a gap for all that time does so: after Redis was down or stopped, or its
-- clock was set, all servers seem silent, though they are about to send their next heartbeat.
local since = not is_registration and tonumber(redis.call('GET', alive_since)) or now
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
-- An outdated registration: one of its members may have left with a message appended since.
local is_outdated = is_registration and last >= first
if is_outdated or not (is_registration or is_known) then
    return {0, last}
end
redis.call('ZADD', servers, now + expiry, server)

-- Messages whose reply was lost are not appended again.
local skip = last + 1 - first
if is_registration then
    -- They may be outdated, if Redis has lost its last writes.
    redis.call('DEL', members)
end
for index = FIXED + 1 + 4 * skip, #ARGV, 4 do
    local author, line, kind, leave_message = unpack(ARGV, index, index + 3)
    if not (is_registration and is_known) then
        append(server .. ':' .. author, line)
    end
    if kind == 'join' then
        redis.call('HSET', members, author, leave_message)
    elseif kind == 'leave' then
        redis.call('HDEL', members, author)
    end
    if not is_registration then
        last = last + 1
    end
end
-- Kept for a day, longer than a message can be on its way.
redis.call('SET', sequence, string.format('%.0f', last), 'PX', 86400000)
return {1, last}
