package gateway

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/gateway/pages"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/sessions"
)

// aboutDevices is what the forms of the page /devices are about.
const aboutDevices = "devices"

// devicesPage answers GET /devices: the user's phones.
func (g *gateway) devicesPage(w http.ResponseWriter, r *http.Request) error {
	s, err := g.session(r, true)
	if errors.Is(err, errNobody) {
		toDevicesByLogin(w, r)
		return nil
	}
	if err != nil {
		return err
	}
	return g.showDevices(w, r, s, http.StatusOK, "")
}

func toDevicesByLogin(w http.ResponseWriter, r *http.Request) {
	http.Redirect(w, r, pages.SignInURL(demoApp, "", "/devices", false), http.StatusSeeOther)
}

// moreForDevices leads to the login after which the user may change phones, and from there back to the page.
func moreForDevices(w http.ResponseWriter, r *http.Request, response events.DeviceResponse) error {
	if response.Authenticate == "" { // the session has ended meanwhile
		toDevicesByLogin(w, r)
		return nil
	}
	var more httpapi.Problem
	if err := json.Unmarshal(response.Body, &more); err != nil {
		return fmt.Errorf("answer of pushnotifier: %w", err)
	}
	http.Redirect(w, r, pages.SignInURL(more.App, more.ACR, "/devices", more.Method != string(fromSession)), http.StatusSeeOther)
	return nil
}

func (g *gateway) showDevices(w http.ResponseWriter, r *http.Request, s *sessions.Session, status int, problem string) error {
	response, err := g.hand(r, events.DeviceRequest{Session: s.Login.ID, Method: http.MethodGet, Path: "/v1/devices"})
	if err != nil {
		return err
	}
	if response.Status == http.StatusUnauthorized { // the session has ended meanwhile
		toDevicesByLogin(w, r)
		return nil
	}
	var list struct {
		Devices []struct {
			ID       string    `json:"id"`
			Name     string    `json:"name"`
			Enrolled time.Time `json:"enrolled"`
			Seen     time.Time `json:"seen"`
		} `json:"devices"`
	}
	if err := readResponse(response, &list); err != nil {
		return err
	}
	page := pages.Devices{User: s.Name, App: s.App, Fresh: g.fresh(s), Problem: problem, CSRF: g.formToken(w, r, aboutDevices)}
	for _, d := range list.Devices {
		if d.Seen.IsZero() {
			d.Seen = d.Enrolled
		}
		page.Devices = append(page.Devices, pages.Device(d))
	}
	return g.pages.Render(w, status, g.language(w, r), page)
}

// inviteForm answers POST /devices with a link, good once, by which a phone becomes the user's. It is shown, and kept nowhere.
func (g *gateway) inviteForm(w http.ResponseWriter, r *http.Request) error {
	return g.changeDevices(w, r, http.MethodPost, "/v1/activations", nil, func(response events.DeviceResponse) error {
		var invitation struct {
			URL     string    `json:"activation_url"`
			QR      string    `json:"qr_svg"`
			Expires time.Time `json:"expires"`
		}
		if err := readResponse(response, &invitation); err != nil {
			return err
		}
		// As an image, a picture can do nothing but be looked at.
		picture := template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString([]byte(invitation.QR)))
		return g.pages.Render(w, http.StatusOK, g.language(w, r), pages.Invitation{
			URL: invitation.URL, QR: picture, Expires: invitation.Expires, Now: g.now()})
	})
}

// renameForm answers POST /devices/{id}.
func (g *gateway) renameForm(w http.ResponseWriter, r *http.Request) error {
	body := func() any { return map[string]string{"name": strings.TrimSpace(r.PostForm.Get("name"))} }
	return g.changeDevices(w, r, http.MethodPatch, devicePath(r), body, nil)
}

// removeForm answers POST /devices/{id}/remove.
func (g *gateway) removeForm(w http.ResponseWriter, r *http.Request) error {
	return g.changeDevices(w, r, http.MethodDelete, devicePath(r), nil, nil)
}

var deviceID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// devicePath is the path of the phone that a form is about, empty if there can be no such phone.
func devicePath(r *http.Request) string {
	id := r.PathValue("id")
	if !deviceID.MatchString(id) {
		return ""
	}
	return "/v1/devices/" + id
}

// changeDevices does what a form of the page asks for, then shows the result, by default the page.
func (g *gateway) changeDevices(w http.ResponseWriter, r *http.Request, method, path string, body func() any, show func(events.DeviceResponse) error) error {
	if err := g.readForm(w, r, aboutDevices); err != nil {
		return err
	}
	if path == "" {
		return &httpapi.Problem{Status: http.StatusNotFound}
	}
	s, err := g.session(r, true)
	if errors.Is(err, errNobody) {
		toDevicesByLogin(w, r)
		return nil
	}
	if err != nil {
		return err
	}
	if !g.fresh(s) { // it was when the form was drawn; the page says what to do
		http.Redirect(w, r, "/devices", http.StatusSeeOther)
		return nil
	}
	q := events.DeviceRequest{Session: s.Login.ID, Method: method, Path: path}
	if body != nil {
		if q.Body, err = json.Marshal(body()); err != nil {
			return err
		}
	}
	response, err := g.hand(r, q)
	switch {
	case err != nil:
		return err
	case response.Status == http.StatusUnauthorized:
		return moreForDevices(w, r, response)
	case response.Status == http.StatusUnprocessableEntity:
		return g.showDevices(w, r, s, response.Status, "bad_name")
	case response.Status == http.StatusConflict:
		return g.showDevices(w, r, s, response.Status, "too_many")
	case show != nil:
		return show(response)
	case response.Status/100 != 2 && response.Status != http.StatusNotFound: // not found: removed meanwhile
		return &httpapi.Problem{Status: response.Status}
	}
	http.Redirect(w, r, "/devices", http.StatusSeeOther)
	return nil
}
