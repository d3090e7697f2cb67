package bus_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

// What each user may publish, written down by hand so that the table of the package is held against something. A worker
// also has its own dead letters, its consumers' acks and pulls, and the public keys; see ownSubjects.
var mayPublish = map[string][]string{
	"identityverifier": {"login.identified.*.*", "login.refused.*.*", "login.lapsed.*.*"},
	"riskassessor":     {"login.assessed.*.*", "login.lapsed.*.*", "alert.*.*", "$JS.API.DIRECT.GET.LOGIN.login.assessed.>", "$JS.API.DIRECT.GET.LOGIN"},
	"sessionissuer": {"login.wanted.*.*.1-6", "login.closed.*.*", "login.lapsed.*.*", "timer.at.*.*", "session.revoked.*.*", "$JS.API.DIRECT.GET.LOGIN",
		"$JS.API.DIRECT.GET.LOGIN.login.requested.>", "$JS.API.DIRECT.GET.LOGIN.login.closed.>", "$JS.API.DIRECT.GET.LOGIN.login.wanted.>"},
	"smsdispatcher": {"login.challenged.*.*.1-6", "login.undelivered.*.*.1-6", "login.lapsed.*.*",
		"$JS.API.DIRECT.GET.LOGIN.login.challenged.>"},
	"pushnotifier": {"login.challenged.*.*.1-6", "login.undelivered.*.*.1-6", "login.answered.*.*.1-5", "login.rejected.*.*.1-5", "login.verified.*.*.1-6",
		"login.lapsed.*.*", "account.*.*", "alert.*.*", "session.revoked.*.*", "deliver.*.prompts.*", "$JS.API.DIRECT.GET.LOGIN",
		"$JS.API.DIRECT.GET.LOGIN.login.challenged.>", "$JS.API.DIRECT.GET.LOGIN.login.rejected.>", "$JS.API.DIRECT.GET.LOGIN.login.verified.>"},
	"otpvalidator": {"login.challenged.*.*.1-6", "login.verified.*.*.1-6", "login.rejected.*.*.1-5", "login.lapsed.*.*", "$JS.API.DIRECT.GET.LOGIN"},
	"recorder":     {"login.lapsed.*.*", "$JS.API.CONSUMER.RESET.ARCHIVE.recorder-archive", "$JS.API.CONSUMER.RESET.ACCOUNT.recorder-account"},
	"console":      {"account.*.*", "session.revoked.*.*"},
	"web":          gatewayMay("web"),
	"example":      gatewayMay("example"),
	"viewer":       {},
	"operator":     {"redo.>", "$JS.API.STREAM.MSG.DELETE.DEAD", "$JS.API.CONSUMER.PAUSE.*.*", "$JS.API.CONSUMER.RESET.*.*"},
}

var consumes = map[string][]string{
	"identityverifier": {"LOGIN.identityverifier-requested", "REDO.identityverifier-redo"},
	"riskassessor":     {"LOGIN.riskassessor-identified", "LOGIN.riskassessor-closed", "REDO.riskassessor-redo"},
	"sessionissuer": {"LOGIN.sessionissuer-assessed", "LOGIN.sessionissuer-refused", "LOGIN.sessionissuer-verified", "LOGIN.sessionissuer-rejected",
		"LOGIN.sessionissuer-undelivered", "LOGIN.sessionissuer-chosen", "LOGIN.sessionissuer-cancelled", "LOGIN.sessionissuer-lapsed",
		"TIMER.sessionissuer-timer", "SESSION.sessionissuer-session", "REDO.sessionissuer-redo"},
	"smsdispatcher": {"LOGIN.smsdispatcher-wanted", "ACCOUNT.smsdispatcher-account", "REDO.smsdispatcher-redo"},
	"pushnotifier":  {"LOGIN.pushnotifier-wanted", "LOGIN.pushnotifier-answered", "ACCOUNT.pushnotifier-account", "REDO.pushnotifier-redo"},
	"otpvalidator":  {"LOGIN.otpvalidator-wanted", "LOGIN.otpvalidator-answered", "REDO.otpvalidator-redo"},
	"recorder":      {"ARCHIVE.recorder-archive", "ACCOUNT.recorder-account"},
}

