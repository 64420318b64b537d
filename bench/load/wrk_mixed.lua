-- A mix of requests in a fixed turn: small and large answers, bodies of both framings, HEAD, an unknown path.
dofile(string.gsub(debug.getinfo(1, "S").source:sub(2), "[^/]*$", "") .. "wrk_report.lua")
local body = string.rep("x", 16384)
local chunks = string.format("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", 100, body:sub(1, 100), 5000, body:sub(1, 5000))
local turns = {}
local turn = 0

init = function()
    for _ = 1, 12 do
        table.insert(turns, wrk.format("GET", "/soak/small"))
    end
    table.insert(turns, wrk.format("POST", "/soak/post", nil, body))
    table.insert(turns, wrk.format("POST", "/soak/post", nil, "a"))
    table.insert(turns, wrk.format("POST", "/soak/post", { ["Transfer-Encoding"] = "chunked" }) .. chunks)
    table.insert(turns, wrk.format("GET", "/soak/%7Ea/../b?q=" .. body:sub(1, 500)))
    table.insert(turns, wrk.format("DELETE", "/soak/small"))
end

request = function()
    turn = turn % #turns + 1
    return turns[turn]
end
