package pushnotifier

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

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

// tell writes a notice for the devices of its user, except for some, such as the one that did what the notice tells. It returns the
// devices that it is for, and what came of it.
func (n *notifier) tell(ctx context.Context, told notice, except func(directory.Device) bool) (devices []directory.Device, done telling, err error) {
	if devices, err = n.devices.List(ctx, told.User); err != nil {
		return nil, telling{}, err
	}
	devices = slices.DeleteFunc(devices, func(d directory.Device) bool { return except(d) || d.Kind != directory.Sekisho })
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

// changed tells the user's other devices of a change of one, by name. If the process dies first, retell tells of an enrollment or a
// removal, whose events are in the outbox, without the name of a removed device.
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

// follow tells devices what ACCOUNT says of their users, until ctx ends: logins from a new environment, which riskassessor
// reports, and changes of their devices. What has been told is not told again, so if one message of a batch fails, the whole
// batch may come again. This process does not look again at those of them that it has told: a phone would ring each time.
func (n *notifier) follow(ctx context.Context) error {
	return n.bus.Batches(ctx, bus.StreamAccount, accountBatch, accountWait, func(ctx context.Context, batch []bus.Stored) error {
		var all errgroup.Group
		all.SetLimit(accountAtOnce)
		for _, message := range batch {
			all.Go(func() error {
				told := heeded{message.Sequence, message.Time.UnixNano()}
				if n.heeded.Contains(told) {
					return nil
				}
				err := n.heed(ctx, message)
				if err == nil {
					n.heeded.Add(told, struct{}{})
				}
				return err
			})
		}
		return all.Wait()
	})
}

// A heeded message of ACCOUNT: its place, and its time, since places begin anew when the broker has lost its store.
type heeded struct {
	sequence uint64
	at       int64
}

// about takes apart the subjects that are told. Whatever else is in ACCOUNT is skipped.
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

// retell tells devices of a change that an admin has made, or whose process died before it told. Devices that were enrolled after
// the change are not told, so that an event that is published again brings no news.
func (n *notifier) retell(ctx context.Context, kind, user string, message bus.Stored) error {
	var made directory.DeviceChange
	ce, err := events.ReadMessage(message.Header, message.Data)
	if err != nil || json.Unmarshal(ce.Data(), &made) != nil {
		return errMalformed
	}
	told := notice{User: user, Kind: kind, Cause: made.Device}
	if kind == deviceEnrolled {
		device, err := n.devices.Get(ctx, made.Device)
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
// becomes of it, and silently beyond the limit. Only a device that has approved this very login is not told: it has just shown the
// same place and browser, and users who are asked twice learn to say yes without looking. The login's own events are believed before the
// alert, for as long as they are there.
func (n *notifier) warn(ctx context.Context, user string, message bus.Stored) error {
	var said alert
	if json.Unmarshal(message.Data, &said) != nil || said.App == "" || len(said.App) > maxApp || strings.ContainsFunc(said.App, unicode.IsControl) {
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

const maxApp = 64 // bytes of an app's name, as the events of a login have it

var noticeID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// weighNotice takes an answer that names a notice as one that disowns its login. The notice's row must say that the user disowned it,
// as it does before such an answer is stored: so a gateway that makes one up gets nowhere.
func (n *notifier) weighNotice(ctx context.Context, e *events.Event, id string, v *verdict) error {
	if !noticeID.MatchString(id) {
		return nil
	}
	told, err := n.store.disowned(ctx, id)
	if err == nil && told != nil && told.Login == e.Login {
		v.reason = events.RejectedNotMe
	}
	return err
}

// protest takes a user's word, given with a notice, that a login was not theirs. An open login gets an answer that says so, and
// decide does the rest. If the login has ended, only its session is left to be ended.
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
