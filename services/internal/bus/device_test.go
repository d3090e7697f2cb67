package bus_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func client(t *testing.T, broker *testenv.Broker, o events.Options) *events.Client {
	t.Helper()
	c, err := events.NewClient(t.Context(), broker.Dial(t, o.Gateway), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serveDevices answers as pushnotifier until the test ends, and hands over what it and the broker have seen of each request.
func serveDevices(t *testing.T, broker *testenv.Broker, handle func(gateway string, r events.DeviceRequest) events.DeviceResponse) *nats.Conn {
	t.Helper()
	nc, opener := broker.Dial(t, "pushnotifier"), broker.Opener(t, "pushnotifier")
	_, err := nc.QueueSubscribe(events.DeviceSubject("*"), "pushnotifier", func(msg *nats.Msg) {
		reply, err := events.ServeDevice(opener, msg.Subject, msg.Data, handle)
		if err != nil {
			t.Errorf("serve: %v", err)
			return
		}
		if err := msg.Respond(reply); err != nil {
			t.Errorf("respond: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return nc
}

// A request about devices goes from a gateway to pushnotifier and back, and who listens to all of the bus learns nothing.
func TestDeviceRequest(t *testing.T) {
	broker := testenv.NATS(t)
	want := events.DeviceRequest{Method: "POST", Path: "/v1/authenticator/devices", Body: []byte("canary body"), Proof: "canary proof",
		Session: "canary session", Base: "https://canary.example"}
	answer := events.DeviceResponse{Status: 429, Type: "application/problem+json", Body: []byte("canary answer"), RetryAfter: 7}
	serveDevices(t, broker, func(gateway string, r events.DeviceRequest) events.DeviceResponse {
		if gateway != "web" || r.Method != want.Method || r.Path != want.Path || string(r.Body) != string(want.Body) || r.Proof != want.Proof ||
			r.Session != want.Session || r.Base != want.Base {
			t.Errorf("pushnotifier got %+v of %s", r, gateway)
		}
		return answer
	})
	listening := broker.Dial(t, "setup")
	spy, err := listening.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	flush := func() {
		t.Helper()
		if err := listening.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	flush()
	got, err := client(t, broker, events.Options{Gateway: "web"}).Device(t.Context(), want)
	if err != nil || got.Status != answer.Status || got.Type != answer.Type || string(got.Body) != string(answer.Body) || got.RetryAfter != answer.RetryAfter {
		t.Errorf("the gateway got %+v, %v", got, err)
	}
	flush() // all that was on the bus until now has come
	seen := 0
	for {
		if waiting, _, err := spy.Pending(); err != nil || waiting == 0 {
			break
		}
		msg, err := spy.NextMsg(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(msg.Data), "canary") {
			t.Errorf("%s tells what is personal", msg.Subject)
		}
		if msg.Subject == "device.web" {
			seen++
		}
	}
	if seen != 1 {
		t.Errorf("%d requests were on the bus", seen)
	}
}

func TestDeviceRequestWithoutAnswer(t *testing.T) {
	broker := testenv.NATS(t)
	web := client(t, broker, events.Options{Gateway: "web", Patience: time.Second})
	if _, err := web.Device(t.Context(), events.DeviceRequest{}); !errors.Is(err, events.ErrNoAnswer) {
		t.Errorf("nobody is there: %v", err)
	}
	silent := broker.Dial(t, "pushnotifier")
	if _, err := silent.SubscribeSync("device.*"); err != nil {
		t.Fatal(err)
	}
	if err := silent.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := web.Device(t.Context(), events.DeviceRequest{}); !errors.Is(err, events.ErrNoAnswer) {
		t.Errorf("nobody answers: %v", err)
	}
}

// What is not sealed for its own place is not handled.
func TestServeDeviceRefuses(t *testing.T) {
	broker := testenv.NATS(t)
	var sealed []byte
	spy, err := broker.Dial(t, "setup").SubscribeSync("device.web")
	if err != nil {
		t.Fatal(err)
	}
	serveDevices(t, broker, func(string, events.DeviceRequest) events.DeviceResponse { return events.DeviceResponse{Status: 200} })
	if _, err := client(t, broker, events.Options{Gateway: "web"}).Device(t.Context(), events.DeviceRequest{}); err != nil {
		t.Fatal(err)
	}
	msg, err := spy.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	sealed = msg.Data
	for name, tt := range map[string]struct {
		subject string
		data    []byte
	}{
		"as another gateway's": {"device.example", sealed},
		"another subject":      {"login.requested.web", sealed},
		"no gateway":           {"device.", sealed},
		"two tokens":           {"device.web.x", sealed},
		"not JSON":             {"device.web", []byte("x")},
		"not sealed":           {"device.web", []byte(`{"method":"GET"}`)},
		"changed":              {"device.web", slices.Concat(sealed[:len(sealed)-12], []byte("AAAA"), sealed[len(sealed)-8:])},
	} {
		_, err := events.ServeDevice(broker.Opener(t, "pushnotifier"), tt.subject, tt.data, func(string, events.DeviceRequest) events.DeviceResponse {
			t.Errorf("%s: handled", name)
			return events.DeviceResponse{}
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// pushnotifier answers who asked, once, and can not write into anybody's inbox otherwise.
func TestDeviceAnswerPermissions(t *testing.T) {
	broker := testenv.NATS(t)
	web := broker.Dial(t, "web")
	inbox := web.NewRespInbox()
	replies, err := web.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	nc := broker.Dial(t, "pushnotifier")
	asked, err := nc.SubscribeSync("device.*")
	if err != nil {
		t.Fatal(err)
	}
	flush := func() {
		t.Helper()
		for _, c := range []*nats.Conn{nc, web} {
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	flush()
	publish := func(to, data string) {
		t.Helper()
		if err := nc.Publish(to, []byte(data)); err != nil {
			t.Fatal(err)
		}
		flush()
	}
	publish(inbox, "unasked")
	if err := web.PublishRequest("device.web", inbox, nil); err != nil {
		t.Fatal(err)
	}
	request, err := asked.NextMsg(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	publish(inbox, "at will")
	publish(request.Reply, "first")
	publish(request.Reply, "second")
	var got []string
	for n, _, _ := replies.Pending(); n > 0; n-- {
		msg, err := replies.NextMsg(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(msg.Data))
	}
	if !slices.Equal(got, []string{"first"}) {
		t.Errorf("the gateway got %q, want the first answer alone", got)
	}
}

// A hint reaches every client of the gateway, and no other gateway.
func TestPrompted(t *testing.T) {
	broker := testenv.NATS(t)
	prompted := make(chan string, 10)
	for _, gateway := range []string{"web", "web", "example"} {
		client(t, broker, events.Options{Gateway: gateway, Prompted: func(device string) { prompted <- gateway + " " + device }})
	}
	nc := broker.Dial(t, "pushnotifier")
	for _, subject := range []string{events.HintSubject("web", "phone"), events.HintSubject("example", "tablet")} {
		if err := nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for range 3 {
		select {
		case p := <-prompted:
			got = append(got, p)
		case <-time.After(10 * time.Second):
			t.Fatalf("only %q", got)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"example tablet", "web phone", "web phone"}) {
		t.Errorf("prompted: %q", got)
	}
}

// What a gateway can do about a push: hand on what the browser brought back from a provider that hosts the approval, and
// leave it for another factor.
func TestRespond(t *testing.T) {
	broker := testenv.NATS(t)
	web := client(t, broker, events.Options{Gateway: "web", Reread: time.Nanosecond}) // reads the stream each time
	ctx := t.Context()
	login, err := web.Request(ctx, events.Request{App: "demo", Method: events.None, User: "alice",
		Prompt: &events.Prompt{Number: "482913", Place: "Tokyo", Browser: "Firefox"}})
	if err != nil {
		t.Fatal(err)
	}
	requested := broker.Await(t, login, events.StepRequested, 0)
	var prompt events.Prompt
	if err := broker.Opener(t, "pushnotifier").Open(requested.Data.(*events.Requested).Prompt, requested.Subject(), "prompt", &prompt); err != nil ||
		prompt != (events.Prompt{Number: "482913", Place: "Tokyo", Browser: "Firefox"}) {
		t.Errorf("prompt %+v, %v", prompt, err)
	}
	say := func(n int, data events.Data) {
		t.Helper()
		e := events.New(login, n, data)
		e.By, e.Time = "pushnotifier", time.Now()
		broker.Publish(t, e)
	}
	challenge := func(url string) *events.Challenged {
		return &events.Challenged{Factor: events.Push, Expires: time.Now().Add(time.Minute), URL: url, Choices: []events.Factor{events.Push, events.SMS}}
	}
	parameters := map[string]string{"token": "t1", "state": "s1"}

	if _, err := web.Respond(ctx, login, parameters); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("before the challenge: %v", err)
	}
	say(1, challenge(""))
	if _, err := web.Respond(ctx, login, parameters); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("to a challenge on a phone of ours: %v", err)
	}
	if _, err := web.Answer(ctx, login, "482913"); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("a code for a push: %v", err)
	}
	say(2, challenge("https://mamoru.example/approve"))
	attempt, err := web.Respond(ctx, login, parameters)
	if err != nil || attempt != 1 {
		t.Fatalf("attempt %d, %v", attempt, err)
	}
	answered := broker.Await(t, login, events.StepAnswered, 1)
	var response events.Response
	data := answered.Data.(*events.Answered)
	if err := broker.Opener(t, "pushnotifier").Open(data.Response, answered.Subject(), "response", &response); err != nil ||
		!maps.Equal(response.Parameters, parameters) || response.Assertion != "" || data.Round != 2 || data.Factor != events.Push {
		t.Errorf("answered %+v with %+v, %v", data, response, err)
	}

	say(1, &events.Rejected{Round: 2, Factor: events.Push, Reason: events.RejectedExhausted, AttemptsLeft: 4})
	if _, err := web.Respond(ctx, login, parameters); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("to an exhausted push: %v", err)
	}
	if _, err := web.Choose(ctx, login, events.Push); !errors.Is(err, events.ErrNotAsked) {
		t.Errorf("an exhausted push once more: %v", err)
	}
	if left, err := web.Choose(ctx, login, events.SMS); err != nil || left != 2 {
		t.Errorf("left round %d, %v", left, err)
	}
}
