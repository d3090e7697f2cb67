package bare

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// A Driver is the gateway of a pipeline.
type Driver struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	starts []leg

	mu      sync.Mutex
	waiting map[string]chan []byte // by the subject that is waited for
}

// A leg is an event that the driver publishes, and the one that it then waits for.
type leg struct {
	say  *template
	hear Stage
}

const gateway = "example"

// Dial connects to the broker of a pipeline.
func Dial(url string, p *Plan) (_ *Driver, err error) {
	d := &Driver{waiting: make(map[string]chan []byte)}
	for i, stage := range p.Stages {
		if !stage.Driver {
			continue
		}
		l := leg{}
		if l.say, err = stage.template(); err != nil {
			return nil, err
		}
		for _, next := range p.Stages[i+1:] {
			if next.Driver {
				break
			}
			l.hear = next
		}
		d.starts = append(d.starts, l)
	}
	if d.nc, err = nats.Connect(url); err != nil {
		return nil, err
	}
	if d.js, err = jetstream.New(d.nc); err != nil {
		return nil, err
	}
	for _, l := range d.starts {
		if _, err := d.nc.Subscribe("deliver."+gateway+"."+string(l.hear.Step)+".>", d.hear); err != nil {
			return nil, err
		}
	}
	return d, d.nc.Flush()
}

// Close disconnects.
func (d *Driver) Close() { d.nc.Close() }

func (d *Driver) hear(msg *nats.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if heard := d.waiting[msg.Subject]; heard != nil {
		delete(d.waiting, msg.Subject)
		heard <- msg.Data // has room
	}
}

// Pass takes one login through the pipeline.
func (d *Driver) Pass(ctx context.Context, _ int) error {
	login, err := events.NewLogin(gateway)
	if err != nil {
		return err
	}
	for _, l := range d.starts {
		if err := d.pass(ctx, login, l); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) pass(ctx context.Context, login events.Login, l leg) error {
	msg, err := l.say.message(login)
	if err != nil {
		return err
	}
	heard := make(chan []byte, 1)
	subject := told(login, l.hear)
	d.mu.Lock()
	d.waiting[subject] = heard
	d.mu.Unlock()
	if _, err := d.js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("publish %s: %w", msg.Subject, err)
	}
	select {
	case data := <-heard:
		return l.hear.decode(data)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// told is the subject under which LOGIN says an event again: deliver.<gateway>.<step>.<login>[.<n>].
func told(login events.Login, s Stage) string {
	_, tail, _ := strings.Cut(login.Subject(s.Step, s.N), "."+login.Gateway+".")
	return "deliver." + login.Gateway + "." + string(s.Step) + "." + tail
}
