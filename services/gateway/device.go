package gateway

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
)

const (
	deviceName = "__Host-sekisho_device"
	deviceAge  = 400 * 24 * time.Hour // the longest that browsers keep a cookie (RFC 6265bis)
	maxUsers   = 5                    // users that one browser remembers

	// deviceHeader is how a client without cookies sends what it got as device_token.
	deviceHeader = "Sekisho-Device"
)

// A device is what a browser, or a client without cookies, knows of itself: a random name, and the opaque ids of those who logged in
// with it, the last first. Failures of strangers do not lock them out of it, and their logins with it come from nowhere new.
type device struct {
	ID    string   `json:"id"`
	Users []string `json:"users"`
}

// device reads what the client knows of itself. What this gateway has not written is no device. cookies tells whether the request's
// cookies speak for their owner.
func (g *gateway) device(r *http.Request, cookies bool) device {
	var d device
	token := r.Header.Get(deviceHeader)
	if token == "" && cookies {
		token = cookieValue(r, deviceName)
	}
	data, mac, _ := strings.Cut(token, ".")
	sum, err := tokenEncoding.DecodeString(mac)
	if err != nil || !g.keys.valid(deviceCookie, data, sum) {
		return d
	}
	if raw, err := tokenEncoding.DecodeString(data); err != nil || json.Unmarshal(raw, &d) != nil {
		return device{}
	}
	return d
}

// deviceToken is what the client is to remember of itself from now on: that the user logged in with it. The name of a new device
// follows from the login, so that one login makes one device, however often its answer is read.
func (g *gateway) deviceToken(r *http.Request, cookies bool, login events.Login, user string) (string, error) {
	d := g.device(r, cookies)
	if d.ID == "" {
		d.ID = tokenEncoding.EncodeToString(g.keys.mac(newDevice, login.String())[:16])
	}
	others := slices.DeleteFunc(d.Users, func(u string) bool { return u == user })
	d.Users = append([]string{user}, others[:min(len(others), maxUsers-1)]...)
	raw, err := json.Marshal(d)
	if err != nil {
		return "", err
	}
	data := tokenEncoding.EncodeToString(raw)
	return data + "." + tokenEncoding.EncodeToString(g.keys.mac(deviceCookie, data)), nil
}
