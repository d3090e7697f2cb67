package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/yamlfile"
)

// UnmarshalYAML reads an app over the defaults: a key that is left out means the careful choice.
func (a *App) UnmarshalYAML(unmarshal func(any) error) error {
	type plain App
	p := plain{
		Methods: []events.Method{events.Password}, Factors: []events.Factor{events.Push, events.SMS, events.Token},
		OnOK: 1, OnReview: 2, OnNG: Deny, OnUnavailable: StepUp,
		SessionMaxAge: Span(12 * time.Hour),
	}
	if err := unmarshal(&p); err != nil {
		return err
	}
	*a = App(p)
	return nil
}

func parse(path string, data []byte) (*Policy, error) {
	p := new(Policy)
	file, err := yamlfile.Parse(path, data)
	if err == nil {
		err = yamlfile.Decode(path, file, p)
	}
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	found := p.normalize()
	if len(found) == 0 {
		return p, p.seal()
	}
	errs := make([]error, len(found))
	for i, f := range found {
		errs[i] = fmt.Errorf("policy: %s:%d: %s: %s", path, line(file, f.key), strings.Join(f.key, "."), f.text)
	}
	return nil, errors.Join(errs...)
}

// A fault is something wrong in the file, and the keys that lead to it.
type fault struct {
	key  []string
	text string
}

// maxName bounds an app's name, in bytes, as the event `wanted` does. A text message of one segment has room for 37 characters of it.
const maxName = 256

// normalize fills in what was left out and follows from the rest, and reports every fault.
func (p *Policy) normalize() (found []fault) {
	if len(p.Apps) == 0 {
		return []fault{{[]string{"apps"}, "missing: nobody could log in"}}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Apps)) {
		add := func(key, format string, args ...any) {
			found = append(found, fault{[]string{"apps", name, key}, fmt.Sprintf(format, args...)})
		}
		a := p.Apps[name]
		if a == nil {
			found = append(found, fault{[]string{"apps", name}, "empty: say at least which methods it accepts"})
			continue
		}
		if len(name) > 64 {
			add("name", "the app's key is longer than 64 bytes")
		}
		a.Name.EN = cmp.Or(a.Name.EN, name)
		a.Name.JA = cmp.Or(a.Name.JA, a.Name.EN)
		if max(len(a.Name.EN), len(a.Name.JA)) > maxName {
			add("name", "longer than %d bytes", maxName)
		}
		if a.PasswordlessFactors == nil {
			a.PasswordlessFactors = intersect(a.Factors, []events.Factor{events.Push, events.Token})
		}
		checkList(add, "methods", a.Methods, []events.Method{events.Password, events.None})
		checkList(add, "factors", a.Factors, events.Factors)
		checkList(add, "passwordless_factors", a.PasswordlessFactors, a.Factors)
		a.checkNeeds(add)
	}
	return found
}

// checkNeeds reports an app that nobody could log in to, and needs that nobody could meet or that fall when the risk rises.
func (a *App) checkNeeds(add func(key, format string, args ...any)) {
	most := len(a.Factors)
	if a.Accepts(events.Password) {
		most++
	}
	if len(a.Methods) == 0 {
		add("methods", "empty: nobody could log in")
	}
	if a.Accepts(events.None) && len(a.PasswordlessFactors) == 0 {
		add("passwordless_factors", "empty, but methods has none: a login without any proof can not be")
	}
	if a.SessionMaxAge < 0 {
		add("session_max_age", "want a time span such as 12h, or 0s")
	}
	below := Need(1)
	for _, on := range []struct {
		key  string
		need Need
	}{{"on_ok", a.OnOK}, {"on_review", a.OnReview}, {"on_ng", a.OnNG}} {
		switch {
		case on.need != Deny && (on.need < 1 || on.need > MaxNeed):
			add(on.key, "want a number of factors from 1 to %d, or deny", MaxNeed)
		case int(on.need) > most:
			add(on.key, "asks for %d factors, but methods and factors allow %d", on.need, most)
		case on.need.less(below):
			add(on.key, "%v asks for less than a lower risk does (%v)", on.need, below)
		default:
			below = on.need
		}
	}
	if !slices.Contains([]Unavailable{StepUp, Allow, DenyUnavailable}, a.OnUnavailable) {
		add("on_unavailable", "%q: want %s, %s or %s", a.OnUnavailable, StepUp, Allow, DenyUnavailable)
	}
}

// checkList reports values that are not known, or that stand twice.
func checkList[T ~string](add func(key, format string, args ...any), key string, values, known []T) {
	for i, v := range values {
		if !slices.Contains(known, v) {
			add(key, "%q: want some of %q", v, known)
		}
		if slices.Contains(values[:i], v) {
			add(key, "%q stands twice", v)
		}
	}
}

// intersect keeps the order of the first.
func intersect[T comparable](first, second []T) []T {
	return slices.DeleteFunc(slices.Clone(first), func(v T) bool { return !slices.Contains(second, v) })
}

// line finds where a key stands, or the nearest one around it.
func line(file *ast.File, keys []string) int {
	for ; len(keys) > 0; keys = keys[:len(keys)-1] {
		at := (&yaml.PathBuilder{}).Root()
		for _, key := range keys {
			at = at.Child(key)
		}
		if node, err := at.Build().FilterFile(file); err == nil {
			return node.GetToken().Position.Line
		}
	}
	return 1
}
