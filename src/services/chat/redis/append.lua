-- Appends what a server has to say to the room's stream, in order and each message once, and says
-- that the server is alive. Without messages it says only that.
--
-- Whoever is not in `servers` was taken for dead, and is told so: it has to come in again. It does
-- by giving 0 as `first`: then the messages are not its next ones, but who is there.
local stream, servers, count, members, sequence = unpack(KEYS)
local server, expiry, length, sweep, first = unpack(ARGV)
local FIXED = 5
first = tonumber(first)

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The number, which no entry is without, shows to a reader whether it has missed one.
local function append(author, line)
    redis.call('XADD', stream, 'MAXLEN', '~', length, '*',
        'number', redis.call('INCR', count), 'author', author, 'line', line)
end

-- Who has not been heard of left, and the members with it.
if sweep == '1' then
    for _, dead in ipairs(redis.call('ZRANGE', servers, '-inf', now, 'BYSCORE')) do
        if dead ~= server then
            local left = string.sub(members, 1, -#server - 1) .. dead
            for _, parting in ipairs(redis.call('HVALS', left)) do
                append(dead .. ':', parting)
            end
            redis.call('DEL', left)
            redis.call('ZREM', servers, dead)
        end
    end
end

local last = tonumber(redis.call('GET', sequence) or '0')
local is_known = redis.call('ZSCORE', servers, server)
if first > 0 and not is_known then
    return {0, last}
end
redis.call('ZADD', servers, now + expiry, server)

local skip = is_known and math.huge or 0
if first > 0 then
    -- What came before, and only its answer was lost, is not said twice.
    last = math.max(last, first - 1)
    skip = last + 1 - first
end
for index = FIXED + 1 + 4 * skip, #ARGV, 4 do
    local author, line, presence, parting = unpack(ARGV, index, index + 3)
    append(server .. ':' .. author, line)
    if presence == 'joins' then
        redis.call('HSET', members, author, parting)
    elseif presence == 'leaves' then
        redis.call('HDEL', members, author)
    end
    if first > 0 then
        last = last + 1
    end
end
-- Kept for as long as a message may be on its way, and no longer than anybody asks.
redis.call('SET', sequence, string.format('%.0f', last), 'PX', 86400000)
return {1, last}
