package bus_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	"github.com/cloudevents/sdk-go/v2/binding"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/testenv"
)

func admin(t *testing.T, broker *testenv.Broker) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc := broker.Dial(t, bus.UserSetup)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestProvisionAgain(t *testing.T) {
	broker := testenv.NATS(t)
	nc, _ := admin(t, broker)
	if err := bus.Provision(t.Context(), nc, 1); err != nil {
		t.Error(err)
	}
}

// A stream or a consumer with other settings is reported and left alone.
func TestProvisionReportsDifferences(t *testing.T) {
	broker := testenv.NATS(t)
	nc, js := admin(t, broker)
	stream, err := js.Stream(t.Context(), "LOGIN")
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.MaxAge = 7 * time.Minute
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(t.Context(), "LOGIN", "smsdispatcher-wanted")
	if err != nil {
		t.Fatal(err)
	}
	of := consumer.CachedInfo().Config
	of.AckWait = time.Minute
	if _, err := js.UpdateConsumer(t.Context(), "LOGIN", of); err != nil {
		t.Fatal(err)
	}
	err = bus.Provision(t.Context(), nc, 1)
	if !errors.Is(err, bus.ErrDiffers) || !strings.Contains(err.Error(), "stream LOGIN: settings differ: max_age") ||
		!strings.Contains(err.Error(), "consumer smsdispatcher-wanted: settings differ: ack_wait") {
		t.Errorf("error %v", err)
	}
	if stream, err = js.Stream(t.Context(), "LOGIN"); err != nil || stream.CachedInfo().Config.MaxAge != 7*time.Minute {
		t.Errorf("the stream was changed: %v", err)
	}
}

// ARCHIVE has every event under a subject without the login, and goes on when LOGIN was lost and made again.
func TestArchive(t *testing.T) {
	broker := testenv.NATS(t)
	nc, js := admin(t, broker)
	archived := func(e *events.Event, n uint64) {
		t.Helper()
		archive, err := js.Stream(t.Context(), "ARCHIVE")
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; {
			msg, err := archive.GetMsg(t.Context(), n)
			if err == nil {
				got, err := events.ReadArchived(msg.Header, msg.Data)
				if err != nil || got.ID() != e.ID() || msg.Subject != "archive."+string(e.Step) {
					t.Errorf("archived %v under %s, %v", got, msg.Subject, err)
				}
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is not archived: %v", e.ID(), err)
			}
		}
	}
	first := wanted(t, soon())
	broker.Publish(t, first)
	archived(first, 1)
	second := cancelled(t, "web")
	broker.Publish(t, second)
	archived(second, 2)
	if err := js.DeleteStream(t.Context(), "LOGIN"); err != nil {
		t.Fatal(err)
	}
	if err := bus.Provision(t.Context(), nc, 1); err != nil {
		t.Fatal(err)
	}
	third := cancelled(t, "web")
	broker.Publish(t, third)
	archived(third, 3)
}

// The SDK's own NATS binding reads what we write, and we read what it writes.
func TestInteroperability(t *testing.T) {
	broker := testenv.NATS(t)
	nc, _ := admin(t, broker)
	e := cancelled(t, "web")
	e.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	msg, err := e.Message()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := binding.ToEvent(t.Context(), nats_jetstream.NewMessage(msg))
	if err != nil {
		t.Fatal(err)
	}
	if theirs.ID() != e.ID() || theirs.Type() != "sekisho.login.cancelled.v1" || theirs.Source() != "gateway/web" ||
		theirs.Extensions()["traceparent"] != e.Trace || !json.Valid(theirs.Data()) {
		t.Errorf("the SDK reads %v", theirs)
	}
	for name, encode := range map[string]func(*nats.Msg) error{
		"binary": func(m *nats.Msg) error {
			var body bytes.Buffer
			header, err := nats_jetstream.WriteMsg(binding.WithForceBinary(t.Context()), (*binding.EventMessage)(theirs), &body)
			m.Header, m.Data = header, body.Bytes()
			return err
		},
		"structured": func(m *nats.Msg) error {
			m.Header = nats.Header{"Content-Type": {"application/cloudevents+json"}}
			var err error
			m.Data, err = json.Marshal(theirs)
			return err
		},
	} {
		m := nats.NewMsg(e.Subject())
		if err := encode(m); err != nil {
			t.Fatal(err)
		}
		got, err := events.Read(m.Subject, m.Header, m.Data)
		if err != nil || got.ID() != e.ID() || got.Trace != e.Trace {
			t.Errorf("%s: read %v, %v", name, got, err)
		}
	}
	if _, err := nc.RequestMsg(msg, 10*time.Second); err != nil {
		t.Fatal(err)
	}
}
