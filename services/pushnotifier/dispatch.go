package pushnotifier

import (
	"context"
	"crypto/sha256"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/provider"
)

// dispatch asks the devices of a user. The prompt's row is written before anybody is told, and challenged is stored before
// any push service is asked, so the login page never waits for one. Until the services have answered, or push.wait is over,
// the event is not acked: a delivery that follows a crash wakes the phones again, by the same topic, and finds everything
// else done.
func (n *notifier) dispatch(ctx context.Context, e *events.Event, wanted *events.Wanted) ([]*events.Event, error) {
	if wanted.Factor != events.Push {
		return nil, nil // another worker's
	}
	history, err := n.history(ctx, e.Login)
	if err != nil || history.Ended() {
		return nil, err
	}
	if requested, _ := bus.Get[*events.Requested](history, 0); requested == nil { // it led to this event, so it is there
		return nil, bus.RetryAfter(staleWait, bus.ErrStale)
	}
	at := n.now().UTC().Truncate(time.Microsecond) // as the row keeps it: a repeat says the same
	expires := at.Add(n.settings.TTL)
	if wanted.Deadline.Before(expires) {
		expires = wanted.Deadline
	}
	intended, err := n.store.intend(ctx, prompt{place: place{e.Login, e.N}, User: wanted.User, Decoy: wanted.Decoy, Created: at, Expires: expires}, wanted.SourceTag)
	if err != nil {
		return nil, err
	}
	p, devices := intended.prompt, intended.devices
	if wanted.Decoy { // takes the same statements as any other, but asks no phone, not even one that was added since
		devices = nil
	}
	switch {
	case p == nil:
		return undelivered(e, events.UndeliveredLimited), nil
	case !wanted.Decoy && len(devices) == 0: // removed since the user was identified
		return undelivered(e, events.UndeliveredRefused), nil
	}
	challenged := &events.Challenged{ // without a hint: what people call their phones is personal
		Factor: events.Push, Number: !wanted.Tap,
		Expires: p.Expires.UTC(), ResendAt: p.Created.UTC().Add(n.resendAfter), Choices: append([]events.Factor{events.Push}, wanted.Left...),
	}
	own := slices.ContainsFunc(devices, func(d directory.Device) bool { return d.Kind == directory.Sekisho })
	if host := hosted(devices); host != nil {
		challenged.URL, challenged.Number = n.startHosted(ctx, e.Login, host.Account), challenged.Number && own
		if challenged.URL == "" && !own {
			return undelivered(e, events.UndeliveredDown), nil
		}
	}
	if challenged.Number && !sixDigits.MatchString(n.asked(history).Number) { // the gateway shows nothing that a phone could ask for
		return undelivered(e, events.UndeliveredRefused), nil
	}
	if _, _, err := n.bus.Publish(ctx, e, events.New(e.Login, e.N, challenged)); err != nil {
		return nil, err
	}
	n.wake(ctx, devices, Message{Topic: topic(e.ID()), TTL: challenged.Expires.Sub(n.now()), Urgency: UrgencyHigh, Body: wakeUp})
	return nil, nil
}

var sixDigits = regexp.MustCompile(`^[0-9]{6}$`)

func undelivered(e *events.Event, reason string) []*events.Event {
	return []*events.Event{events.New(e.Login, e.N, &events.Undelivered{Factor: events.Push, Reason: reason})}
}

// asked is what the gateway wants the devices to show and to ask for; zero if it gave nothing that can be opened. What can not be shown
// is left out: other users' rows share its statements, and a list of such texts has to fit into an answer.
func (n *notifier) asked(history bus.History) events.Prompt {
	var asked events.Prompt
	requested, e := bus.Get[*events.Requested](history, 0)
	if requested == nil || n.opener.Open(requested.Prompt, e.Subject(), "prompt", &asked) != nil {
		return events.Prompt{}
	}
	for _, shown := range []*string{&asked.App, &asked.Names.EN, &asked.Names.JA, &asked.Place, &asked.Browser} {
		if utf8.RuneCountInString(*shown) > maxShown || strings.ContainsFunc(*shown, func(r rune) bool { return !unicode.IsPrint(r) }) {
			*shown = ""
		}
	}
	return asked
}

// maxShown bounds a text that phones show, in characters. The longest is an app's name, of which a policy takes 256 bytes.
const maxShown = 256

// wakeUp is what a push service gets to deliver. The phone asks for the rest.
var wakeUp = []byte(`{"event":"prompts"}`)

// topic names messages of which a push service need keep only the newest. It has 32 characters of base64url, the most that is allowed.
func topic(about string) string {
	sum := sha256.Sum256([]byte(about))
	return encode(sum[:24])
}

// wake tells devices that there is something to fetch: those whose page is open by the gateway, the others by their push
// services. It waits for the services no longer than push.wait; what they answer later is still heard.
func (n *notifier) wake(ctx context.Context, devices []directory.Device, m Message) {
	n.nudge(devices...)
	targets := make([]Target, 0, len(devices))
	for _, d := range devices {
		if d.Transport != directory.Polling {
			targets = append(targets, Target{Device: d.ID, Transport: d.Transport, Address: d.Target})
		}
	}
	if len(targets) == 0 || m.TTL <= 0 {
		return
	}
	done := n.vendors.courier.send(targets, m, n.report)
	patience := time.NewTimer(n.settings.Wait)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-ctx.Done():
	}
}

// nudge hints to devices whose page is open that there is news. If a hint gets lost, the page finds the news when it next asks by itself.
func (n *notifier) nudge(devices ...directory.Device) {
	for _, d := range devices {
		if d.Kind == directory.Sekisho {
			_ = n.bus.Conn().Publish(events.HintSubject(d.Gateway, d.ID), nil)
		}
	}
}

// report takes note of what became of a message at a push service.
func (n *notifier) report(t Target, err error) {
	switch {
	case err == nil, errors.Is(err, provider.ErrOpen): // the breaker's change has been logged
	case errors.Is(err, errGone):
		ctx, cancel := context.WithTimeout(context.Background(), n.settings.Timeout)
		defer cancel()
		if err := n.devices.DropTarget(ctx, t.Device, t.Address); err != nil {
			n.log.Warn().Err(err).Msg("can not drop the target of a device")
		}
	case errors.Is(err, context.Canceled): // this process stops
	default:
		n.log.Warn().Err(err).Str("transport", string(t.Transport)).Msg("push message not accepted")
	}
}

// hosted is where the user approves at a provider that hosts approvals, nil if nowhere.
func hosted(devices []directory.Device) *directory.Device {
	for i := range devices {
		if devices[i].Kind == directory.Mamoru {
			return &devices[i]
		}
	}
	return nil
}

// startHosted asks the provider for an approval and returns where the browser goes, "" if it can not be had.
func (n *notifier) startHosted(ctx context.Context, login events.Login, account string) string {
	if n.vendors.mamoru == nil {
		return ""
	}
	url, err := n.vendors.mamoru.Start(ctx, account, login.String())
	if err != nil {
		n.log.Warn().Err(err).Stringer("login", login).Msg("approval not started")
		return ""
	}
	return url
}
