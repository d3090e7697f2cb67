package console

import (
	"cmp"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sekisho/sekisho/services/internal/activation"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// activate invites the user to enroll a phone. The answer is the invitation itself: whoever opens the URL first has a phone of
// that user, so it must reach the user alone.
func (c *console) activate(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	base := cmp.Or(c.cfg.Gateway.URL, c.cfg.Gateway.Base)
	if base == "" {
		return 0, nil, &httpapi.Problem{Status: http.StatusConflict, Detail: "nobody knows where the gateway is: set gateway.url"}
	}
	code, expires, err := c.devices.Activate(r.Context(), u.ID, c.cfg.Push.Activation, c.cfg.Push.Devices)
	if err != nil {
		return 0, nil, err
	}
	url := activation.URL(base, code)
	svg, err := activation.QR(url)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, struct {
		URL     string    `json:"activation_url"`
		QR      string    `json:"qr_svg"`
		Expires time.Time `json:"expires"`
	}{url, svg, expires.UTC()}, nil
}

// maxText bounds what a phone is called and what a provider calls its user, in characters.
const maxText = 64

// link records that the user approves at the provider that hosts approvals, where push.mamoru names one.
func (c *console) link(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var in struct {
		Kind    directory.Kind `json:"kind"`
		Account string         `json:"account"`
		Name    string         `json:"name"`
	}
	if err := httpapi.Decode(w, r, maxBody, &in); err != nil {
		return 0, nil, err
	}
	switch {
	case in.Kind != directory.Mamoru:
		return 0, nil, httpapi.Invalid("kind", "want mamoru; a phone is enrolled by an activation")
	case !isText(in.Account):
		return 0, nil, httpapi.Invalid("account", "want the provider's name of the user, of 1 to 64 characters that can be seen")
	case in.Name != "" && !isText(in.Name):
		return 0, nil, httpapi.Invalid("name", "want at most 64 characters that can be seen")
	}
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	linked := directory.Device{User: u.ID, Name: cmp.Or(in.Name, "Mamoru"), Account: in.Account, Gateway: c.cfg.Gateway.Name}
	id, name, err := c.devices.Link(r.Context(), linked, c.cfg.Push.Devices)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusCreated, map[string]string{"id": directory.DeviceOf(id), "kind": authPush, "name": name}, nil
}

func isText(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= maxText && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}
