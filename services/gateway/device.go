package gateway

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	deviceName = "__Host-sekisho_device"
	deviceAge  = 400 * 24 * time.Hour // the longest that browsers keep a cookie (RFC 6265bis)
	maxUsers   = 5                    // users that one browser remembers
)

// A device is what a browser knows of itself: a random name, and the opaque ids of those who logged in with it, the last
// first. Failures of strangers do not lock them out of it.
type device struct {
	ID    string   `json:"id"`
	Users []string `json:"users"`
}

// device reads the browser's cookie. What this gateway has not written is no device.
func (g *gateway) device(r *http.Request) device {
	var d device
	cookie, err := r.Cookie(deviceName)
	if err != nil {
		return d
	}
	data, mac, _ := strings.Cut(cookie.Value, ".")
	sum, err := tokenEncoding.DecodeString(mac)
	if err != nil || !g.keys.valid(deviceCookie, data, sum) {
		return d
	}
	if raw, err := tokenEncoding.DecodeString(data); err != nil || json.Unmarshal(raw, &d) != nil {
		return device{}
	}
	return d
}

// rememberDevice notes in the browser that the user logged in with it.
func (g *gateway) rememberDevice(w http.ResponseWriter, r *http.Request, user string) error {
	d := g.device(r)
	if d.ID == "" {
		d.ID = rand.Text()
	}
	others := slices.DeleteFunc(d.Users, func(u string) bool { return u == user })
	d.Users = append([]string{user}, others[:min(len(others), maxUsers-1)]...)
	raw, err := json.Marshal(d)
	if err != nil {
		return err
	}
	data := tokenEncoding.EncodeToString(raw)
	value := data + "." + tokenEncoding.EncodeToString(g.keys.mac(deviceCookie, data))
	http.SetCookie(w, hostCookie(deviceName, value, deviceAge))
	return nil
}
