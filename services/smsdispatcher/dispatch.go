package smsdispatcher

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/config"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/provider"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/internal/textcode"
)

// A dispatcher puts the code of a round to the user by text message.
//
// It owns the rows of sms.sends. The intent of a round is written before any provider is asked, and the receipt a moment
// after one took the message, so that a delivery which follows a crash finds
//   - no row: nothing was sent;
//   - an intent and the event: the message is out, and its receipt is lost;
//   - an intent alone: a provider may have taken the message, so all are asked before it is sent again;
//   - a receipt: the message is out, and only the event may be missing.
//
// Every message of a round carries the same code, so a second one does no harm where a provider could not tell.
type dispatcher struct {
	store      *store
	phones     *directory.Phones
	numbers    *lru.Cache[string, string] // numbers of users as they were last seen; the store checks whether they still are
	published  func(ctx context.Context, login events.Login, step events.Step, n int) (*events.Event, error)
	accounts   []account // in the order in which they are asked
	codes      *textcode.Codes
	secret     []byte // keys the hashes of numbers and the numbers of decoys
	validity   config.Code
	deliveries *deliveries
	log        zerolog.Logger
	now        func() time.Time

	last atomic.Pointer[course]
}

// A course is how the last real message went. Decoys repeat it, so that neither time nor an outage tells them apart.
type course struct {
	took   time.Duration
	reason string // of undelivered; "" when a provider took the message
}

func (d *dispatcher) dispatch(ctx context.Context, e *events.Event, wanted *events.Wanted) ([]*events.Event, error) {
	if wanted.Factor != events.SMS {
		return nil, nil // another worker's
	}
	at := d.now().UTC().Truncate(time.Microsecond) // as the row keeps it: a repeat says the same
	r, reason := round{e.Login, e.N}, ""
	row, err := d.intend(ctx, r, wanted, at)
	switch {
	case err != nil:
		return nil, err
	case row.number == "": // removed since the user was identified
		reason = events.UndeliveredRefused
	case row.state == "":
		reason = events.UndeliveredLimited
	case row.state != stateIntent:
		at = row.acceptedAt
	case wanted.Decoy:
		reason, err = d.pretend(ctx)
	default:
		if !row.fresh {
			if _, err := d.published(ctx, e.Login, events.StepChallenged, e.N); !errors.Is(err, bus.ErrNotFound) {
				return nil, err // nothing is missing; or nobody can tell
			}
		}
		message := Message{
			To: row.number, Body: text(wanted.Locale, cmp.Or(wanted.AppName, wanted.App), d.codes.Code(e.Login, e.N)),
			Tag: tag(e.ID()), NotAfter: d.expiry(wanted, at),
		}
		reason, err = d.deliver(ctx, r, message, row.fresh, at)
	}
	if err != nil {
		return nil, err
	}
	if reason != "" {
		return undelivered(e, reason), nil
	}
	return []*events.Event{events.New(e.Login, e.N, &events.Challenged{
		Factor: events.SMS, Hint: hint(row.number), Expires: d.expiry(wanted, at), ResendAt: at.Add(d.validity.ResendAfter),
		Choices: append([]events.Factor{events.SMS}, wanted.Left...),
	})}, nil
}

func undelivered(e *events.Event, reason string) []*events.Event {
	return []*events.Event{events.New(e.Login, e.N, &events.Undelivered{Factor: events.SMS, Reason: reason})}
}

// expiry is when the code of a message expires that was accepted at the given time.
func (d *dispatcher) expiry(wanted *events.Wanted, at time.Time) time.Time {
	expires := at.Add(d.validity.TTL)
	if wanted.Deadline.Before(expires) {
		return wanted.Deadline
	}
	return expires
}

// rememberedNumbers bounds the memory of numbers, at about 200 bytes each.
const rememberedNumbers = 10_000

// intend writes the intent of a round for the number that the user has at this moment. The limits count numbers by a hash that
// the database can not make, so a first statement tells the number of a user whom this process has not seen before. Decoys
// take the same way, so that nobody tells them apart by time.
func (d *dispatcher) intend(ctx context.Context, r round, wanted *events.Wanted, at time.Time) (send, error) {
	name := wanted.User
	if wanted.Decoy {
		name = "?" + name // who is a decoy in one login may be challenged in another
	}
	number, _ := d.numbers.Get(name)
	for {
		row, err := d.store.intend(ctx, intent{r, wanted.User, number, wanted.Decoy, d.mac("number", number), at})
		if err != nil {
			return send{}, err
		}
		if wanted.Decoy && number == "" {
			row.number = d.nobodys(wanted.User)
		}
		if row.number == number {
			return row, nil
		}
		number = row.number
		d.numbers.Add(name, number)
	}
}

