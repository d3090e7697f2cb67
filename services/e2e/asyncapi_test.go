package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/document"
)

// A channel is one of schemas/asyncapi.yaml.
type channel struct {
	name, stream string
	subjects     []string // its address as NATS subjects: numbers are written out, anything else is a wildcard
	numbers      int      // the highest round or attempt
	senders      []string
	receivers    []string
	messages     []busMessage
}

type busMessage struct {
	name    string               // its CloudEvents type
	event   bool                 // it is a CloudEvent
	headers []*jsonschema.Schema // each of them holds
	payload *jsonschema.Schema   // nil: there is none, or it is not known
}

// A wire is schemas/asyncapi.yaml, to be held against what is on the bus.
type wire struct {
	channels []channel
	met      map[string]bool // by name
}

func newWire(t *testing.T) *wire {
	t.Helper()
	doc := describe(t, "asyncapi.yaml")
	w := &wire{met: make(map[string]bool)}
	for name, n := range doc.Get("channels").Each() {
		c := channel{name: name, stream: n.Get("x-stream").Text()}
		c.subjects, c.numbers = subjectsOf(n)
		for operation := range doc.Get("operations").Each() {
			if who, ok := strings.CutSuffix(operation, "-sends-"+name); ok {
				c.senders = append(c.senders, who)
			}
			if who, ok := strings.CutSuffix(operation, "-receives-"+name); ok {
				c.receivers = append(c.receivers, who)
			}
		}
		for _, m := range n.Get("messages").Each() {
			c.messages = append(c.messages, readMessage(doc, m))
		}
		w.channels = append(w.channels, c)
	}
	for name, operation := range doc.Get("operations").Each() {
		action := map[string]string{"send": "-sends-", "receive": "-receives-"}[operation.Get("action").Text()]
		if channel := operation.Get("channel").Target().At; !strings.HasSuffix(name, action+strings.TrimPrefix(channel, "/channels/")) {
			t.Errorf("operation %s is about %s", name, channel)
		}
	}
	return w
}

// subjectsOf writes the address of a channel as NATS subjects.
func subjectsOf(channel document.Node) (subjects []string, numbers int) {
	subjects = []string{channel.Get("address").Text()}
	for name, p := range channel.Get("parameters").Each() {
		values := []string{"*"}
		if given := p.Get("enum").Texts(); name == "round" || name == "attempt" {
			values, numbers = given, len(given)
		} else if p.Get("x-tokens").Text() == "any" {
			values = []string{">"}
		}
		var all []string
		for _, subject := range subjects {
			for _, value := range values {
				all = append(all, strings.Replace(subject, "{"+name+"}", value, 1))
			}
		}
		subjects = all
	}
	return subjects, numbers
}

func readMessage(doc *described, n document.Node) busMessage {
	m := busMessage{name: n.Get("name").Text(), payload: doc.schema(n.Get("payload"))}
	if own := n.Get("payload", "schemaFormat"); own.There() {
		m.payload = doc.schema(n.Get("payload", "schema"))
	}
	for _, trait := range n.Get("traits").Each() {
		m.event = true
		m.headers = append(m.headers, doc.schema(trait.Get("headers")))
	}
	if own := n.Get("headers"); own.There() {
		m.headers = append(m.headers, doc.schema(own))
	}
	return m
}

// matches reports whether some subject fits both patterns.
func matches(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(as), len(bs)) {
		switch {
		case i >= len(as) || i >= len(bs):
			return false
		case as[i] == ">" || bs[i] == ">":
			return true
		case as[i] != bs[i] && as[i] != "*" && bs[i] != "*":
			return false
		}
	}
	return true
}

func anyMatches(patterns []string, subject string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(p, subject) })
}

