// Package bare is a pipeline that does with the broker what a login does, and nothing else: the limit that the saga is measured
// against. It has as many stages as the road has events. Events have the same size and form of subject, and pass through streams
// of the same settings. Each stage decodes and encodes their JSON, and acks after the ack of the publish.
package bare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// A Plan is what a pipeline is built from, taken from a system that runs.
type Plan struct {
	Streams  []jetstream.StreamConfig // LOGIN and ARCHIVE
	Consumer jetstream.ConsumerConfig // of any worker on LOGIN
	Stages   []Stage                  // in the order in which the login met them
}

// A Stage is one event of the road.
type Stage struct {
	Step   events.Step
	N      int
	Driver bool // it came from outside, so the driver publishes it; otherwise a worker does
	Header nats.Header
	Data   json.RawMessage
}

// ReadPlan takes the settings of the streams, and one login as the template of all, from a system; nc is a viewer's connection.
func ReadPlan(ctx context.Context, nc *nats.Conn, login events.Login) (*Plan, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	for _, name := range []string{"LOGIN", "ARCHIVE"} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		p.Streams = append(p.Streams, stream.CachedInfo().Config)
	}
	consumer, err := js.Consumer(ctx, "LOGIN", "sessionissuer-assessed")
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	p.Consumer = consumer.CachedInfo().Config
	p.Stages, err = readStages(ctx, js, login)
	return p, err
}

func readStages(ctx context.Context, js jetstream.JetStream, login events.Login) ([]Stage, error) {
	stream, err := js.Stream(ctx, "LOGIN")
	if err != nil {
		return nil, fmt.Errorf("stream LOGIN: %w", err)
	}
	type placed struct {
		Stage
		sequence uint64
	}
	var found []placed
	for step, row := range events.Steps {
		for n := min(1, row.Max); n <= row.Max; n++ {
			msg, err := stream.GetLastMsgForSubject(ctx, login.Subject(step, n))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("template %s: %w", step, err)
			}
			header := nats.Header{}
			for name, values := range msg.Header {
				if strings.HasPrefix(name, "ce-") || name == "Content-Type" {
					header[name] = values
				}
			}
			byGateway := strings.HasPrefix(header.Get("ce-source"), events.GatewayWorker+"/")
			outside := byGateway || step == events.StepAnswered // a phone's answer is published by a worker, but comes from outside
			found = append(found, placed{Stage{step, n, outside, header, msg.Data}, msg.Sequence})
		}
	}
	slices.SortFunc(found, func(a, b placed) int { return int(a.sequence) - int(b.sequence) })
	stages := make([]Stage, len(found))
	for i, f := range found {
		stages[i] = f.Stage
	}
	if len(stages) < 2 || !stages[0].Driver || stages[len(stages)-1].Driver {
		return nil, fmt.Errorf("login %s has %d events, and is no template", login, len(stages))
	}
	return stages, nil
}

// A template makes the stage's event for any login. The headers stay those that were read: only their size matters.
type template struct {
	Stage
	data events.Data
}

func (s Stage) template() (*template, error) {
	t := &template{s, events.Steps[s.Step].Data()}
	if err := json.Unmarshal(s.Data, t.data); err != nil {
		return nil, fmt.Errorf("template %s: %w", s.Step, err)
	}
	return t, nil
}

func (t *template) message(login events.Login) (*nats.Msg, error) {
	data, err := json.Marshal(t.data)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: login.Subject(t.Step, t.N), Header: t.Header, Data: data}, nil
}

// decode reads the data of an event of the stage.
func (s Stage) decode(data []byte) error { return json.Unmarshal(data, events.Steps[s.Step].Data()) }
