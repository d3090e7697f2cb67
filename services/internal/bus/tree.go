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
)

// trees reads events of a login in one batched direct get (ADR-31). All readers of a connection share one subscription,
// as nats.go's own requests do, which take one answer only: a subscription for each of some thousand reads a second costs the
// broker more than the reads.
type trees struct {
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

func newTrees(nc *nats.Conn) *trees {
	return &trees{nc: nc, inbox: nc.NewInbox(), wait: answerWait, waiting: make(map[string]*reading)}
}

// read returns the last message of each subject that matches, where that is not before a sequence, and the last sequence of the
// replica that answered, which has everything up to there: 0 if it has none of the subjects.
func (t *trees) read(ctx context.Context, stream string, from uint64, subjects []string) (messages []*nats.Msg, upTo uint64, err error) {
	request, err := json.Marshal(struct {
		From      uint64   `json:"seq,omitempty"`
		MultiLast []string `json:"multi_last"`
	}{from, subjects})
	if err != nil {
		return nil, 0, err
	}
	for {
		r, err := t.ask(ctx, "$JS.API.DIRECT.GET."+stream, request)
		if err != nil {
			return nil, 0, err
		}
		if r != nil {
			return r.messages, r.upTo, r.err
		}
	}
}

// ask waits for the answer to one request, nil if there is none in time.
func (t *trees) ask(ctx context.Context, subject string, request []byte) (*reading, error) {
	token, r, err := t.begin()
	if err != nil {
		return nil, err
	}
	defer t.end(token)
	if err := t.nc.PublishRequest(subject, t.inbox+"."+token, request); err != nil {
		return nil, err
	}
	patience := time.NewTimer(t.wait)
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

func (t *trees) begin() (token string, r *reading, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sub == nil {
		if t.sub, err = t.nc.Subscribe(t.inbox+".*", t.hear); err != nil {
			return "", nil, err
		}
	}
	t.last++
	token, r = strconv.FormatUint(t.last, 36), &reading{done: make(chan struct{})}
	t.waiting[token] = r
	return token, r, nil
}

func (t *trees) end(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiting, token)
}

// hear takes one answer in. The broker sends those of one request in order, and says when it was the last.
func (t *trees) hear(msg *nats.Msg) {
	t.mu.Lock()
	r := t.waiting[strings.TrimPrefix(msg.Subject, t.inbox+".")]
	t.mu.Unlock()
	if r == nil {
		return // nobody waits any more
	}
	if msg.Header.Get(subjectHeader) != "" { // the broker sets it on what it has stored, whatever a publisher wrote
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
	t.end(strings.TrimPrefix(msg.Subject, t.inbox+"."))
	close(r.done)
}

// place is where a message of a direct get stands in its stream.
func place(msg *nats.Msg) (subject string, sequence uint64, stored time.Time, err error) {
	var errs [2]error
	sequence, errs[0] = strconv.ParseUint(msg.Header.Get("Nats-Sequence"), 10, 64)
	stored, errs[1] = time.Parse(time.RFC3339Nano, msg.Header.Get("Nats-Time-Stamp"))
	return msg.Header.Get(subjectHeader), sequence, stored, errors.Join(errs[:]...)
}