// check says how a message is not what the document says. stream is where it is stored, empty for what was delivered.
func (w *wire) check(stream, subject string, header nats.Header, data []byte) error {
	var found []channel
	for _, c := range w.channels {
		if c.stream == stream && anyMatches(c.subjects, subject) {
			found = append(found, c)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("it is on %d channels", len(found))
	}
	c := found[0]
	w.met[c.name] = true
	if !c.messages[0].event {
		return c.messages[0].check(header, data)
	}
	ce, err := events.ReadMessage(header, data)
	if err != nil {
		return err
	}
	sender, gateway, _ := strings.Cut(ce.Source(), "/")
	if len(c.senders) > 0 && !slices.Contains(c.senders, sender) {
		return fmt.Errorf("it is sent by %q, and not by one of %v", sender, c.senders)
	}
	if stream == "LOGIN" && gateway != "" && gateway != strings.Split(subject, ".")[2] {
		return fmt.Errorf("it is sent by gateway %q", gateway)
	}
	i := slices.IndexFunc(c.messages, func(m busMessage) bool { return m.name == ce.Type() })
	if i < 0 {
		return fmt.Errorf("%s is no message of %s", ce.Type(), c.name)
	}
	return c.messages[i].check(events.WriteMessage(subject, ce).Header, ce.Data()) // in binary mode, whatever it came in
}

func (m busMessage) check(header nats.Header, data []byte) error {
	headers := make(map[string]any)
	for name, values := range header {
		headers[name] = values[0]
	}
	var err error
	for _, schema := range m.headers {
		err = errors.Join(err, schema.Validate(headers))
	}
	switch {
	case m.payload != nil:
		err = errors.Join(err, fitsJSON(m.payload, data))
	case m.event && len(data) > 0:
		err = errors.Join(err, errors.New("it has data"))
	}
	return err
}

// dial connects one of the system's NATS users until the test ends.
func (s *system) dial(user string) *nats.Conn {
	s.t.Helper()
	nc, err := bus.Dial("nats://"+s.NATS, user, []byte(s.secret(filepath.Join("credentials", user+".nk"))), zerolog.Nop())
	must(s.t, err)
	s.t.Cleanup(nc.Close)
	return nc
}

// whole reads all of a stream.
func (s *system) whole(js jetstream.JetStream, stream string) (all []*jetstream.RawStreamMsg) {
	s.t.Helper()
	const batch = 500
	for next := uint64(1); ; {
		messages, err := jetstreamext.GetBatch(s.t.Context(), js, stream, batch, jetstreamext.GetBatchSeq(next))
		must(s.t, err)
		before := len(all)
		for msg, err := range messages {
			if errors.Is(err, jetstreamext.ErrNoMessages) {
				break
			}
			must(s.t, err)
			all, next = append(all, msg), msg.Sequence+1
		}
		if len(all) < before+batch {
			return all
		}
	}
}

// checkBus holds everything that streams have stored against the document.
func (s *system) checkBus() *wire {
	s.t.Helper()
	w := newWire(s.t)
	js, err := jetstream.New(s.dial(bus.UserViewer))
	must(s.t, err)
	for _, stream := range bus.Streams(1) {
		for _, msg := range s.whole(js, stream.Name) {
			if err := w.check(stream.Name, msg.Subject, msg.Header, msg.Data); err != nil {
				s.t.Errorf("%s in %s is not as schemas/asyncapi.yaml says: %v", msg.Subject, stream.Name, err)
			}
		}
	}
	return w
}

// One system on which everything happens that can be on the bus, taken part in by an outside gateway.
func TestAsyncAPI(t *testing.T) {
	s := start(t, cheap+"code: {resend_after: 0s}\n")
	ctx, gateway := t.Context(), "example"

	// What the gateway hears is noted until the end.
	type heard struct {
		subject string
		header  nats.Header
		data    []byte
	}
	var mu sync.Mutex
	var delivered []heard
	nc := s.dial(gateway)
	_, err := nc.Subscribe("deliver."+gateway+".>", func(msg *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		delivered = append(delivered, heard{msg.Subject, msg.Header, msg.Data})
	})
	must(t, err)
	// What gateways ask of pushnotifier is in no stream.
	_, err = s.dial(bus.UserSetup).Subscribe("device.>", func(msg *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		delivered = append(delivered, heard{msg.Subject, msg.Header, msg.Data})
	})
	must(t, err)
	client, err := events.NewClient(ctx, nc, events.Options{Gateway: gateway, ResendAfter: time.Millisecond})
	must(t, err)
	t.Cleanup(client.Close)
	begin := func(user, password string, deadline time.Duration) events.Login {
		t.Helper()
		login, err := client.Request(ctx, events.Request{App: "demo", Method: events.Password, User: user, Password: password,
			Deadline: time.Now().Add(deadline), Environment: &events.Environment{IP: "192.0.2.1"}})
		must(t, err)
		return login
	}
	until := func(login events.Login, what string, ok func(*events.State) bool) *events.State {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		for state, err := range client.Watch(ctx, login) {
			must(t, err)
			if ok(state) {
				return state
			}
		}
		t.Fatalf("%s never was %s", login, what)
		return nil
	}
	ended := func(login events.Login, want events.Status) {
		t.Helper()
		if state := until(login, "ended", (*events.State).Ended); state.Status() != want {
			t.Errorf("%s is %s, want %s", login, state.Status(), want)
		}
	}
	challenged := func(round int) func(*events.State) bool {
		return func(s *events.State) bool { return s.Challenge() != nil && s.Challenge().Round == round }
	}

	// Accounts.
	s.addUser("wired", "+819011110021")
	s.expect(http.StatusOK, http.MethodPost, s.Ops+"/admin/v1/tokens/import", withBearer(s.adminToken), tokenOf("wired-1"))
	for _, call := range []struct {
		method, path string
		body         any
	}{
		{http.MethodPatch, "/users/wired", map[string]any{"locale": "en", "password": userPassword}},
		{http.MethodPost, "/tokens/wired-1/assign", map[string]any{"user": "wired"}}, {http.MethodPost, "/tokens/wired-1/pin", map[string]any{"pin": "1357"}},
		{http.MethodPost, "/tokens/wired-1/resync", map[string]any{"codes": []string{"755224", "287082"}}},
		{http.MethodPost, "/tokens/wired-1/disable", nil}, {http.MethodPost, "/tokens/wired-1/unlock", nil}, {http.MethodPost, "/tokens/wired-1/reset", nil},
		{http.MethodPost, "/tokens/wired-1/unassign", nil},
		{http.MethodPost, "/users/wired/lock", nil}, {http.MethodPost, "/users/wired/unlock", nil}, {http.MethodDelete, "/users/wired", nil},
	} {
		if status := s.admin(call.method, call.path, call.body, nil); status/100 != 2 {
			t.Fatalf("%s %s: %d", call.method, call.path, status)
		}
	}

	// A login that is granted at once, and its session revoked.
	granted := begin("bob", s.Password, patience)
	ended(granted, events.StatusGranted)
	if status := s.admin(http.MethodDelete, "/users/bob/sessions/"+granted.Gateway+"."+granted.ID, nil, nil); status != http.StatusNoContent {
		t.Errorf("revoke: %d", status)
	}
	// One with a wrong code, a new round, and the right code.
	login := begin("alice", s.Password, patience)
	until(login, "challenged", challenged(1))
	attempt, err := client.Answer(ctx, login, wrong(s.newestCode("09012341234")))
	must(t, err)
	until(login, "rejected", func(s *events.State) bool { return s.Rejected[attempt] != nil })
	_, err = client.Choose(ctx, login, events.SMS)
	must(t, err)
	until(login, "challenged again", challenged(2))
	_, err = client.Answer(ctx, login, s.newestCode("09012341234"))
	must(t, err)
	ended(login, events.StatusGranted)
	// One of nobody, one that is given up, one that is said to have lapsed, one that nobody answers, and one whose challenge
	// reaches nobody.
	ended(begin("nobody", userPassword, patience), events.StatusDenied)
	for status, end := range map[events.Status]func(context.Context, events.Login) error{
		events.StatusCancelled: client.Cancel, events.StatusExpired: client.Lapse,
	} {
		login = begin("alice", s.Password, patience)
		until(login, "challenged", challenged(1))
		must(t, end(ctx, login))
		ended(login, status)
	}
	late := begin("alice", s.Password, 2*time.Second)
	until(late, "challenged", challenged(1))
	s.fault("sms", "error")
	s.fault("sms2", "error")
	ended(begin("alice", s.Password, patience), events.StatusFailed)
	ended(late, events.StatusExpired)
	// An operator has one event handled again.
	operator := s.dial(bus.UserOperator)
	_, err = operator.Request("redo.riskassessor.identified."+granted.Gateway+"."+granted.ID, nil, patience)
	must(t, err)

	// Two phones of one user: one hears of the other, gets another name, and approves.
	s.addUser("phoned", "+819011110022")
	var phones []*phone
	for _, name := range []string{"one", "two"} {
		p := newPhone(t, func(r events.DeviceRequest) (int, []byte) {
			response, err := client.Device(ctx, r)
			must(t, err)
			return response.Status, response.Body
		})
		p.enroll(s.invite("phoned"), name)
		phones = append(phones, p)
	}
	if status := phones[0].call(http.MethodPatch, "/v1/authenticator/devices/"+phones[0].id, map[string]string{"name": "first"}, nil); status != http.StatusOK {
		t.Errorf("rename: %d", status)
	}
	byID, err := client.Request(ctx, events.Request{App: "demo", Method: events.None, User: "phoned", Environment: &events.Environment{IP: "192.0.2.1"},
		Prompt: &events.Prompt{Number: "482913", Place: "Tokyo", Browser: "Firefox"}})
	must(t, err)
	until(byID, "challenged", challenged(1))
	if status, result := phones[1].decide(phones[1].asked(byID.String()), "approve", "482913"); status != http.StatusOK || result != "approved" {
		t.Errorf("approve: %d %s", status, result)
	}
	ended(byID, events.StatusGranted)
	if status := phones[0].call(http.MethodDelete, "/v1/authenticator/devices/"+phones[1].id, nil, nil); status != http.StatusNoContent {
		t.Errorf("remove: %d", status)
	}

	// The broker says when a deadline has come, about a second late.
	js, err := jetstream.New(s.dial(bus.UserViewer))
	must(t, err)
	poll(t, "due", func() bool {
		return slices.ContainsFunc(s.whole(js, "TIMER"), func(msg *jetstream.RawStreamMsg) bool { return strings.HasPrefix(msg.Subject, "timer.due.") })
	})
	poll(t, "archived", func() bool { return len(s.whole(js, "ARCHIVE")) >= len(s.whole(js, "LOGIN")) })
	w := s.checkBus()

	// What is not as it should be becomes a dead letter.
	id, err := events.NewLogin(gateway)
	must(t, err)
	_, err = nc.Request("login.cancelled."+gateway+"."+id.ID, []byte("gibberish"), patience)
	must(t, err)
	poll(t, "dead", func() bool { return len(s.whole(js, "DEAD")) > 0 })
	for _, msg := range s.whole(js, "DEAD") {
		if err := w.check("DEAD", msg.Subject, msg.Header, msg.Data); err != nil {
			t.Errorf("%s: %v", msg.Subject, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	for _, d := range delivered {
		if err := w.check("", d.subject, d.header, d.data); err != nil {
			t.Errorf("%s was delivered, and is not as schemas/asyncapi.yaml says: %v", d.subject, err)
		}
	}
	for _, c := range w.channels {
		if !w.met[c.name] {
			t.Errorf("nothing was on %s", c.name)
		}
	}
}

// The document's channels, operations, streams and permissions are those of the tables in the code.
func TestAsyncAPITables(t *testing.T) {
	w, doc := newWire(t), describe(t, "asyncapi.yaml")
	steps := make(map[string]int)
	for step, row := range events.Steps {
		steps[string(step)] = row.Max
	}
	channels := make(map[string]int)
	for _, c := range w.channels {
		if c.stream == "LOGIN" {
			channels[c.name] = c.numbers
		}
	}
	if !maps.Equal(steps, channels) {
		t.Errorf("the document's steps and their numbers are %v, the code's are %v", channels, steps)
	}
	users := bus.Users([]string{events.GatewayWorker})
	for _, c := range w.channels {
		senders, receivers := parties(users, c)
		if slices.Sort(c.senders); !slices.Equal(c.senders, senders) {
			t.Errorf("%s is sent by %v, the document says %v", c.name, senders, c.senders)
		}
		if slices.Sort(c.receivers); !slices.Equal(c.receivers, receivers) {
			t.Errorf("%s is received by %v, the document says %v", c.name, receivers, c.receivers)
		}
	}
	for _, user := range bus.Users([]string{"{gateway}"}) {
		n := doc.Get("x-permissions", user.Name)
		sameSet(t, user.Name+" may publish", permitted(n), user.Publish)
		sameSet(t, user.Name+" may subscribe to", heardBy(user.Name, n), user.Subscribe)
		if responds := n.Get("responds").True(); responds != user.Responds {
			t.Errorf("%s answers requests: %v in the document, %v in the code", user.Name, responds, user.Responds)
		}
		sameSet(t, user.Name+" does not hear", n.Get("except").Texts(), user.Unheard)
	}
	for _, stream := range bus.Streams(1) {
		data, err := doc.Get("x-streams", stream.Name).JSON()
		must(t, err)
		var said map[string]any
		must(t, json.Unmarshal(data, &said))
		if made := settings(t, stream); !reflect.DeepEqual(said, made) {
			t.Errorf("stream %s is made as\n%v\nand the document says\n%v", stream.Name, made, said)
		}
	}
	for section, want := range map[string]int{"x-permissions": len(users), "x-streams": len(bus.Streams(1))} {
		if have := len(maps.Collect(doc.Get(section).Each())); have != want {
			t.Errorf("the document has %d of %s, the code has %d", have, section, want)
		}
	}
}

// parties are the users who may send to a channel and those who receive from it. The user setup may do everything; what
// it sends are keys.
func parties(users []bus.User, c channel) (senders, receivers []string) {
	may := func(patterns []string) bool {
		return slices.ContainsFunc(c.subjects, func(subject string) bool { return anyMatches(patterns, subject) })
	}
	for _, user := range users {
		if user.Name == bus.UserSetup {
			if c.name == "keys" {
				senders = append(senders, user.Name)
			}
			continue
		}
		// The API of JetStream begins with a dollar sign, and matches no channel.
		if may(user.Publish) {
			senders = append(senders, user.Name)
		}
		consumes := slices.ContainsFunc(bus.Consumers(), func(consumer bus.Consumer) bool {
			filter := cmp.Or(consumer.Config.FilterSubject, ">")
			return strings.HasPrefix(consumer.Config.Durable, user.Name+"-") && consumer.Stream == c.stream && may([]string{filter})
		})
		if consumes || may(user.Subscribe) && !may(user.Unheard) {
			receivers = append(receivers, user.Name)
		}
	}
	slices.Sort(senders)
	slices.Sort(receivers)
	return senders, receivers
}

// permitted writes out what the document says in short of what a user may publish.
func permitted(n document.Node) []string {
	publish := numbered(n.Get("publish").Texts())
	for _, consumer := range n.Get("consumers").Texts() {
		publish = append(publish, "$JS.API.CONSUMER.INFO."+consumer, "$JS.API.CONSUMER.MSG.NEXT."+consumer,
			"$JS.ACK."+consumer+".>", "$JS.ACK.*.*."+consumer+".>")
	}
	for _, read := range n.Get("read").Texts() {
		publish = append(publish, "$JS.API.DIRECT.GET."+read)
	}
	for _, manage := range n.Get("manage").Texts() {
		publish = append(publish, "$JS.API."+manage)
	}
	return publish
}

// heardBy adds the replies to a user's requests, which the document does not repeat for each.
func heardBy(user string, n document.Node) []string {
	subscribe := n.Get("subscribe").Texts()
	if slices.Contains(subscribe, ">") {
		return subscribe
	}
	return append(subscribe, bus.InboxPrefix(user)+".>")
}

var numberRange = regexp.MustCompile(`\{1-([1-9])\}`)

// numbered writes a subject for each number of a range.
func numbered(subjects []string) (all []string) {
	for _, subject := range subjects {
		m := numberRange.FindStringSubmatch(subject)
		if m == nil {
			all = append(all, subject)
			continue
		}
		for n := '1'; n <= rune(m[1][0]); n++ {
			all = append(all, strings.Replace(subject, m[0], string(n), 1))
		}
	}
	return all
}

func sameSet(t *testing.T, what string, document, code []string) {
	t.Helper()
	for _, s := range document {
		if !slices.Contains(code, s) {
			t.Errorf("%s %s in the document, not in the code", what, s)
		}
	}
	for _, s := range code {
		if !slices.Contains(document, s) {
			t.Errorf("%s %s in the code, not in the document", what, s)
		}
	}
}

// settings are those of a stream that are set, in the broker's terms, with spans of time in words.
func settings(t *testing.T, stream jetstream.StreamConfig) map[string]any {
	t.Helper()
	data, err := json.Marshal(stream)
	must(t, err)
	var all map[string]any
	must(t, json.Unmarshal(data, &all))
	delete(all, "name")
	maps.DeleteFunc(all, func(_ string, v any) bool {
		return v == nil || v == false || v == float64(0) || v == float64(-1) || v == "none" || reflect.DeepEqual(v, map[string]any{})
	})
	for _, span := range []string{"max_age", "duplicate_window"} {
		if ns, ok := all[span].(float64); ok {
			all[span] = strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(time.Duration(ns).String())
		}
	}
	return all
}
