package pushnotifier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
	"github.com/sekisho/sekisho/services/internal/directory"
)

// Kinds of notices.
const (
	unknownEnvironment = "unknown_environment"
	deviceEnrolled     = "device_enrolled"
	deviceRenamed      = "device_renamed"
	deviceRemoved      = "device_removed"
)

// noticeParameter names, in the response of an answer, the notice by which a user disowned the login.
const noticeParameter = "notice"

// tell writes a notice for the devices of its user, but for some, such as the one that did what the notice tells. It returns those
// devices, and what came of it.
func (n *notifier) tell(ctx context.Context, told notice, but func(directory.Device) bool) (devices []directory.Device, done telling, err error) {
	if devices, err = n.directory.Devices(ctx, told.User); err != nil {
		return nil, telling{}, err
	}
	devices = slices.DeleteFunc(devices, func(d directory.Device) bool { return but(d) || d.Kind != directory.Sekisho })
	ids := make([]string, len(devices))
	for i, d := range devices {
		ids[i] = d.ID
	}
	done, err = n.store.tell(ctx, told, ids)
	return devices, done, err
}

// noticeTTL is how long a push service keeps the message about a notice for a phone that is off. FCM takes four weeks at
// most; the notice itself waits for push.keep.
const noticeTTL = 7 * 24 * time.Hour

func (n *notifier) wakeFor(ctx context.Context, devices []directory.Device, kind, cause string) {
	n.wake(ctx, devices, Message{Topic: topic(kind + " " + cause), TTL: noticeTTL, Urgency: UrgencyNormal, Body: wakeUp})
}

// changed makes a change of a device known to the user's other devices, which learn its name from here. When a process dies before,
// an enrollment and a removal are told by retell, since their events are in the outbox.
func (n *notifier) changed(ctx context.Context, kind string, device directory.Device, cause, by string) error {
	devices, _, err := n.tell(ctx, notice{User: device.User, Kind: kind, Cause: cause, Name: device.Name},
		func(d directory.Device) bool { return d.ID == by })
	if err == nil {
		n.wakeFor(ctx, devices, kind, cause)
	}
	return err
}

const (
	accountBatch  = 100                   // messages of ACCOUNT that are looked at together
	accountWait   = 10 * time.Millisecond // for a batch to fill
	accountAtOnce = 32                    // of a batch: each may wait for push services
)

// follow tells devices what ACCOUNT says of their users, until ctx ends: of a login from an environment that is new, which
// riskassessor says, and of changes of their devices. What has been told already is not told again, so a batch of which one
// message fails may come again as a whole.
func (n *notifier) follow(ctx context.Context) error {
	return n.bus.Batches(ctx, "ACCOUNT", accountBatch, accountWait, func(ctx context.Context, batch []bus.Stored) error {
		var all errgroup.Group
		all.SetLimit(accountAtOnce)
		for _, message := range batch {
			all.Go(func() error { return n.heed(ctx, message) })
		}
		return all.Wait()
	})
}

// about takes the subjects apart of what is told. Whatever else is in ACCOUNT is passed over.
var about = regexp.MustCompile(`^(account\.device-enrolled|account\.device-removed|alert\.unknown-environment)\.([A-Za-z0-9_-]{1,64})$`)

func (n *notifier) heed(ctx context.Context, message bus.Stored) error {
	found := about.FindStringSubmatch(message.Subject)
	if found == nil {
		return nil
	}
	var err error
	switch user := found[2]; found[1] {
	case "account.device-enrolled":
		err = n.retell(ctx, deviceEnrolled, user, message)
	case "account.device-removed":
		err = n.retell(ctx, deviceRemoved, user, message)
	default:
		err = n.warn(ctx, user, message)
	}
	if errors.Is(err, errMalformed) { // no repetition would help, and nobody else's notices are to wait
		n.log.Error().Str("stream", message.Stream).Uint64("sequence", message.Sequence).Msg("message is not what its subject says")
		return nil
	}
	return err
}

var errMalformed = errors.New("pushnotifier: malformed message")

// retell tells devices of a change that an admin has made, or whose process died before it told. Those that were enrolled later
// are not told, so that an event that is published again is no news.
func (n *notifier) retell(ctx context.Context, kind, user string, message bus.Stored) error {
	var made directory.DeviceChange
	ce, err := events.ReadMessage(message.Header, message.Data)
	if err != nil || json.Unmarshal(ce.Data(), &made) != nil {
		return errMalformed
	}
	told := notice{User: user, Kind: kind, Cause: made.Device}
	if kind == deviceEnrolled {
		device, err := n.directory.Device(ctx, made.Device)
		if err != nil && !errors.Is(err, directory.ErrNoDevice) {
			return err
		}
		told.Name = device.Name
	}
	devices, done, err := n.tell(ctx, told, func(d directory.Device) bool {
		return d.ID == made.By || d.ID == made.Device || !d.Enrolled.Before(ce.Time())
	})
	if err == nil && done.news {
		n.wakeFor(ctx, devices, kind, made.Device)
	}
	return err
}

// An alert is the data of alert.unknown-environment.
type alert struct {
	Login string `json:"login"`
	App   string `json:"app"`
}

