package bare

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// plan is a road with one answer, on streams as the product has them.
func plan() *Plan {
	stage := func(step events.Step, n int, driver bool, data string) Stage {
		return Stage{step, n, driver, nats.Header{"ce-id": {"x"}}, json.RawMessage(data)}
	}
	login := jetstream.StreamConfig{Name: "LOGIN", Subjects: []string{"login.>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew,
		DiscardNewPerSubject: true, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: "login.*.*.>", Destination: "deliver.{{wildcard(2)}}.{{wildcard(1)}}.>"}}
	archive := jetstream.StreamConfig{Name: "ARCHIVE", Sources: []*jetstream.StreamSource{{Name: "LOGIN", SubjectTransforms: []jetstream.SubjectTransformConfig{
		{Source: "login.*.*.*", Destination: "archive.{{wildcard(1)}}"}, {Source: "login.*.*.*.*", Destination: "archive.{{wildcard(1)}}"}}}}}
	return &Plan{
		Streams:  []jetstream.StreamConfig{login, archive},
		Consumer: jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1000},
		Stages: []Stage{
			stage(events.StepRequested, 0, true, `{"app":"demo"}`),
			stage(events.StepWanted, 1, false, `{"factor":"sms"}`),
			stage(events.StepChallenged, 1, false, `{"factor":"sms","hint":"1234"}`),
			stage(events.StepAnswered, 1, true, `{"round":1}`),
			stage(events.StepClosed, 0, false, `{"outcome":"granted"}`),
		},
	}
}

func TestPipeline(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	p := plan()
	serving, end := context.WithCancel(ctx)
	urls, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- Serve(serving, p, func(url string) { urls <- url }) }()
	var url string
	select {
	case url = <-urls:
	case err := <-ended:
		t.Fatal(err)
	}
	d, err := Dial(url, p)
	if err != nil {
		t.Fatal(err)
	}
	const logins = 20
	for n := range logins {
		if err := d.Pass(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	stored := func(name string) uint64 {
		stream, err := d.js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State.Msgs
	}
	if got := stored("LOGIN"); got != uint64(logins*len(p.Stages)) {
		t.Errorf("LOGIN has %d events, want %d a login", got, len(p.Stages))
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for stored("ARCHIVE") < uint64(logins*len(p.Stages)) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not all of it is in ARCHIVE")
		}
	}
	d.Close()
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