func gatewayMay(name string) []string {
	list := []string{"login.answered." + name + ".*.1-5", "login.chosen." + name + ".*.1-6", "session.revoked." + name + ".*", "device." + name,
		"$JS.API.DIRECT.GET.SESSION.session.revoked." + name + ".*"}
	for _, step := range []string{"requested", "cancelled", "lapsed"} {
		list = append(list, "login."+step+"."+name+".*")
	}
	for _, step := range []string{"requested", "answered", "chosen", "challenged", "undelivered", "rejected", "lapsed", "closed"} {
		list = append(list, "$JS.API.DIRECT.GET.LOGIN.login."+step+"."+name+".>")
	}
	return list
}

func ownSubjects(user string) []string {
	if user == "viewer" || user == "operator" {
		return []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.NAMES.*",
			"$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*", "$JS.API.DIRECT.GET.>", "$JS.API.STREAM.MSG.GET.*"}
	}
	list := []string{"$JS.API.DIRECT.GET.KEYS.keys.*"}
	if user != "web" && user != "example" {
		list = append(list, "dead."+user+".>")
	}
	for _, c := range consumes[user] {
		list = append(list, "$JS.API.CONSUMER.INFO."+c, "$JS.API.CONSUMER.MSG.NEXT."+c, "$JS.ACK."+c+".>")
		if step, ok := strings.CutPrefix(c, "LOGIN."+user+"-"); ok { // a redo reads its event
			list = append(list, "$JS.API.DIRECT.GET.LOGIN.login."+step+".>")
		}
	}
	return list
}

var streams = []string{"LOGIN", "TIMER", "ARCHIVE", "ACCOUNT", "SESSION", "KEYS", "DEAD", "REDO"}

// everything lists a subject for all that anybody could want to publish: the worker's steps in and out of range, the
// other streams, acks and pulls of all consumers, and the whole management API.
func everything() []string {
	const id = "0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a"
	var list []string
	for step := range events.Steps {
		for _, gateway := range []string{"web", "example"} {
			base := "login." + string(step) + "." + gateway + "." + id
			list = append(list, base, "$JS.API.DIRECT.GET.LOGIN."+base, "$JS.API.DIRECT.GET.LOGIN."+base+".1")
			for n := range 8 {
				list = append(list, fmt.Sprintf("%s.%d", base, n))
			}
		}
	}
	for user := range mayPublish {
		list = append(list, "dead."+user+".login.wanted.web."+id+".1", "redo."+user+".wanted.web."+id+".1", "keys."+user,
			"account.locked."+user, "alert.x."+user, "deliver."+user+".closed", "$JS.API.DIRECT.GET.KEYS.keys."+user)
		for _, c := range consumes[user] {
			list = append(list, "$JS.ACK."+c+".1.1.1.1.0", "$JS.API.CONSUMER.MSG.NEXT."+c, "$JS.API.CONSUMER.INFO."+c,
				"$JS.API.CONSUMER.DELETE."+c, "$JS.API.CONSUMER.PAUSE."+c, "$JS.API.CONSUMER.RESET."+c, "$JS.API.CONSUMER.DURABLE.CREATE."+c,
				"$JS.API.CONSUMER.CREATE."+c, "$JS.API.CONSUMER.CREATE."+c+".login.x")
		}
	}
	for _, gateway := range []string{"web", "example"} {
		list = append(list, "device."+gateway, "device."+gateway+".x", "deliver."+gateway+".prompts.x", "deliver."+gateway+".prompts.x.y")
		list = append(list, "session.revoked."+gateway+"."+id, "$JS.API.DIRECT.GET.SESSION.session.revoked."+gateway+"."+id, "timer.at."+gateway+"."+id, "timer.due."+gateway+"."+id)
	}
	for _, s := range streams {
		list = append(list, "archive.closed", "$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".x", "$JS.API.STREAM.MSG.GET."+s,
			"$JS.API.CONSUMER.CREATE."+s+".mine", "$JS.API.CONSUMER.DELETE."+s+".mine", "$JS.API.CONSUMER.CREATE."+s, "$JS.API.CONSUMER.NAMES."+s, "$JS.API.CONSUMER.LIST."+s)
		for _, verb := range []string{"CREATE", "UPDATE", "DELETE", "PURGE", "MSG.DELETE", "SNAPSHOT", "RESTORE", "INFO", "LEADER.STEPDOWN", "PEER.REMOVE"} {
			list = append(list, "$JS.API.STREAM."+verb+"."+s)
		}
	}
	list = append(list, "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.SERVER.REMOVE",
		"$JS.API.ACCOUNT.PURGE.$G", "$SYS.REQ.SERVER.PING", "$JS.EVENT.ADVISORY.x", "_INBOX_web.x", "anything")
	return list
}

