"""The steps of `bridge.jobs`, each one script: Redis runs it whole or not at all."""

# KEYS: job, lease, waiting, running, all. ARGV: id, baton, floor, lease ms, priority, worker,
# message, seconds to keep, limit. Counted is who took it and never let go; a higher floor says that
# one of them got further.
CLAIM = """
local job, lease, waiting, running = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, baton, priority = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[5])
local fence = tonumber(redis.call('HGET', job, 'fence') or '0')
local known = redis.call('HGET', job, 'baton')
if known and baton ~= tonumber(known) and baton ~= fence then return {'stale', 0, 0, 0} end
local left = redis.call('PTTL', lease)
if left > 0 then return {'held', fence, 0, left} end
redis.call('HSET', job, 'priority', ARGV[5], 'message', ARGV[7])
redis.call('EXPIRE', job, ARGV[8])
redis.call('SADD', KEYS[5], id)
if redis.call('HGET', job, 'want') == 'pause' then
  redis.call('HSET', job, 'state', 'paused')
  redis.call('PERSIST', job)
  redis.call('ZREM', waiting, id)
  return {'paused', 0, 0, 0}
end
local top = redis.call('ZREVRANGE', waiting, 0, 0, 'WITHSCORES')
if top[1] and top[1] ~= id and tonumber(top[2]) > priority then
  local other = redis.call('HGET', 'bridge:job:' .. top[1], 'fence')
  local turn = top[1] .. ' ' .. (other or '0')
  if redis.call('EXISTS', 'bridge:job:' .. top[1]) == 0 then
    redis.call('ZREM', waiting, top[1])
  elseif redis.call('HGET', job, 'yielded') ~= turn then
    redis.call('HSET', job, 'yielded', turn, 'state', 'queued')
    redis.call('ZADD', waiting, priority, id)
    return {'yield', 0, 0, 0}
  end
end
if tonumber(ARGV[3]) > tonumber(redis.call('HGET', job, 'floor') or '0') then
  redis.call('HSET', job, 'floor', ARGV[3])
  redis.call('HDEL', job, 'unended')
end
if tonumber(redis.call('HGET', job, 'unended') or '0') >= tonumber(ARGV[9]) then
  return {'poisonous', 0, 0, 0}
end
redis.call('HINCRBY', job, 'unended', 1)
local token = math.max(fence, tonumber(ARGV[3])) + 1
local now = redis.call('TIME')
redis.call('SET', lease, token, 'PX', ARGV[4])
redis.call('HSET', job, 'fence', token, 'baton', baton, 'state', 'running', 'worker', ARGV[6])
redis.call('ZREM', waiting, id)
redis.call('ZADD', running, now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[4], id)
return {'yours', token, redis.call('HINCRBY', job, 'slices', 1), 0}
"""
# KEYS: job, lease, running, all. ARGV: id, token, lease ms, seconds to keep. Also gives back a
# lease that ran out, as long as nobody took it.
RENEW = """
local fence = redis.call('HGET', KEYS[1], 'fence')
if fence and fence ~= ARGV[2] then return 'lost' end
local now = redis.call('TIME')
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('HSET', KEYS[1], 'fence', ARGV[2], 'state', 'running')
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[3], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[1])
redis.call('SADD', KEYS[4], ARGV[1])
return redis.call('HGET', KEYS[1], 'want') or ''
"""
# KEYS: job, lease, waiting, running. ARGV: id, token, 1 if it has died.
RELEASE = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2] then return 0 end
if ARGV[3] ~= '1' then redis.call('HDEL', KEYS[1], 'unended') end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'queued')
redis.call('ZADD', KEYS[3], redis.call('HGET', KEYS[1], 'priority') or 0, ARGV[1])
return 1
"""
# KEYS: job, lease, running. ARGV: id. A new token for a message that takes the place of one that is
# lost, or late. All others are stale from now on: the task is overdue until that message is sent.
HAND_ON = """
if redis.call('PTTL', KEYS[2]) > 0 then return {0, ''} end
local message = redis.call('HGET', KEYS[1], 'message')
if not message then
  redis.call('ZREM', KEYS[3], ARGV[1])
  return {0, ''}
end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[3], now[1] * 1000 + math.floor(now[2] / 1000), ARGV[1])
return {redis.call('HINCRBY', KEYS[1], 'fence', 1), message}
"""
# As above, for one that is paused. ARGV besides: seconds to keep.
RESUME = f"""
redis.call('HDEL', KEYS[1], 'want')
if redis.call('HGET', KEYS[1], 'state') ~= 'paused' then return {{0, ''}} end
redis.call('HSET', KEYS[1], 'state', 'queued')
redis.call('EXPIRE', KEYS[1], ARGV[2])
{HAND_ON}"""
# KEYS: job, running. ARGV: id, token.
HANDED_ON = """
if redis.call('HGET', KEYS[1], 'fence') == ARGV[2] then redis.call('ZREM', KEYS[2], ARGV[1]) end
"""
# KEYS: job, waiting, all. ARGV: id, priority, seconds to keep.
REGISTER = """
if redis.call('HSETNX', KEYS[1], 'state', 'queued') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'priority', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
"""
# KEYS: job, waiting, running, all, lease, result. ARGV: id, "ended" or "unsent".
FORGET = """
local lives = redis.call('PTTL', KEYS[5]) > 0
if ARGV[2] == 'ended' and (lives or redis.call('EXISTS', KEYS[6]) == 0) then return 0 end
if ARGV[2] == 'unsent' and redis.call('HEXISTS', KEYS[1], 'sent') == 1 then return 0 end
if ARGV[2] == 'unsent' and redis.call('HEXISTS', KEYS[1], 'message') == 1 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SREM', KEYS[4], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
"""
SENT = "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'sent', 1) end"
# What may not be undone is decided in one of the next three, and nowhere else: a task is published
# (COMMIT), or expires, or is cancelled. KEYS: job, result. ARGV: token, seconds to keep.
COMMIT = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 'ended' end
local fence = redis.call('HGET', KEYS[1], 'fence')
if fence and fence ~= ARGV[1] then return 'lost' end
if redis.call('HEXISTS', KEYS[1], 'expired') == 1 then return 'expired' end
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'publishing', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 'yours'
"""
# KEYS: job. ARGV: seconds to keep.
EXPIRE = """
if redis.call('HEXISTS', KEYS[1], 'publishing') == 1 then return 0 end
redis.call('HSET', KEYS[1], 'expired', 1)
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""
# KEYS: job, result. ARGV: the record, seconds to keep.
CANCEL = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 'ended' end
if redis.call('HEXISTS', KEYS[1], 'publishing') == 1 then return 'publishing' end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
return 'cancelled'
"""
# KEYS: job. ARGV: token. Nothing was published after all.
RECALL = """
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
return redis.call('HDEL', KEYS[1], 'publishing')
"""


def keys_of(task_id: str) -> tuple[str, str]:
    """The job's key, and its lease's."""
    return f"bridge:job:{task_id}", f"bridge:lease:{task_id}"
