// Package roads takes users through whole logins, as a gateway on the bus or as a client of the HTTP API does.
package roads

import (
	"context"
	"errors"
	"os"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/tools/internal/system"
)

// A Road is one way through a login.
type Road struct {
	Name   string
	App    string // see [WritePolicy]
	Method events.Method
	Last   string // the durable consumer before which a login of this road waits longest
}

// The roads.
var (
	Password = Road{"password/OK", "ok", events.Password, "sessionissuer-assessed"}
	Code     = Road{"password/REVIEW/SMS", "review", events.Password, "otpvalidator-answered"}
	Push     = Road{"ID/push", "push", events.None, "sessionissuer-verified"} // of users with a phone: [system.System.Enroll]
)

// All are the roads, the shortest first.
var All = []Road{Password, Code, Push}

// policy has an app for each road, so that one static verdict serves all: they differ in how many factors it leads to, and in which.
const policy = `apps:
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

// WritePolicy writes the policy of the roads into a file, which the caller removes.
func WritePolicy() (path string, err error) {
	f, err := os.CreateTemp("", "policy-*.yaml")
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(policy)
	return f.Name(), errors.Join(err, f.Close())
}

// A Driver takes a user down a road to the end. It fails unless that is granted.
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