// matches holds a subject against a pattern with * and >, where a last token such as 1-6 stands for these numbers.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) {
			return false
		}
		if lo, hi, ok := strings.Cut(token, "-"); ok && len(token) == 3 && i == len(p)-1 {
			if len(s[i]) != 1 || s[i] < lo || s[i] > hi {
				return false
			}
		} else if token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// Each user × each subject: what the table does not give is refused by the broker.
func TestPublishPermissions(t *testing.T) {
	for user := range mayPublish {
		t.Run(user, func(t *testing.T) {
			t.Parallel()
			broker := testenv.NATS(t)
			allowed := slices.Concat(mayPublish[user], ownSubjects(user))
			refused := refusals(t, broker, user, "Publish", everything(), func(nc *nats.Conn, subject string) error {
				return nc.Publish(subject, nil)
			})
			for _, subject := range everything() {
				want := slices.ContainsFunc(allowed, func(p string) bool { return matches(p, subject) })
				if got := !refused[subject]; got != want {
					t.Errorf("may publish %s: %v, want %v", subject, got, want)
				}
			}
		})
	}
}

// Each user hears its own inbox, and a gateway what is delivered to it. Nobody hears LOGIN plainly, where refused publishes show.
func TestSubscribePermissions(t *testing.T) {
	broker := testenv.NATS(t)
	subjects := []string{">", "*", "login.>", "login.requested.>", "login.requested.web.>", "archive.>", "timer.>", "account.>", "alert.>", "session.>",
		"keys.>", "dead.>", "device.>", "device.*", "device.web", "redo.>", "deliver.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$SYS.>", "_INBOX.>", "$KV.>"}
	for user := range mayPublish {
		subjects = append(subjects, "deliver."+user+".>", "deliver."+user+".closed", "deliver."+user+".closed.x", "deliver."+user+".prompts.x",
			"deliver."+user+".identified.>", "deliver."+user+".refused.x", "deliver."+user+".wanted.x.1", "_INBOX_"+user+".>", "_INBOX_"+user+".a.b")
	}
	for user := range mayPublish {
		t.Run(user, func(t *testing.T) {
			refused := refusals(t, broker, user, "Subscription", subjects, func(nc *nats.Conn, subject string) error {
				_, err := nc.SubscribeSync(subject)
				return err
			})
			for _, subject := range subjects {
				want := strings.HasPrefix(subject, "_INBOX_"+user+".")
				if user == "pushnotifier" { // the broker takes the > of device.> for a token that * fits; gateways have no longer subjects
					want = want || strings.HasPrefix(subject, "device.")
				}
				if user == "web" || user == "example" {
					want = want || subject == "deliver."+user+".>" || subject == "deliver."+user+".closed" || subject == "deliver."+user+".closed.x" || subject == "deliver."+user+".prompts.x"
				}
				if got := !refused[subject]; got != want {
					t.Errorf("may subscribe to %s: %v, want %v", subject, got, want)
				}
			}
		})
	}
}

