package pushnotifier

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/simulators"
)

// Everything that a phone does, with marked values: none of them is in the log, in a push message, or on the bus in clear.
func TestNothingPersonalGetsOut(t *testing.T) {
	s := newSite(t)
	s.run(t)
	var heard bytes.Buffer
	setup := s.broker.Dial(t, bus.UserSetup)
	messages, err := setup.SubscribeSync(">")
	check(t, err)
	check(t, setup.Flush())

	code := s.activate(t, "alice")
	p, _ := s.enroll(t, code, "phone.canary")
	p.push(t, s.start(t), "alice", simulators.WebPush)
	second, _ := s.enroll(t, s.activate(t, "alice"), "second.canary")
	second.push(t, s.start(t), "alice", simulators.FCM)
	var tokens []string
	for _, decision := range []string{approve, deny, notMe} {
		l := s.login(t, "alice", unseen)
		l.wanted(t, 1)
		l.event(t, events.StepChallenged, 1)
		asked := p.asked(t)
		wrong := p.assertion(t, asked, approve, "111111")
		right := p.assertion(t, asked, decision, number)
		p.answer(t, wrong[:len(wrong)-4])
		p.answer(t, wrong)
		p.answer(t, right)
		tokens = append(tokens, wrong, right)
	}
	s.far.fault(t, simulators.Garbage, 0)
	l := s.login(t, "alice", unseen)
	p.heed(t, fetch(t, p).Notices[0], notMe)
	eventually(t, "cooled down", func() bool { return s.cooled(t) })
	l.wanted(t, 1)
	l.event(t, events.StepUndelivered, 1)
	p.ask(t, "PATCH", "/v1/authenticator/devices/"+second.id, map[string]string{"name": "renamed.canary"})
	p.ask(t, "DELETE", "/v1/authenticator/devices/"+second.id, nil)
	p.ask(t, "POST", "/v1/authenticator/canary", map[string]string{"canary": "canary"})

	js, err := jetstream.New(setup)
	check(t, err)
	for _, name := range []string{"LOGIN", "ACCOUNT", "DEAD", "SESSION"} {
		stream, err := js.Stream(t.Context(), name)
		check(t, err)
		last := stream.CachedInfo().State.LastSeq
		for seq := stream.CachedInfo().State.FirstSeq; seq <= last && seq > 0; seq++ {
			msg, err := stream.GetMsg(t.Context(), seq)
			check(t, err)
			fmt.Fprintf(&heard, "%s %v %s\n", msg.Subject, msg.Header, msg.Data)
		}
	}
	for {
		pending, _, err := messages.Pending()
		check(t, err)
		if pending == 0 {
			break
		}
		msg, err := messages.NextMsgWithContext(t.Context())
		check(t, err)
		fmt.Fprintf(&heard, "%s %v %s\n", msg.Subject, msg.Header, msg.Data)
	}
	for _, message := range s.far.PushMessages("alice") {
		fmt.Fprintf(&heard, "%+v\n", message)
	}
	if !strings.Contains(heard.String(), "login.answered") || !strings.Contains(heard.String(), "device.web") || !strings.Contains(heard.String(), string(wakeUp)) {
		t.Fatal("the test has not heard what it must")
	}
	for name, text := range map[string]string{"the log": s.log.String(), "the bus": heard.String()} {
		for _, secret := range append(tokens, "canary", number, "111111", code, s.far.url) {
			if name == "the bus" && secret == number { // digits may come about by chance in what is sealed
				secret = `"` + number + `"`
			}
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s has %.20q: …%.200s", name, secret, text[max(0, at-100):])
			}
		}
	}
}
