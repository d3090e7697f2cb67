package events_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
)

func example(t *testing.T) *events.Event {
	t.Helper()
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	e := events.New(login, 2, &events.Undelivered{Factor: events.SMS, Reason: events.UndeliveredDown})
	e.By, e.Time, e.Expires = "smsdispatcher", time.Now().UTC(), time.Now().UTC().Add(time.Minute)
	e.Cause, e.Trace = login.EventID(events.StepWanted, 2), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	return e
}

func message(t *testing.T, e *events.Event) *nats.Msg {
	t.Helper()
	msg, err := e.Message()
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestBinaryRoundTrip(t *testing.T) {
	want := example(t)
	msg := message(t, want)
	if got := msg.Header["ce-type"]; len(got) != 1 || got[0] != "sekisho.login.undelivered.v1" {
		t.Errorf("ce-type = %q", got)
	}
	got, err := events.Read(msg.Subject, msg.Header, msg.Data)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != want.ID() || got.By != want.By || got.Cause != want.Cause || got.Trace != want.Trace ||
		!got.Time.Equal(want.Time) || !got.Expires.Equal(want.Expires) || *got.Data.(*events.Undelivered) != *want.Data.(*events.Undelivered) {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

// structured is an event in structured mode.
func structured(t *testing.T, e *events.Event) []byte {
	t.Helper()
	ce, err := e.CloudEvent()
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(ce)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestStructuredMode(t *testing.T) {
	want := example(t)
	body := structured(t, want)
	header := nats.Header{"content-type": {"application/cloudevents+json; charset=utf-8"}}
	got, err := events.Read(want.Subject(), header, body)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != want.ID() || !got.Expires.Equal(want.Expires) || got.Cause != want.Cause {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

// Two readers may take a different one of two members with one name, so no such event is taken.
func TestStructuredModeRefuses(t *testing.T) {
	want := example(t)
	body := structured(t, want)
	header := nats.Header{"Content-Type": {"application/cloudevents+json"}}
	for name, change := range map[string]func(string) string{
		"attribute twice": func(s string) string { return strings.Replace(s, `{`, `{"source":"riskassessor",`, 1) },
		"in the data":     func(s string) string { return strings.Replace(s, `"factor"`, `"factor":"push","factor"`, 1) },
		"not UTF-8":       func(s string) string { return strings.Replace(s, `{`, "{\"x\":\"\xff\",", 1) },
	} {
		changed := change(string(body))
		if changed == string(body) {
			t.Fatalf("%s: nothing to change in %s", name, body)
		}
		if _, err := events.Read(want.Subject(), header, []byte(changed)); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Header values that are not plain ASCII are percent-encoded (HTTP binding 3.1.3.2), and any case of a name is read.
func TestHeaderEncoding(t *testing.T) {
	ce := cloudevents.New()
	ce.SetID("ö \"%\"")
	ce.SetSource("/a b")
	ce.SetType("t")
	ce.SetExtension("note", "関所")
	msg := events.WriteMessage("s", ce)
	if got := msg.Header["ce-id"][0]; got != "%C3%B6%20%22%25%22" {
		t.Errorf("ce-id = %q", got)
	}
	upper := nats.Header{}
	for name, values := range msg.Header {
		upper[strings.ToUpper(name)] = values
	}
	got, err := events.ReadMessage(upper, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != ce.ID() || got.Extensions()["note"] != "関所" {
		t.Errorf("read %v", got)
	}
}

// SDKs of other languages add a charset to the content type.
func TestContentTypeWithParameter(t *testing.T) {
	msg := message(t, example(t))
	msg.Header.Set("ce-datacontenttype", "application/json; charset=utf-8")
	if _, err := events.Read(msg.Subject, msg.Header, msg.Data); err != nil {
		t.Error(err)
	}
}

// What can not be an event of the login says what is wrong, and never repeats the data.
func TestReadRefuses(t *testing.T) {
	good := example(t)
	other, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	set := func(name, value string) func(*nats.Msg) {
		return func(m *nats.Msg) { m.Header[name] = []string{value} }
	}
	data := func(s string) func(*nats.Msg) { return func(m *nats.Msg) { m.Data = []byte(s) } }
	for name, c := range map[string]struct {
		change func(*nats.Msg)
		says   string
	}{
		"not a CloudEvent":       {func(m *nats.Msg) { m.Header = nil }, "not a CloudEvent"},
		"unknown specversion":    {set("ce-specversion", "0.3"), "specversion"},
		"no id":                  {set("ce-id", ""), "id"},
		"no source":              {set("ce-source", ""), "source"},
		"unknown type version":   {set("ce-type", "sekisho.login.undelivered.v2"), "type"},
		"another login's id":     {set("ce-id", other.EventID(events.StepUndelivered, 2)), "disagrees"},
		"another round's id":     {set("ce-id", good.Login.EventID(events.StepUndelivered, 3)), "disagrees"},
		"subject attribute":      {set("ce-subject", other.String()), "subject attribute"},
		"answer of the broker":   {set("Nats-Subject", other.Subject(events.StepUndelivered, 2)), "a copy of"},
		"another worker":         {set("ce-source", "riskassessor"), "may not publish"},
		"a gateway":              {set("ce-source", "gateway/web"), "may not publish"},
		"content type":           {set("ce-datacontenttype", "text/xml"), "datacontenttype"},
		"bad time":               {set("ce-time", "yesterday"), "time"},
		"bad expiry":             {set("ce-expirytime", "soon"), "expirytime"},
		"bad percent-encoding":   {set("ce-source", "%zz"), "percent"},
		"attribute in two cases": {func(m *nats.Msg) { m.Header["CE-Id"] = m.Header["ce-id"] }, "stands twice"},
		"attribute twice":        {func(m *nats.Msg) { m.Header["ce-id"] = append(m.Header["ce-id"], "x") }, "2 times"},
		"not JSON":               {data(`{"factor":`), "not JSON"},
		"not UTF-8":              {data("{\"factor\":\"\xff\"}"), "UTF-8"},
		"wrong type in data":     {data(`{"factor":7,"reason":"limited"}`), `field "factor"`},
		"name twice":             {data(`{"factor":"sms","reason":"down","factor":"push"}`), "twice"},
		"name twice, unknown":    {data(`{"factor":"sms","reason":"down","x":{"y":1,"y":2}}`), "twice"},
		"name in other case":     {data(`{"Factor":"sms","reason":"down"}`), "factor"},
		"more after the object":  {data(`{"factor":"sms","reason":"down"}{}`), "not JSON"},
		"unknown value":          {data(`{"factor":"fax","reason":"limited"}`), "factor"},
		"missing field":          {data(`{"factor":"sms"}`), "reason"},
		"too much data":          {data(`{"x":"` + strings.Repeat("a", events.MaxData) + `"}`), "at most"},
		"round beyond the last":  {func(m *nats.Msg) { m.Subject = strings.TrimSuffix(m.Subject, ".2") + ".7" }, "numbers up to"},
		"no round":               {func(m *nats.Msg) { m.Subject = strings.TrimSuffix(m.Subject, ".2") }, "numbers up to"},
		"leading zero":           {func(m *nats.Msg) { m.Subject = strings.TrimSuffix(m.Subject, ".2") + ".02" }, "not a round"},
		"unknown step":           {func(m *nats.Msg) { m.Subject = strings.Replace(m.Subject, "undelivered", "stamped", 1) }, "unknown step"},
		"other login's subject":  {func(m *nats.Msg) { m.Subject = other.Subject(events.StepUndelivered, 2) }, "disagrees"},
		"id in upper case": {func(m *nats.Msg) {
			m.Subject = good.Login.Subject(events.StepUndelivered, 2)
			m.Header["ce-id"] = []string{strings.ToUpper(good.ID())}
		}, "id"},
	} {
		t.Run(name, func(t *testing.T) {
			msg := message(t, good)
			c.change(msg)
			_, err := events.Read(msg.Subject, msg.Header, msg.Data)
			if !errors.Is(err, events.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want ErrInvalid that says %q", err, c.says)
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, change := range map[string]func(*events.Event){
		"number out of range":    func(e *events.Event) { e.N = events.Rounds + 1 },
		"number where none is":   func(e *events.Event) { e.Step, e.Data = events.StepCancelled, &events.Cancelled{} },
		"publisher not in table": func(e *events.Event) { e.By = "recorder" },
		"schema":                 func(e *events.Event) { e.Data = &events.Undelivered{Factor: "fax", Reason: "x"} },
		"line break in a text":   func(e *events.Event) { *e = *events.New(e.Login, 0, &events.Lapsed{Reason: "a\nb"}) },
		"data of another step":   func(e *events.Event) { e.Data = &events.Cancelled{} },
		"bad gateway name":       func(e *events.Event) { e.Login.Gateway = "a.b" },
		"push answered by a code": func(e *events.Event) {
			*e = *answeredWithoutNonce(e.Login)
			e.Nonce, e.Data.(*events.Answered).Factor = strings.Repeat("n", 16), events.Push
		},
		"code answered by a phone": func(e *events.Event) {
			*e = *answeredWithoutNonce(e.Login)
			answer := e.Data.(*events.Answered)
			e.Nonce, answer.Code, answer.Response = strings.Repeat("n", 16), nil, answer.Code
		},
		"answered twice over": func(e *events.Event) {
			*e = *answeredWithoutNonce(e.Login)
			answer := e.Data.(*events.Answered)
			e.Nonce, answer.Response = strings.Repeat("n", 16), answer.Code
		},
		"a code from elsewhere": func(e *events.Event) {
			*e = *answeredWithoutNonce(e.Login)
			e.Nonce, e.By = strings.Repeat("n", 16), "pushnotifier"
		},
		"answered without a nonce": func(e *events.Event) { *e = *answeredWithoutNonce(e.Login) },
	} {
		t.Run(name, func(t *testing.T) {
			e := example(t)
			change(e)
			if _, err := e.Message(); !errors.Is(err, events.ErrInvalid) {
				t.Errorf("error %v, want ErrInvalid", err)
			}
		})
	}
}

func answeredWithoutNonce(login events.Login) *events.Event {
	box := &events.Sealed{Key: "k", Enc: make([]byte, 32), Box: make([]byte, 40)}
	e := events.New(login, 1, &events.Answered{Round: 1, Factor: events.SMS, Code: box})
	e.By = "gateway/" + login.Gateway
	return e
}

func TestLoginTime(t *testing.T) {
	before := time.Now().Truncate(time.Millisecond)
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	if at := login.Time(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("time %v is not now", at)
	}
}

func TestLoginValidate(t *testing.T) {
	const id = "0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a"
	for s, ok := range map[string]bool{
		"web/" + id: true, "a-1/" + id: true,
		"/" + id: false, "Web/" + id: false, "a.b/" + id: false, strings.Repeat("a", 33) + "/" + id: false,
		"web/" + strings.ToUpper(id): false, "web/{" + id + "}": false, "web/" + strings.ReplaceAll(id, "-", ""): false,
		"web/0199a4c1-7d3e-4bbb-8a52-1f0e5d3c2b1a": false, "web": false, "web/": false,
	} {
		if _, err := events.ParseLogin(s); (err == nil) != ok {
			t.Errorf("ParseLogin(%q): %v", s, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("login.cancelled.web.0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a", "web/0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a/cancelled",
		"sekisho.login.cancelled.v1", "gateway/web", "1.0", "", []byte("{}"))
	f.Add("login.closed.web.x", "", "", "", "1.0", "application/cloudevents+json", []byte(`{"specversion":"1.0"}`))
	f.Fuzz(func(t *testing.T, subject, id, kind, source, version, contentType string, data []byte) {
		header := nats.Header{"ce-id": {id}, "ce-type": {kind}, "ce-source": {source}, "ce-specversion": {version}}
		if contentType != "" {
			header["Content-Type"] = []string{contentType}
		}
		e, err := events.Read(subject, header, data)
		if err != nil {
			if !errors.Is(err, events.ErrInvalid) {
				t.Fatalf("error %v does not wrap ErrInvalid", err)
			}
			return
		}
		if e.Subject() != subject {
			t.Fatalf("event %q from subject %q", e.Subject(), subject)
		}
		if _, err := e.Message(); err != nil {
			t.Fatalf("what was read can not be written: %v", err)
		}
	})
}
