-- Asks for every route that seed.py makes, one after another; how many there are comes from SEEDED_ROUTES.
dofile(string.gsub(debug.getinfo(1, "S").source:sub(2), "[^/]*$", "") .. "wrk_report.lua")
local routes = tonumber(os.getenv("SEEDED_ROUTES"))
local number = -1

request = function()
    number = (number + 1) % routes
    local headers = { Host = string.format("host-%d.example.com", number) }
    return wrk.format("GET", string.format("/seed/%d/items", number), headers)
end