// warn tells the devices of a user about a login from a browser or a network that is new: once for each login, whatever
// becomes of it, and silently beyond the limit. Only a device that has approved this very login does not ask whether that was the
// user: it just did, with the same place and browser, and who is asked twice learns to say yes without looking. The login's own
// events say it better than the alert, for as long as they are there.
func (n *notifier) warn(ctx context.Context, user string, message bus.Stored) error {
	var said alert
	if json.Unmarshal(message.Data, &said) != nil || said.App == "" || len(said.App) > maxApp {
		return errMalformed
	}
	login, err := events.ParseLogin(said.Login)
	if err != nil {
		return errMalformed
	}
	history, err := n.loginOf(ctx, login, message.Time)
	if err != nil {
		return err
	}
	identified, _ := bus.Get[*events.Identified](history, 0)
	if identified != nil && (identified.User != user || identified.Decoy) {
		return errMalformed
	}
	asked := n.asked(history)
	devices, done, err := n.tell(ctx, notice{
		User: user, Kind: unknownEnvironment, Cause: login.String(), Login: login,
		App: cmp.Or(asked.App, said.App), Names: asked.Names, Place: asked.Place, Browser: asked.Browser,
	}, func(d directory.Device) bool { return approvedBy(history, d) })
	if err != nil {
		return err
	}
	if !done.rings { // somebody begins login after login
		n.nudge(devices...)
		return nil
	}
	n.wakeFor(ctx, devices, unknownEnvironment, login.String()) // once more after a crash: better than never
	return nil
}

// approvedBy tells whether a device has approved a login. The notice of one that it approves later goes with the prompt: see [store.end].
func approvedBy(history bus.History, d directory.Device) bool {
	return slices.ContainsFunc(history, func(e *events.Event) bool {
		verified, ok := e.Data.(*events.Verified)
		return ok && verified.Factor == events.Push && verified.Authenticator == directory.DeviceOf(d.ID)
	})
}

const (
	maxApp     = 64 // bytes of an app's name, as the events of a login have it
	staleTries = 50 // reads, staleWait apart, before a login is taken for gone
)

// loginOf reads the login of which ACCOUNT said something, and waits for a replica that does not have it yet. It returns none when
// the login's time in the stream is over.
func (n *notifier) loginOf(ctx context.Context, login events.Login, said time.Time) (bus.History, error) {
	for range staleTries {
		history, err := n.bus.Login(ctx, login)
		if requested, _ := bus.Get[*events.Requested](history, 0); err != nil || requested != nil || n.now().Sub(said) > events.MaxDeadline {
			return history, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(staleWait):
		}
	}
	return nil, nil
}

// weighNotice makes an answer that disowns its login of one that names a notice. That the user said so stands in the notice's
// row since before the answer was stored, so a gateway that makes such an answer up gets nowhere.
func (n *notifier) weighNotice(ctx context.Context, e *events.Event, id string, v *verdict) error {
	told, err := n.store.disowned(ctx, id)
	if err == nil && told != nil && told.Login == e.Login {
		v.reason = events.RejectedNotMe
	}
	return err
}

// protest takes a user's word, by a notice, that a login was not theirs. An open login gets an answer that says so, and
// decide does the rest; of one that has ended only the session is left to be ended.
func (n *notifier) protest(ctx context.Context, told *notice) error {
	history, err := n.bus.Login(ctx, told.Login)
	if err != nil {
		return err
	}
	if _, assessed := bus.Get[*events.Assessed](history, 0); assessed != nil && !final(history) {
		round := 1
		for _, e := range history {
			if e.Step == events.StepWanted {
				round = e.N
			}
		}
		_, release, err := n.take(ctx, history, assessed, round, events.Response{Parameters: map[string]string{noticeParameter: told.ID}})
		if err == nil {
			release(false) // decide judges it
			return nil
		}
		if !errors.Is(err, errOver) {
			return err
		}
	}
	if err := n.alarm(ctx, told.User, told.Login); err != nil {
		return err
	}
	return n.revoke(ctx, told.Login)
}

// closeWait is how soon a login that was disowned is looked at again, until its end is known.
const closeWait = 250 * time.Millisecond

// disown does what follows when the user says that somebody else is logging in: no pushes for a while, an alert, the
// rejection that closes the login as denied; and if the login is granted all the same, since that was decided a moment before,
// its session is ended. What was granted can be told only from closed, so it is waited for.
func (n *notifier) disown(ctx context.Context, history bus.History, e *events.Event, v *verdict) error {
	closed, _ := bus.Get[*events.Closed](history, 0)
	rejected, _ := bus.Get[*events.Rejected](history, e.N)
	identified, _ := bus.Get[*events.Identified](history, 0)
	if rejected == nil && identified != nil {
		if err := n.alarm(ctx, identified.User, e.Login); err != nil {
			return err
		}
		if _, _, err := n.bus.Publish(ctx, e, n.event(e, v)); err != nil {
			return err
		}
	}
	switch {
	case closed != nil && closed.Outcome == events.Granted:
		return n.revoke(ctx, e.Login)
	case final(history):
		return nil
	default:
		return bus.RetryAfter(closeWait, nil)
	}
}

// final tells whether the end of a login is known. One that is cancelled may still turn out to have been granted.
func final(history bus.History) bool {
	closed, _ := bus.Get[*events.Closed](history, 0)
	lapsed, _ := bus.Get[*events.Lapsed](history, 0)
	return closed != nil || lapsed != nil
}

// alarm keeps pushes away from a user for a while and raises the alert, of which a login has one.
func (n *notifier) alarm(ctx context.Context, user string, login events.Login) error {
	if err := n.store.cool(ctx, user, n.now().Add(n.settings.Cooldown)); err != nil {
		return err
	}
	return n.bus.AlertOf(ctx, login, "not-me", user, map[string]string{"login": login.String()})
}

// revoke ends the session of a login, if it has one, and tells its gateway: also if it was ended before, since who ended it
// may have died before it told.
func (n *notifier) revoke(ctx context.Context, login events.Login) error {
	if _, err := n.sessions.Revoke(ctx, login, "not_me"); err != nil {
		return err
	}
	return n.bus.Revoke(ctx, login)
}
