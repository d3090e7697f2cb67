-- http-request lua.sekisho <app> asks Sekisho whether the request may go to an app of the policy. It sets
-- txn.sekisho_status to the answer's status (0: no answer) and, by that, who it is (200) or where to log in (401).

local check = "http://127.0.0.1:8080/auth/check?app="
local patience = 5000 -- milliseconds

local function first(headers, name)
    return headers[name] and headers[name][0] or ""
end

core.register_action("sekisho", { "http-req" }, function(txn, app)
    txn:set_var("txn.sekisho_status", 0)
    local request = txn.http:req_get_headers()
    local ask = {
        ["x-forwarded-for"] = { first(request, "x-forwarded-for") },
        ["x-forwarded-host"] = { first(request, "x-forwarded-host") },
        ["x-forwarded-proto"] = { first(request, "x-forwarded-proto") },
        ["x-forwarded-uri"] = { txn.f:pathq() },
    }
    for _, name in ipairs({ "cookie", "authorization" }) do
        for _, value in pairs(request[name] or {}) do
            ask[name] = ask[name] or {}
            table.insert(ask[name], value)
        end
    end
    local answer = core.httpclient():get({ url = check .. app, headers = ask, timeout = patience })
    if not answer or not answer.status then
        return
    end
    local headers = answer.headers or {}
    txn:set_var("txn.sekisho_user", first(headers, "remote-user"))
    txn:set_var("txn.sekisho_amr", first(headers, "sekisho-amr"))
    txn:set_var("txn.sekisho_acr", first(headers, "sekisho-acr"))
    txn:set_var("txn.sekisho_login", first(headers, "location"))
    txn:set_var("txn.sekisho_status", answer.status)
end, 1)
