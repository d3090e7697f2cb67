package pushnotifier

import (
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sekisho/sekisho/services/internal/activation"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// maxName bounds the name of a device, in characters.
const maxName = 64

// A deviceView is a device as its user sees it.
type deviceView struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	User     string    `json:"user,omitempty"` // with the answer to an enrollment
	Enrolled time.Time `json:"enrolled"`
	Seen     time.Time `json:"seen,omitzero"`
	This     bool      `json:"this,omitempty"` // the device that asks
}

func view(d directory.Device, c caller) deviceView {
	return deviceView{ID: d.ID, Name: d.Name, Enrolled: d.Enrolled.UTC(), Seen: d.Seen.UTC(), This: d.ID == c.device.ID}
}

// activate invites the signed-in user to enroll a device.
func (n *notifier) activate(w http.ResponseWriter, r *http.Request, c caller) error {
	code, expires, err := n.devices.Activate(r.Context(), c.user, n.settings.Activation, n.settings.Devices)
	switch {
	case errors.Is(err, directory.ErrTooManyDevices):
		return errTooManyDevices
	case errors.Is(err, directory.ErrNotFound):
		return errStranger
	case err != nil:
		return err
	}
	url := activation.URL(c.base, code)
	picture, err := activation.QR(url)
	if err != nil {
		return err
	}
	httpapi.Write(w, http.StatusCreated, map[string]any{"activation_url": url, "qr_svg": picture, "expires": expires.UTC()})
	return nil
}

var errTooManyDevices = &httpapi.Problem{Status: http.StatusConflict, Detail: "there are as many devices as a user may have: remove one first"}

// enroll adds a device. It has no id yet, so its proof carries the key that it brings. The proof's id is not recorded: the invitation
// can be used once, so the proof can.
func (n *notifier) enroll(w http.ResponseWriter, r *http.Request, c caller) error {
	var asked struct {
		Activation string `json:"activation"`
		Name       string `json:"name"`
		PublicKey  string `json:"public_key"`
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if err := httpapi.Decode(w, r, maxBody, &asked); err != nil {
		return err
	}
	name, err := nameOf(asked.Name)
	if err != nil {
		return err
	}
	point, err := base64.RawURLEncoding.DecodeString(asked.PublicKey)
	if err != nil {
		return httpapi.Invalid("public_key", "want base64url without padding")
	}
	key, err := readKey(point)
	if err != nil {
		return httpapi.Invalid("public_key", "want an uncompressed point of P-256: 65 bytes")
	}
	var p proof
	err = verify(c.proof, proofType, &p, func(h header) (*ecdsa.PublicKey, error) {
		if h.key == nil || !h.key.Equal(key) {
			return nil, errToken
		}
		return key, nil
	})
	if err != nil || p.check(r.Method, r.URL.Path, body, n.now()) != nil {
		return errStranger
	}
	device, err := n.devices.Enroll(r.Context(), asked.Activation, directory.Device{Name: name, PublicKey: point, Gateway: c.gateway}, n.settings.Devices)
	switch {
	case errors.Is(err, directory.ErrNoActivation):
		return httpapi.Invalid("activation", "unknown, used, or out of time")
	case errors.Is(err, directory.ErrTooManyDevices):
		return errTooManyDevices
	case err != nil:
		return err
	}
	shown := view(device, caller{})
	if shown.User, err = n.accounts.NameOf(r.Context(), device.User); err != nil { // before others are told, which may take all the time there is
		return err
	}
	if err := n.changed(r.Context(), deviceEnrolled, device, device.ID, device.ID); err != nil {
		// The phone has to learn its id all the same: the invitation is used up, so it could not ask again. The others are told by retell.
		n.log.Error().Err(err).Msg("an enrollment is not told yet")
	}
	httpapi.Write(w, http.StatusCreated, struct {
		Device deviceView `json:"device"`
		VAPID  string     `json:"vapid,omitempty"`
		App    string     `json:"app"`
	}{shown, n.vendors.vapid, "Sekisho"})
	return nil
}

// listDevices lists the user's devices.
func (n *notifier) listDevices(w http.ResponseWriter, r *http.Request, c caller) error {
	devices, err := n.devices.List(r.Context(), c.user)
	if err != nil {
		return err
	}
	views := make([]deviceView, len(devices))
	for i, d := range devices {
		views[i] = view(d, c)
	}
	answer := map[string]any{"devices": views}
	if c.device.ID != "" && n.vendors.vapid != "" {
		answer["vapid"] = n.vendors.vapid
	}
	httpapi.Write(w, http.StatusOK, answer)
	return nil
}

// renameDevice gives one of the user's devices another name.
func (n *notifier) renameDevice(w http.ResponseWriter, r *http.Request, c caller) error {
	var asked struct {
		Name string `json:"name"`
	}
	if err := httpapi.Decode(w, r, maxBody, &asked); err != nil {
		return err
	}
	name, err := nameOf(asked.Name)
	if err != nil {
		return err
	}
	device, err := n.devices.Rename(r.Context(), c.user, r.PathValue("id"), name, c.device.ID)
	if errors.Is(err, directory.ErrNoDevice) {
		return &httpapi.Problem{Status: http.StatusNotFound}
	}
	if err != nil {
		return err
	}
	if err := n.changed(r.Context(), deviceRenamed, device, rand.Text(), c.device.ID); err != nil {
		return err
	}
	httpapi.Write(w, http.StatusOK, view(device, c))
	return nil
}

// removeDevice removes one of the user's devices. From then on its key is worth nothing, not even for what it was asked before.
func (n *notifier) removeDevice(w http.ResponseWriter, r *http.Request, c caller) error {
	device, err := n.devices.Get(r.Context(), r.PathValue("id"))
	if err == nil {
		err = n.devices.Remove(r.Context(), c.user, device.ID, c.device.ID) // not another user's
	}
	if errors.Is(err, directory.ErrNoDevice) {
		return &httpapi.Problem{Status: http.StatusNotFound}
	}
	if err != nil {
		return err
	}
	n.nudge(device) // it finds out by asking
	if err := n.changed(r.Context(), deviceRemoved, device, device.ID, c.device.ID); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// subscribe says how the device is told from now on.
func (n *notifier) subscribe(w http.ResponseWriter, r *http.Request, c caller) error {
	var asked struct {
		Transport directory.Transport `json:"transport"`
		Target    json.RawMessage     `json:"target"`
	}
	if err := httpapi.Decode(w, r, maxBody, &asked); err != nil {
		return err
	}
	switch {
	case asked.Transport == directory.Polling:
		asked.Target = nil
	case n.vendors.courier.check(Target{Device: c.device.ID, Transport: asked.Transport, Address: asked.Target}) != nil:
		return httpapi.Invalid("target", "not what this transport sends to, or not where it may send")
	}
	if err := n.devices.SetTarget(r.Context(), c.device.ID, asked.Transport, asked.Target); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// openStream lets a gateway keep a channel open to the device that it names. The gateway writes to it by the hints that it hears.
func (n *notifier) openStream(w http.ResponseWriter, r *http.Request, c caller) error {
	httpapi.Write(w, http.StatusOK, map[string]string{"device": c.device.ID})
	return nil
}

// nameOf is the name of a device as it is kept, or the problem with it.
func nameOf(name string) (string, error) {
	name = strings.TrimSpace(name)
	if name == "" || utf8.RuneCountInString(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", httpapi.Invalid("name", "want 1 to 64 characters that can be seen")
	}
	return name, nil
}
