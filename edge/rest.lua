-- What REST says and its translation to gRPC would lose, in both directions.

-- ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────
-- The translation drops `null` and names that nobody knows, and tells no server which names a body had. So they go along
-- in a header, as a tree: {"title": "", "size": {"w": null}, "tags": [{"a": 1}, {"b": 2}], "box": {}} is
-- `title,size(w!),tags(a,b),box()`, in any order. Names are as in the JSON, escapes too, all but letters, digits and _ in
-- percent encoding; the empty one is `%`. Of a body with more than so many names, so many levels, or so many bytes of
-- names, it is `*`. What lies in an array is told together; but of the parts of a batch (`requests`) and of a commit (`writes`) each
-- that has other names than the one before it, by its place from 0: `requests!(0(book(name,title)),7(book(name,title!)))`, in one
-- order. Where that is more than so many bytes, they are told together, too.
local HEADER, NAMES, LEVELS, BYTES, PARTS_BYTES = "x-transom-body", 10000, 64, 4096, 2048
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local QUOTE, COMMA, COLON, BACKSLASH, OPEN, CLOSE = 34, 44, 58, 92, 123, 125
local OBJECT, NULL, PARTS, MORE = 1, 2, 3, {}

-- The tree of the names in `text`, with node[OBJECT] and node[NULL] for what they are, and node[PARTS] for a list of such.
-- Raises MORE, or words for the client; what is no name is left to the translation to check.
local function names_in(text)
  local count, value = 0, nil

  local function after(at) -- the first character at or after `at` that is no white space, and its place
    local mark = byte(text, at)
    while mark and mark <= 32 and (mark == 32 or (mark >= 9 and mark <= 13)) do
      at = at + 1
      mark = byte(text, at)
    end
    return mark, at
  end

  local function closing(at) -- where the string that begins at `at` ends
    local from, slashes = at, nil
    repeat
      at = find(text, '"', at + 1, true)
      if not at then error("The body is not JSON: a string has no end.", 0) end
      slashes = at - 1
      while slashes > from and byte(text, slashes) == BACKSLASH do slashes = slashes - 1 end
    until (at - slashes) % 2 == 1
    return at
  end

  local function object(at, node, level) -- the place after the object whose `{` is at `at`
    local seen = node[OBJECT] and {} -- another one of an array: names of those before it are no doubles
    node[OBJECT] = true
    local mark
    mark, at = after(at + 1)
    if mark == CLOSE then return at + 1 end
    while true do
      local last = mark == QUOTE and closing(at)
      local colon, from
      if last then colon, from = after(last + 1) end
      if colon ~= COLON then error("The body is not JSON: a name in quotes and a colon are missing.", 0) end
      local name = sub(text, at + 1, last - 1)
      local child = node[name]
      if (seen or node)[name] then error("The body has an object with two values for one name.", 0) end
      if seen then seen[name] = true end
      count = count + 1
      if count > NAMES then error(MORE, 0) end
      if not child then
        child = {}
        node[name] = child
      end
      if level == 1 and (name == "requests" or name == "writes") then child[PARTS] = {} end
      mark, at = after(value(from + 1, child, level))
      if mark == CLOSE then return at + 1 end
      if mark ~= COMMA then error("The body is not JSON: an object has no end.", 0) end
      mark, at = after(at + 1)
    end
  end

  local function array(at, node, level) -- the place after the array whose `[` is at `at`
    local from, parts = at, node[PARTS]
    if parts then
      local mark
      mark, at = after(at + 1)
      while mark == OPEN do
        local part = {}
        mark, at = after(value(at, part, level))
        parts[#parts + 1] = part
        if mark == 93 then return at + 1 end
        if mark ~= COMMA then break end
        mark, at = after(at + 1)
      end
      node[PARTS], at = nil, from -- not of objects alone: places could not be counted
    end
    while true do
      at = find(text, '[%[%]{"]', at + 1) -- numbers and the like have no names
      if not at then error("The body is not JSON: an array has no end.", 0) end
      local mark = byte(text, at)
      if mark == QUOTE then
        at = closing(at)
      elseif mark == 93 then
        return at + 1
      else
        at = value(at, node, level) - 1
      end
    end
  end

  value = function(at, node, level) -- the place after the value that begins at or after `at`
    local mark
    mark, at = after(at)
    if mark == QUOTE then
      if node[NULL] then node[NULL] = nil end
      return closing(at) + 1
    end
    node[NULL] = mark == 110 or nil -- n
    if mark == OPEN or mark == 91 then
      if level == LEVELS then error(MORE, 0) end
      return (mark == OPEN and object or array)(at, node, level + 1)
    end
    return mark and find(text, "[,%]}%s]", at) or #text + 1
  end

  local tree = {}
  value(1, tree, 0)
  return tree
end

local function escaped(character)
  return string.format("%%%02X", byte(character))
end

-- The names of `node` put into those of `into`.
local function together(into, node)
  for name, child in pairs(node) do
    if name == OBJECT or name == NULL then
      into[name] = child
    else
      into[name] = into[name] or {}
      if not child[NULL] then into[name][NULL] = nil end
      together(into[name], child)
    end
  end
end

local parts_told

-- The tree as text of `most` bytes, sorted if that is asked for. Raises MORE.
local function told(tree, most, sorted)
  local out, size, below = {}, 0, nil
  local function put(text)
    size = size + #text
    if size > most then error(MORE, 0) end
    out[#out + 1] = text
  end
  local function one(comma, name, child)
    if name == "" then
      name = "%"
    elseif find(name, "[^%w_]") then
      name = name:gsub("[^%w_]", escaped)
    end
    put(comma .. name)
    local parts = child[PARTS]
    if parts and parts[1] then
      local fine, text = pcall(parts_told, parts)
      if fine then return put("!(" .. text .. ")") end
      for _, part in ipairs(parts) do together(child, part) end
    end
    if child[OBJECT] then
      put("(")
      below(child)
      put(")")
    elseif child[NULL] then
      put("!")
    end
  end
  below = function(node)
    local comma = ""
    if sorted then
      local names = {}
      for name in pairs(node) do
        if name ~= OBJECT and name ~= NULL then names[#names + 1] = name end
      end
      table.sort(names)
      for _, name in ipairs(names) do
        one(comma, name, node[name])
        comma = ","
      end
      return
    end
    for name, child in pairs(node) do
      if name ~= OBJECT and name ~= NULL and name ~= PARTS then
        one(comma, name, child)
        comma = ","
      end
    end
  end
  below(tree)
  return table.concat(out)
end

-- Each part that is not told as the one before it. The same body is told in the same way by everyone: it is compared.
parts_told = function(parts)
  local out, size, before = {}, 0, nil
  for place, part in ipairs(parts) do
    local text = told(part, PARTS_BYTES, true)
    if text ~= before then
      before = text
      text = (place - 1) .. "(" .. text .. ")"
      size = size + #text + 1
      if size > PARTS_BYTES then error(MORE, 0) end
      out[#out + 1] = text
    end
  end
  return table.concat(out, ",")
end

-- How whoever calls wants to read a stream, where it says so.
local OWN = "envoy.filters.http.lua" -- what a script notes of a call is noted under the filter's name
local EVENTS, LINES = "text/event-stream", "application/x-ndjson"

local function wished(accept)
  if find(accept, EVENTS, 1, true) then return EVENTS end
  if find(accept, "application/x-ndjson", 1, true) or find(accept, "application/jsonl", 1, true) then return LINES end
end

function envoy_on_request(call)
  local headers = call:headers()
  local accept = headers:get("accept")
  local wish = accept and wished(accept)
  if wish then call:streamInfo():dynamicMetadata():set(OWN, "wish", wish) end
  local method = headers:get(":method")
  if method == "HEAD" and find(headers:get(":path"), "^/files/") then
    -- What is signed for GET is refused to HEAD: whoever follows the redirect does so by HEAD.
    local path = headers:get(":path")
    headers:replace(":path", path .. (find(path, "?", 1, true) and "&" or "?") .. "head=true")
    headers:replace(":method", "GET")
  end
  if method ~= "POST" and method ~= "PATCH" and method ~= "PUT" then return end
  local kind = headers:get("content-type")
  if kind and kind:find("^[Aa]pplication/grpc") then return end
  if find(headers:get(":path"), "^/transom/v1/files:upload%f[?%z]") then return end -- a file: it has no names, and is not held
  local body = call:body()
  if not body then return end
  local fine, names = pcall(names_in, body:getBytes(0, body:length()))
  if fine then fine, names = pcall(told, names, BYTES) end
  if fine then
    call:headers():replace(HEADER, names)
  elseif names == MORE then
    call:headers():replace(HEADER, "*")
  else
    call:respond({[":status"] = "400"}, names)
  end
end

-- ── Answers ─────────────────────────────────────────────────────────────────────────────────────────────────────
-- A server's refusal over REST, in the shape that AIP-193 gives it and Google's clients read: the translation leaves
-- {"code":5,"message":…,"details":…}, which becomes {"error":{"code":404,"status":"NOT_FOUND","message":…,
-- "details":…}}; the edge's own refusals are in this shape from the start. Nothing else is touched: what succeeds has
-- another status, gRPC and gRPC-Web another content type. What is held here is one refusal, which came as headers: at
-- most 60 KiB of them before it was translated.
local CODES = { -- of google.rpc.Code, from 1
  "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
  "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
  "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

local NUMBERS = {}
for number, name in ipairs(CODES) do NUMBERS[name] = number end

-- ── Streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────
-- The translation leaves a line of JSON for each message. For who reads server-sent events each becomes one event, whose id is
-- the message's `resumeToken`: a browser sends the last one along by itself when it connects again (Last-Event-ID).
local STREAM = "x-edge-stream" -- a route of streams puts it on their answers, for this script alone
local SOON, LATE = 500, 2000 -- milliseconds until a browser that lost its stream connects again: not all of a server's at once

-- The text that the message in `line` has as its resumeToken, if it has one: not what is deeper in it, or in one of its texts.
local function token_of(line)
  local level, at = 0, 1
  while true do
    at = find(line, '["{}%[%]]', at)
    if not at then return end
    local mark = byte(line, at)
    if mark == QUOTE then
      if level == 1 then
        local token = match(line, '^"resumeToken":"([^"\\\r\n]*)"', at)
        if token then return token ~= "" and token or nil end
      end
      repeat -- to where the text ends
        at = find(line, '["\\]', at + 1)
        if not at then return end
        local quote = byte(line, at) == QUOTE
        if not quote then at = at + 1 end
      until quote
    else
      level = level + ((mark == OPEN or mark == 91) and 1 or -1)
    end
    at = at + 1
  end
end

-- A message without one belongs to a first state that is not whole yet: whoever loses the stream there begins anew, so the
-- browser forgets the id of before. Why a stream ends is no part of it.
local function as_event(line)
  local token = token_of(line)
  local id = token and "id: " .. token .. "\n" or find(line, '^{"error":') and "" or "id:\n"
  return id .. "data: " .. line .. "\n\n"
end

local function stream(answer, wish)
  local headers = answer:headers()
  headers:replace("content-type", wish)
  headers:replace("cache-control", "no-cache, no-transform")
  headers:replace("x-accel-buffering", "no") -- proxies in front of this one, that hold answers back
  if wish == LINES then return end
  local rest, retry = "", "retry: " .. math.random(SOON, LATE) .. "\n\n"
  for chunk in answer:bodyChunks() do
    local out = {retry}
    retry = ""
    local text = rest .. chunk:getBytes(0, chunk:length())
    local at = 1
    while true do
      local stop = find(text, "\n", at, true)
      if not stop then break end
      if stop > at then out[#out + 1] = as_event(sub(text, at, stop - 1)) end
      at = stop + 1
    end
    rest = sub(text, at)
    chunk:setBytes(table.concat(out))
  end
end

-- A browser gives up for good where its stream is answered by anything but 200. So what it may try again is told as an event,
-- with the time to wait, and with the code of a google.rpc.Status, as a stream says why it ends.
local AGAIN = { ["429"] = true, ["502"] = true, ["503"] = true, ["504"] = true }

local function as_last_event(headers, refusal)
  local wait = math.random(SOON, LATE) + 1000 * (tonumber(headers:get("retry-after") or "") or 0)
  local number = NUMBERS[match(refusal, '"status":%s*"([A-Z_]+)"')] or 2
  headers:replace(":status", "200")
  headers:replace("content-type", EVENTS)
  headers:replace("cache-control", "no-cache, no-transform")
  return "retry: " .. wait .. "\ndata: " .. refusal:gsub('"code":%s*%d+', '"code":' .. number, 1):gsub("%s+$", "") .. "\n\n"
end

local function wish_of(answer)
  local noted = answer:streamInfo():dynamicMetadata():get(OWN)
  return noted and noted.wish
end

-- Where a public file lies, as a server says it: over REST this is a redirect, without a body.
local LOCATION = "x-transom-location"

local function redirect(answer, location)
  local body = answer:body() -- waits for the end: a refusal comes later than this header
  local headers = answer:headers()
  if headers:get(":status") ~= "200" then return end
  headers:replace(":status", "302")
  headers:replace("location", location)
  headers:remove(LOCATION)
  headers:remove("content-type")
  headers:replace("content-length", tostring(body and body:setBytes("") or 0))
end

function envoy_on_response(answer)
  local headers = answer:headers()
  local http = headers:get(":status")
  local location = headers:get(LOCATION)
  if location and headers:get("content-type") == "application/json" then return redirect(answer, location) end
  if headers:get(STREAM) then
    headers:remove(STREAM)
    if http == "200" and headers:get("content-type") == "application/json" then
      return stream(answer, wish_of(answer) or EVENTS)
    end
  end
  if http < "400" or headers:get("content-type") ~= "application/json" then return end
  local again = AGAIN[http] and wish_of(answer) == EVENTS
  local body = answer:body()
  if not body then return end
  headers = answer:headers() -- what was got before the body came is good no more
  local refusal = body:getBytes(0, body:length())
  local code, rest = refusal:match('^{"code":(%-?%d+)(.*)}%s*$')
  if code then
    refusal = '{"error":{"code":' .. http .. ',"status":"' .. (CODES[tonumber(code)] or "UNKNOWN") .. '"' .. rest .. "}}"
  end
  if again then
    refusal = as_last_event(headers, refusal)
  elseif not code then
    return
  end
  headers:replace("content-length", tostring(body:setBytes(refusal)))
end