// nobodys is the number of a decoy: digits that stay the same at each try and that nobody ever dials.
func (d *dispatcher) nobodys(user string) string {
	return fmt.Sprintf("?%08d", binary.BigEndian.Uint64(d.mac("decoy", user))%1e8)
}

// record writes receipts down as they come, until ctx ends.
func (d *dispatcher) record(ctx context.Context) error {
	return runtime.Repeat(ctx, d.log, lookEvery, d.store.taken, "can not record accepted messages", func(ctx context.Context) (more bool, err error) {
		select {
		case <-time.After(receiptDelay):
			return false, d.store.record(ctx)
		case <-ctx.Done():
			return false, nil // close does it
		}
	})
}

// pretend takes as long as the last real message took. It returns the reason why that one was not delivered.
func (d *dispatcher) pretend(ctx context.Context) (reason string, err error) {
	last := d.last.Load()
	timer := time.NewTimer(last.took)
	defer timer.Stop()
	select {
	case <-timer.C:
		return last.reason, nil
	case <-ctx.Done():
		return "", fmt.Errorf("smsdispatcher: decoy: %w", ctx.Err())
	}
}

// deliver hands a message to the first provider that takes it. It returns the reason when none does.
func (d *dispatcher) deliver(ctx context.Context, r round, m Message, fresh bool, at time.Time) (reason string, err error) {
	began := d.now()
	by, receipt, failures := d.hand(ctx, m, fresh)
	took := d.now().Sub(began)
	if by != "" {
		d.last.Store(&course{took: took})
		d.store.accept(accepted{r, by, receipt, at})
		d.deliveries.count(by, receipt.State)
		return "", nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("smsdispatcher: send: %w", ctx.Err())
	}
	if reason = reasonOf(failures); reason != events.UndeliveredRefused { // that one is the number's fault
		d.last.Store(&course{took: took, reason: reason})
	}
	heard := slices.ContainsFunc(failures, func(err error) bool { return !provider.Unsent(err) })
	if fresh && !heard {
		return reason, d.store.withdraw(ctx, r)
	}
	return reason, nil
}

// hand gives a message to the first provider that takes it, unless it is not fresh and one has it already.
func (d *dispatcher) hand(ctx context.Context, m Message, fresh bool) (by string, receipt Receipt, failures []error) {
	if !fresh {
		if by, receipt = d.find(ctx, m); by != "" {
			return by, receipt, nil
		}
	}
	return d.send(ctx, m)
}

// find asks all providers for a message that an earlier delivery may have handed over. One that can not tell does not
// hold the message up.
func (d *dispatcher) find(ctx context.Context, m Message) (by string, receipt Receipt) {
	for _, a := range d.accounts {
		receipt, found, err := a.Find(ctx, m)
		if err != nil {
			d.log.Warn().Err(err).Str("provider", a.name).Msg("can not tell whether a message was accepted before")
		}
		if found && receipt.State != StateFailed {
			return a.name, receipt
		}
	}
	return "", Receipt{}
}

func (d *dispatcher) send(ctx context.Context, m Message) (by string, receipt Receipt, failures []error) {
	for _, a := range d.accounts {
		receipt, err := a.Send(ctx, m)
		if err == nil {
			return a.name, receipt, nil
		}
		failures = append(failures, err)
		if !errors.Is(err, provider.ErrOpen) { // the breaker's change has been logged
			d.log.Warn().Err(err).Str("provider", a.name).Msg("text message not accepted")
		}
	}
	return "", Receipt{}, failures
}

// reasonOf says in one word why no provider took a message.
func reasonOf(failures []error) string {
	is := func(class error) func(error) bool {
		return func(err error) bool { return errors.Is(err, class) }
	}
	switch {
	case len(failures) > 0 && !slices.ContainsFunc(failures, func(err error) bool { return !errors.Is(err, provider.ErrRefused) }):
		return events.UndeliveredRefused
	case slices.ContainsFunc(failures, is(provider.ErrTimeout)):
		return events.UndeliveredTimeout
	default:
		return events.UndeliveredDown
	}
}

// tag names at a provider the message that an event asks for.
func tag(event string) string {
	sum := sha256.Sum256([]byte(event))
	return hex.EncodeToString(sum[:16])
}

func (d *dispatcher) mac(label, value string) []byte {
	mac := hmac.New(sha256.New, d.secret)
	mac.Write([]byte(label + "\x00" + value))
	return mac.Sum(nil)
}
