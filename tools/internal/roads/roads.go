// Package roads takes users through whole logins, as a gateway on the bus or as a client of the HTTP API does.
package roads

import (
	"context"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// A Road is one way through a login.
type Road struct {
	Name   string
	App    string // of [Policy]
	Method events.Method
	Last   string // a durable consumer near the end of the road, which is paused to hold logins in flight
}

// The roads.
var (
	Password = Road{"password/OK", "ok", events.Password, "sessionissuer-assessed"}
	Code     = Road{"password/REVIEW/SMS", "review", events.Password, "otpvalidator-answered"}
	Push     = Road{"ID/push", "push", events.None, "sessionissuer-verified"} // of users with a phone: [system.System.Enroll]
)

// All are the roads, the shortest first.
var All = []Road{Password, Code, Push}

// Settings are those of a system whose roads are measured: passwords are hashed at the lowest cost, since an honest hash costs more than
// all the rest; nothing limits how often the same few people come; and this program says where they come from, as a proxy does.
const Settings = `password: {memory: 8, time: 1}
limits: {logins_per_source: 1000000, device_per_source: 1000000, sms_per_user: 1000000, sms_per_number: 1000000,
         push_per_user: 1000000, push_per_source: 1000000}
gateway: {proxies: [127.0.0.1/32]}
debug: {profiles: true}
`

// Policy has an app for each road, so that one static verdict serves all: they differ in how many factors it leads to, and in which.
const Policy = `apps:
  ok:
    name: {en: Password alone, ja: パスワードのみ}
    methods: [password]
    factors: [sms]
    on_ok: 1
    on_review: 1
    on_ng: deny
    on_unavailable: deny
  review:
    name: {en: Password and code, ja: パスワードとコード}
    methods: [password]
    factors: [sms]
    on_ok: 2
    on_review: 2
    on_ng: deny
    on_unavailable: deny
  push:
    name: {en: Phone alone, ja: スマートフォンのみ}
    methods: [none]
    factors: [push]
    passwordless_factors: [push]
    on_ok: 1
    on_review: 1
    on_ng: deny
    on_unavailable: deny
`

// A Driver takes a user down a road to the end. It fails unless the login is granted.
type Driver interface {
	Login(ctx context.Context, road Road, user system.User) error
}

// coder derives the code of a round.
type coder interface {
	Code(login events.Login, round int) string
}

// mistyped is a code or a number with another last digit.
func mistyped(code string) string {
	last := code[len(code)-1]
	return code[:len(code)-1] + string('0'+(last-'0'+1)%10)
}
