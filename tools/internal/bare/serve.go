package bare

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// inHand is how many events of one stage are worked on at once.
const inHand = 256

// Serve runs a broker and the workers' stages of a plan in this process, as `sekisho up` does, until ctx ends. ready gets the
// broker's URL when all is there.
func Serve(ctx context.Context, p *Plan, ready func(url string)) (err error) {
	dir, err := os.MkdirTemp("", "sekisho-bare-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, JetStream: true, StoreDir: dir,
		JetStreamMaxStore: 1 << 40, JetStreamMaxMemory: 1 << 30, WriteDeadline: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("the bare broker is not ready")
	}
	failed := make(chan error, 1)
	for i := range len(p.Stages) - 1 {
		if p.Stages[i+1].Driver {
			continue
		}
		w := &worker{from: p.Stages[i], failed: failed}
		if w.to, err = p.Stages[i+1].template(); err != nil {
			return err
		}
		nc, err := nats.Connect(s.ClientURL(), nats.InProcessServer(s))
		if err != nil {
			return err
		}
		defer nc.Close()
		if w.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(inHand)); err != nil {
			return err
		}
		if i == 0 {
			for _, stream := range p.Streams {
				if _, err := w.js.CreateStream(ctx, stream); err != nil {
					return fmt.Errorf("stream %s: %w", stream.Name, err)
				}
			}
		}
		stop, err := w.consume(ctx, p.Consumer)
		if err != nil {
			return err
		}
		defer stop()
	}
	ready(s.ClientURL())
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// A worker turns the events of one stage into those of the next.
type worker struct {
	from   Stage
	to     *template
	js     jetstream.JetStream
	failed chan<- error
}

func (w *worker) consume(ctx context.Context, c jetstream.ConsumerConfig) (stop func(), err error) {
	c.Name, c.Durable = "stage-"+string(w.from.Step), "stage-"+string(w.from.Step)
	c.FilterSubject = "login." + string(w.from.Step) + ".>"
	consumer, err := w.js.CreateConsumer(ctx, "LOGIN", c)
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", c.Name, err)
	}
	slots := make(chan struct{}, inHand)
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			if err := w.pass(msg); err != nil && ctx.Err() == nil {
				select {
				case w.failed <- err:
				default: // one is enough
				}
			}
		}()
	}, jetstream.PullMaxMessages(2*inHand))
	if err != nil {
		return nil, fmt.Errorf("consumer %s: %w", c.Name, err)
	}
	return consuming.Stop, nil
}

// pass acks the event when the next one is stored.
func (w *worker) pass(msg jetstream.Msg) error {
	login, _, _, err := events.ParseSubject(msg.Subject())
	if err != nil {
		return err
	}
	if err := w.from.decode(msg.Data()); err != nil {
		return err
	}
	next, err := w.to.message(login)
	if err != nil {
		return err
	}
	future, err := w.js.PublishMsgAsync(next)
	if err != nil {
		return err
	}
	select {
	case <-future.Ok():
		return msg.Ack()
	case err := <-future.Err():
		return err
	}
}
