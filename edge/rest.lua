-- What REST says and its translation to gRPC would lose, in both directions.

-- ── Requests ────────────────────────────────────────────────────────────────────────────────────────────────────
-- The translation drops `null` and names that nobody knows, and tells no server which names a body had. So they go along
-- in a header, as a tree: {"title": "", "size": {"w": null}, "tags": [{"a": 1}, {"b": 2}], "box": {}} is
-- `title,size(w!),tags(a,b),box()`, in any order. Names are as in the JSON, escapes too, all but letters, digits and _ in
-- percent encoding; the empty one is `%`. Of a body with more than so many names, so many levels, or so many bytes of
-- names, it is `*`.
local HEADER, NAMES, LEVELS, BYTES = "x-transom-body", 10000, 64, 4096
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local QUOTE, COMMA, OPEN, CLOSE = 34, 44, 123, 125
local OBJECT, NULL, MORE = 1, 2, {}

-- The tree of the names in `text`, with node[OBJECT] and node[NULL] for what they are. What lies in an array is told
-- together. Raises MORE, or words for the client; what is no name is left to the translation to check.
local function names_in(text)
  local count, value = 0, nil

  local function closing(at) -- where the string that begins at `at` ends
    repeat
      at = find(text, '["\\]', at + 1)
      if not at then error("The body is not JSON: a string has no end.", 0) end
      local quote = byte(text, at) == QUOTE
      if not quote then at = at + 1 end
    until quote
    return at
  end

  local function object(at, node, level) -- the place after the object whose `{` is at `at`
    local names = {}
    node[OBJECT] = true
    at = find(text, "%S", at + 1)
    if at and byte(text, at) == CLOSE then return at + 1 end
    while true do
      local last = at and byte(text, at) == QUOTE and closing(at)
      local from = last and match(text, "^%s*:()", last + 1)
      if not from then error("The body is not JSON: a name in quotes and a colon are missing.", 0) end
      local name = sub(text, at + 1, last - 1)
      if names[name] then error("The body has an object with two values for one name.", 0) end
      names[name] = true
      count = count + 1
      if count > NAMES then error(MORE, 0) end
      node[name] = node[name] or {}
      at = find(text, "%S", value(from, node[name], level))
      local mark = at and byte(text, at)
      if mark == CLOSE then return at + 1 end
      if mark ~= COMMA then error("The body is not JSON: an object has no end.", 0) end
      at = find(text, "%S", at + 1)
    end
  end

  local function array(at, node, level) -- the place after the array whose `[` is at `at`
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
    at = find(text, "%S", at)
    local mark = at and byte(text, at)
    node[NULL] = mark == 110 -- n
    if mark == OPEN or mark == 91 then
      if level == LEVELS then error(MORE, 0) end
      return (mark == OPEN and object or array)(at, node, level + 1)
    elseif mark == QUOTE then
      return closing(at) + 1
    end
    return at and find(text, "[,%]}%s]", at) or #text + 1
  end

  local tree = {}
  value(1, tree, 0)
  return tree
end

local function escaped(character)
  return string.format("%%%02X", byte(character))
end

-- The tree as text. Raises MORE.
local function told(tree)
  local out, size = {}, 0
  local function put(text)
    size = size + #text
    if size > BYTES then error(MORE, 0) end
    out[#out + 1] = text
  end
  local function below(node)
    local comma = ""
    for name, child in pairs(node) do
      if name ~= OBJECT and name ~= NULL then
        put(comma .. (name == "" and "%" or name:gsub("[^%w_]", escaped)))
        comma = ","
        if child[OBJECT] then
          put("(")
          below(child)
          put(")")
        elseif child[NULL] then
          put("!")
        end
      end
    end
  end
  below(tree)
  return table.concat(out)
end

function envoy_on_request(call)
  local headers = call:headers()
  local method = headers:get(":method")
  if method ~= "POST" and method ~= "PATCH" and method ~= "PUT" then return end
  local kind = headers:get("content-type")
  if kind and kind:find("^[Aa]pplication/grpc") then return end
  local body = call:body()
  if not body then return end
  local fine, names = pcall(names_in, body:getBytes(0, body:length()))
  if fine then fine, names = pcall(told, names) end
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

function envoy_on_response(answer)
  local headers = answer:headers()
  local http = headers:get(":status")
  if http < "400" or headers:get("content-type") ~= "application/json" then return end
  local body = answer:body()
  if not body then return end
  local code, rest = body:getBytes(0, body:length()):match('^{"code":(%-?%d+)(.*)}%s*$')
  if not code then return end
  local name = CODES[tonumber(code)] or "UNKNOWN"
  local length = body:setBytes('{"error":{"code":' .. http .. ',"status":"' .. name .. '"' .. rest .. "}}")
  headers:replace("content-length", tostring(length))
end
