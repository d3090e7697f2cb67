package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sekisho/sekisho/events"
)

// A getter reads many messages of LOGIN with one batched direct get (ADR-31). All readers of a connection share one subscription, as nats.go's
// own requests do, which take one answer only: a subscription for each of some thousand reads a second would cost the broker more
// than the reads.
type getter struct {
	nc    *nats.Conn
	inbox string
	wait  time.Duration // for an answer, until the broker is asked again: it gets lost with the connection

	mu      sync.Mutex
	sub     *nats.Subscription // nil before the first read
	last    uint64
	waiting map[string]*reading // by the last token of the inbox
}

// A reading is one request. Its messages are the callback's until done is closed.
type reading struct {
	messages []*nats.Msg
	upTo     uint64 // the last sequence of the replica that answered; 0 if it had none of the subjects
	done     chan struct{}
	err      error
}

const subjectHeader = "Nats-Subject"

func newGetter(nc *nats.Conn) *getter {
	return &getter{nc: nc, inbox: nc.NewInbox(), wait: answerWait, waiting: make(map[string]*reading)}
}

// read returns the last message of each subject that matches, unless that stands before the sequence `from`, and the last sequence of
// the replica that answered, which has everything up to there: 0 if it has none of the subjects.
func (g *getter) read(ctx context.Context, from uint64, subjects []string) (messages []*nats.Msg, upTo uint64, err error) {
	request, err := json.Marshal(struct {
		From      uint64   `json:"seq,omitempty"`
		MultiLast []string `json:"multi_last"`
	}{from, subjects})
	if err != nil {
		return nil, 0, err
	}
	for {
		r, err := g.ask(ctx, request)
		if err != nil {
			return nil, 0, err
		}
		if r != nil {
			return r.messages, r.upTo, r.err
		}
	}
}

// ask waits for the answer to one request, nil if there is none in time.
func (g *getter) ask(ctx context.Context, request []byte) (*reading, error) {
	token, r, err := g.begin()
	if err != nil {
		return nil, err
	}
	defer g.end(token)
	if err := g.nc.PublishRequest("$JS.API.DIRECT.GET."+streamLogin, g.inbox+"."+token, request); err != nil {
		return nil, err
	}
	patience := time.NewTimer(g.wait)
	defer patience.Stop()
	select {
	case <-r.done:
		return r, nil
	case <-patience.C:
		return nil, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

func (g *getter) begin() (token string, r *reading, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sub == nil {
		if g.sub, err = g.nc.Subscribe(g.inbox+".*", g.hear); err != nil {
			return "", nil, err
		}
	}
	g.last++
	token, r = strconv.FormatUint(g.last, 36), &reading{done: make(chan struct{})}
	g.waiting[token] = r
	return token, r, nil
}

func (g *getter) end(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.waiting, token)
}

// hear takes one answer in. The broker sends those of one request in order, and says when it was the last.
func (g *getter) hear(msg *nats.Msg) {
	g.mu.Lock()
	r := g.waiting[strings.TrimPrefix(msg.Subject, g.inbox+".")]
	g.mu.Unlock()
	if r == nil {
		return // nobody waits any more
	}
	if events.BrokerHeader(msg.Header, subjectHeader) != "" { // the broker sets it on what it has stored, whatever a publisher wrote
		r.messages = append(r.messages, msg)
		return
	}
	switch status := msg.Header.Get("Status"); {
	case status == "204": // the end
		r.upTo, r.err = strconv.ParseUint(msg.Header.Get("Nats-UpTo-Sequence"), 10, 64)
	case status == "404" && len(r.messages) == 0: // nothing there
	case status == "503":
		r.err = nats.ErrNoResponders
	default:
		r.err = fmt.Errorf("status %s %s", status, msg.Header.Get("Description"))
	}
	g.end(strings.TrimPrefix(msg.Subject, g.inbox+"."))
	close(r.done)
}

// place is where a message of a direct get stands in its stream.
func place(msg *nats.Msg) (subject string, sequence uint64, stored time.Time, err error) {
	var errs [2]error
	sequence, errs[0] = strconv.ParseUint(events.BrokerHeader(msg.Header, "Nats-Sequence"), 10, 64)
	stored, errs[1] = time.Parse(time.RFC3339Nano, events.BrokerHeader(msg.Header, "Nats-Time-Stamp"))
	return events.BrokerHeader(msg.Header, subjectHeader), sequence, stored, errors.Join(errs[:]...)
}