// LOGIN says every stored step again under deliver.<gateway>.<step>. A gateway hears those that are for it, with one
// wildcard subscription too, and never another gateway's or what only workers may know; nor what was refused.
func TestWhatGatewaysHear(t *testing.T) {
	broker := testenv.NATS(t)
	hear := func(gateway string) *nats.Subscription {
		nc := broker.Dial(t, gateway)
		sub, err := nc.SubscribeSync("deliver." + gateway + ".>")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		return sub
	}
	web, example := hear("web"), hear("example")
	refused := &events.Refused{Reason: "unknown_user"}
	login := cancelled(t, "web").Login
	secret := events.New(login, 0, refused)
	secret.By, secret.Time = "identityverifier", time.Now()
	broker.Publish(t, secret)
	told := events.New(login, 1, &events.Rejected{Round: 1, Factor: events.SMS, Reason: events.RejectedWrong})
	told.By, told.Time = "otpvalidator", time.Now()
	broker.Publish(t, told)
	again, err := told.Message()
	if err != nil {
		t.Fatal(err)
	}
	if reply, err := broker.Dial(t, bus.UserSetup).RequestMsg(again, 5*time.Second); err != nil || !strings.Contains(string(reply.Data), "10077") {
		t.Fatalf("a second one was taken: %v", err)
	}
	other := events.New(cancelled(t, "example").Login, 1, told.Data)
	other.By, other.Time = told.By, told.Time
	broker.Publish(t, other)

	for sub, want := range map[*nats.Subscription]*events.Event{web: told, example: other} {
		msg, err := sub.NextMsg(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got, err := events.Read(want.Subject(), msg.Header, msg.Data)
		if err != nil || got.ID() != want.ID() || msg.Subject != "deliver."+want.Login.Gateway+".rejected."+want.Login.ID+".1" {
			t.Errorf("heard %s on %s, %v", got.ID(), msg.Subject, err)
		}
	}
	// Everything before has been said by now, in order.
	if n, _, err := web.Pending(); err != nil || n != 0 {
		t.Errorf("heard %d messages more, %v", n, err)
	}
}

// refusals tries each subject as a user and returns those that the broker refused.
func refusals(t *testing.T, broker *testenv.Broker, user, verb string, subjects []string, try func(*nats.Conn, string) error) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	refused := make(map[string]bool)
	nc := broker.Dial(t, user, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		if _, rest, ok := strings.Cut(err.Error(), "Permissions Violation for "+verb+" to \""); ok {
			mu.Lock()
			defer mu.Unlock()
			subject, _, _ := strings.Cut(rest, `"`)
			refused[subject] = true
		}
	}))
	for _, subject := range subjects {
		if err := try(nc, subject); err != nil {
			t.Fatal(err)
		}
		// One at a time, so that the error handler's queue never overflows.
		if err := nc.FlushTimeout(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	// The error handler runs on the connection's own queue: a callback that is queued last has seen all of them.
	closed := make(chan struct{})
	nc.SetClosedHandler(func(*nats.Conn) { close(closed) })
	nc.Close()
	<-closed
	mu.Lock()
	defer mu.Unlock()
	return refused
}

// Headers are not covered by permissions: what a publisher could do with them must be impossible for the stream.
func TestHeadersGiveNoPower(t *testing.T) {
	broker := testenv.NATS(t)
	web, example := broker.Dial(t, "web"), broker.Dial(t, "example")
	victim := cancelled(t, "web")
	broker.Publish(t, victim)
	for name, value := range map[string]string{
		"Nats-Rollup": "all", "Nats-TTL": "1s", "Nats-Schedule": "@at 2030-01-01T00:00:00Z", "Nats-Incr": "1", "Nats-Batch-Id": "b",
		"Nats-Expected-Last-Sequence": "999", "Nats-Stream-Source": "x",
	} {
		msg, err := cancelled(t, "example").Message()
		if err != nil {
			t.Fatal(err)
		}
		msg.Header.Set(name, value)
		if reply, err := example.RequestMsg(msg, 5*time.Second); err == nil && !strings.Contains(string(reply.Data), `"error"`) {
			t.Errorf("header %s: the stream took it: %s", name, reply.Data)
		}
	}
	// A message id is stream-wide. Nobody sets one, so nobody can suppress another's event by guessing it.
	squat, err := cancelled(t, "example").Message()
	if err != nil {
		t.Fatal(err)
	}
	next := cancelled(t, "web")
	squat.Header.Set("Nats-Msg-Id", next.ID())
	if _, err := example.RequestMsg(squat, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	msg, err := next.Message()
	if err != nil {
		t.Fatal(err)
	}
	if msg.Header.Get("Nats-Msg-Id") != "" {
		t.Error("events carry a message id")
	}
	if reply, err := web.RequestMsg(msg, 5*time.Second); err != nil || strings.Contains(string(reply.Data), "duplicate") {
		t.Errorf("the event was suppressed: %v", err)
	}
	broker.Await(t, victim.Login, victim.Step, 0)
	broker.Await(t, next.Login, next.Step, 0)
}

// A broker appends what it says of a message's place to what the publisher wrote there: only the last value is its own.
func TestPublishersDoNotSayWhereAMessageStands(t *testing.T) {
	broker := testenv.NATS(t)
	web, reader := broker.Dial(t, "web"), broker.Bus(t, "sessionissuer")
	for name, forged := range map[string]nats.Header{
		"sequence": {"Nats-Sequence": {"x"}},
		"time":     {"Nats-Time-Stamp": {"2001-01-01T00:00:00Z"}},
		"end":      {"Status": {"204"}, "Nats-UpTo-Sequence": {"1"}},
		"absent":   {"Status": {"404"}, "Nats-Stream": {""}},
	} {
		e := cancelled(t, "web")
		msg, err := e.Message()
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(msg.Header, forged)
		if reply, err := web.RequestMsg(msg, 5*time.Second); err != nil || strings.Contains(string(reply.Data), `"error"`) {
			t.Fatalf("%s: %v", name, err)
		}
		lapse := events.New(e.Login, 0, &events.Lapsed{})
		lapse.By, lapse.Time = "gateway/web", time.Now()
		broker.Publish(t, lapse)
		history, err := reader.Login(t.Context(), e.Login)
		if err != nil || len(history) != 2 {
			t.Errorf("%s: history %v, %v", name, history, err)
			continue
		}
		one, err := broker.Bus(t, bus.UserViewer).Event(t.Context(), e.Login, events.StepCancelled, 0)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, read := range []*events.Event{history[0], one} {
			if read.Sequence == 0 || read.Sequence >= history[1].Sequence || time.Since(read.Stored).Abs() > time.Minute {
				t.Errorf("%s: at %d of %s", name, read.Sequence, read.Stored)
			}
		}
	}
}

// Not even the one who provisions can delete or purge logins by mistake.
func TestLoginIsImmutable(t *testing.T) {
	broker := testenv.NATS(t)
	js, err := jetstream.New(broker.Dial(t, bus.UserSetup))
	if err != nil {
		t.Fatal(err)
	}
	broker.Publish(t, cancelled(t, "web"))
	stream, err := js.Stream(t.Context(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 1); err == nil {
		t.Error("a message of LOGIN was deleted")
	}
	if err := stream.Purge(t.Context()); err == nil {
		t.Error("LOGIN was purged")
	}
}

// Workers share an account with the streams, so one of them could still have the broker publish another's event. What the broker copies is
// no event to those who read it.
func TestCopiesOfTheBrokerAreNoEvents(t *testing.T) {
	broker := testenv.NATS(t)
	login, err := events.NewLogin("web")
	if err != nil {
		t.Fatal(err)
	}
	forged := events.New(login, 1, &events.Verified{Factor: events.SMS, Authenticator: "sms:u1"})
	forged.By, forged.Time = "otpvalidator", time.Now()
	msg, err := forged.Message()
	if err != nil {
		t.Fatal(err)
	}
	verified := msg.Subject
	sms := broker.Dial(t, "smsdispatcher")
	msg.Subject = login.Subject(events.StepChallenged, 1) // what smsdispatcher may publish
	if _, err := sms.RequestMsg(msg, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	get := "$JS.API.DIRECT.GET.LOGIN." + msg.Subject
	if err := sms.PublishRequest(get, verified, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := sms.Request(get, nil, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Bus(t, bus.UserViewer).Event(t.Context(), login, events.StepVerified, 1); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("the forged event is read with %v", err)
	}
}

func cancelled(t *testing.T, gateway string) *events.Event {
	t.Helper()
	login, err := events.NewLogin(gateway)
	if err != nil {
		t.Fatal(err)
	}
	e := events.New(login, 0, &events.Cancelled{})
	e.By, e.Time = "gateway/"+gateway, time.Now()
	return e
}

// The broker does not check where an answer is to go. What a gateway or a tool asks for is answered to the one who asks, and can become
// nobody's event, key or call of the management API, also if the request says so.
func TestAnswersGoNowhereElse(t *testing.T) {
	broker := testenv.NATS(t)
	example, admin := broker.Dial(t, "example"), broker.Dial(t, bus.UserSetup)
	const own, victim = "0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1a", "0199a4c1-7d3e-7bbb-8a52-1f0e5d3c2b1b"
	stored := "login.requested.example." + own
	ask := func(nc *nats.Conn, subject string, data string) *nats.Msg {
		t.Helper()
		reply, err := nc.Request(subject, []byte(data), 10*time.Second)
		if err != nil {
			t.Fatal(subject, err)
		}
		return reply
	}
	ask(example, stored, `{"stream_name":"LOGIN","config":{"deliver_subject":"_INBOX_example.spy","ack_policy":"none"}}`)
	replies := []string{"login.verified.web." + victim + ".1", "login.lapsed.example." + victim, "keys.identityverifier", "timer.due.web." + victim,
		"account.locked.u1", "$JS.API.STREAM.DELETE.REDO", "$JS.API.STREAM.PURGE.DEAD", "$JS.API.CONSUMER.CREATE.LOGIN"}
	get := "$JS.API.DIRECT.GET.LOGIN." + stored
	reads := []string{get, "$JS.API.STREAM.INFO.LOGIN", "$JS.API.CONSUMER.NAMES.LOGIN"}
	for user, requests := range map[string][]string{
		"example": {stored, "login.cancelled.example." + own, "session.revoked.example." + own, "device.example",
			get, "$JS.API.DIRECT.GET.LOGIN.login.closed.example." + own, "$JS.API.DIRECT.GET.KEYS.keys.identityverifier"},
		bus.UserViewer: reads, bus.UserOperator: reads,
	} {
		nc := broker.Dial(t, user)
		for _, reply := range replies {
			for _, request := range requests {
				if err := nc.PublishRequest(request, reply, nil); err != nil {
					t.Fatal(err)
				}
			}
			batch := fmt.Sprintf(`{"multi_last":[%q]}`, stored)
			if err := nc.PublishRequest("$JS.API.DIRECT.GET.LOGIN", reply, []byte(batch)); err != nil {
				t.Fatal(err)
			}
		}
		ask(nc, get, "") // all before it has been answered, wherever to
	}
	js, err := jetstream.New(admin)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint64{"LOGIN": 2, "KEYS": 4, "TIMER": 0, "ACCOUNT": 0, "REDO": 0, "SESSION": 1} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := stream.CachedInfo().State.Msgs; got != want {
			t.Errorf("%s has %d messages, want %d: what the gateway may say itself", name, got, want)
		}
	}
	login, err := js.Stream(t.Context(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	for consumer := range login.ListConsumers(t.Context()).Info() {
		if to := consumer.Config.DeliverSubject; to != "" {
			t.Errorf("a consumer delivers to %s", to)
		}
	}
}
