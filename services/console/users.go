package console

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
)

// user is a user as the admin API shows it.
type user struct {
	User           string            `json:"user"`
	ID             string            `json:"id"`
	Locale         string            `json:"locale"`
	Primary        directory.Primary `json:"primary"`
	Phone          string            `json:"phone,omitempty"` // E.164
	Enabled        bool              `json:"enabled"`
	Locked         bool              `json:"locked"` // by an admin; locks by failures are the authenticators'
	Created        time.Time         `json:"created"`
	Authenticators []string          `json:"authenticators"`
}

func show(u directory.User) user {
	shown := user{
		User: u.Name, ID: u.ID, Locale: u.Locale, Primary: u.Primary, Phone: u.Phone, Enabled: u.Enabled, Locked: u.Locked,
		Created: u.Created.UTC(), Authenticators: []string{},
	}
	if u.HasPassword {
		shown.Authenticators = append(shown.Authenticators, authPassword)
	}
	if u.Phone != "" {
		shown.Authenticators = append(shown.Authenticators, authSMS)
	}
	if u.HasDevice {
		shown.Authenticators = append(shown.Authenticators, authPush)
	}
	if u.HasToken {
		shown.Authenticators = append(shown.Authenticators, authToken)
	}
	return shown
}

// find is the user of the request's path.
func (c *console) find(r *http.Request) (directory.User, error) {
	return c.named(r.Context(), r.PathValue("user"))
}

// named is the user whom an admin calls so.
func (c *console) named(ctx context.Context, name string) (directory.User, error) {
	canonical, err := directory.CanonicalName(name)
	if err != nil {
		return directory.User{}, directory.ErrNotFound
	}
	return c.users.Get(ctx, canonical)
}

func (c *console) createUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var in struct {
		User string `json:"user"`
		settings
	}
	if err := httpapi.Decode(w, r, maxBody, &in); err != nil {
		return 0, nil, err
	}
	name, err := directory.CanonicalName(in.User)
	if err != nil {
		return 0, nil, httpapi.Invalid("user", "want a user name without spaces, of at most 128 bytes (RFC 8265 UsernameCaseMapped)")
	}
	change, err := c.change(r.Context(), name, in.settings)
	if err != nil {
		return 0, nil, err
	}
	value := directory.User{Name: name, Locale: "ja", Primary: directory.Password}
	set(&value.Locale, change.Locale)
	set(&value.Primary, change.Primary)
	set(&value.Phone, change.Phone)
	hash := ""
	set(&hash, change.PasswordHash)
	created, err := c.users.Create(r.Context(), value, hash)
	if err != nil {
		return 0, nil, err
	}
	w.Header().Set("Location", "/admin/v1/users/"+url.PathEscape(created.Name))
	return http.StatusCreated, show(created), nil
}

func set[T any](dst *T, value *T) {
	if value != nil {
		*dst = *value
	}
}

func (c *console) listUsers(w http.ResponseWriter, r *http.Request) (int, any, error) {
	prefix := r.FormValue("q")
	if prefix != "" {
		var err error
		if prefix, err = directory.CanonicalName(prefix); err != nil {
			return 0, nil, httpapi.Invalid("q", "want the beginning of a user name")
		}
	}
	page, err := pageOf(r)
	if err != nil {
		return 0, nil, err
	}
	found, more, err := c.users.List(r.Context(), prefix, page)
	if err != nil {
		return 0, nil, err
	}
	list := struct {
		Users []user `json:"users"`
		Next  int    `json:"next,omitempty"` // the next page, if there is one
	}{Users: make([]user, len(found))}
	for i, u := range found {
		list.Users[i] = show(u)
	}
	if more {
		list.Next = page + 1
	}
	return http.StatusOK, list, nil
}

// maxPage bounds how far a list can be leafed through; who wants more asks for a longer prefix.
const maxPage = 10_000

// pageOf is the page of a list that a request asks for.
func pageOf(r *http.Request) (int, error) {
	text := r.FormValue("page")
	if text == "" {
		return 1, nil
	}
	page, err := strconv.Atoi(text)
	if err != nil || page < 1 || page > maxPage {
		return 0, httpapi.Invalid("page", fmt.Sprintf("want a number from 1 to %d", maxPage))
	}
	return page, nil
}

func (c *console) getUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, show(u), nil
}

// settings are what an admin can set of a user; what is absent stays as it is, and "" takes a password or a phone away.
type settings struct {
	Password *string            `json:"password"`
	Phone    *string            `json:"phone"`
	Locale   *string            `json:"locale"`
	Primary  *directory.Primary `json:"primary"`
}

// change checks the settings of a user, by canonical name, and brings them into the form of the directory.
func (c *console) change(ctx context.Context, user string, in settings) (directory.Change, error) {
	out := directory.Change{Locale: in.Locale, Primary: in.Primary}
	if in.Locale != nil && *in.Locale != "ja" && *in.Locale != "en" {
		return out, httpapi.Invalid("locale", "want ja or en")
	}
	if in.Primary != nil && *in.Primary != directory.Password && *in.Primary != directory.Token {
		return out, httpapi.Invalid("primary", "want password or token")
	}
	if out.Phone = in.Phone; in.Phone != nil && *in.Phone != "" {
		number, err := directory.ParsePhone(*in.Phone, c.cfg.Phone.Region)
		if err != nil {
			return out, httpapi.Invalid("phone", "want a phone number in E.164, or a national one of "+c.cfg.Phone.Region)
		}
		out.Phone = &number
	}
	if out.PasswordHash = in.Password; in.Password != nil && *in.Password != "" {
		normal, least := directory.NormalizePassword(*in.Password), c.cfg.Password.MinLength
		if utf8.RuneCountInString(normal) < least || len(normal) > directory.MaxPassword {
			return out, httpapi.Invalid("password", fmt.Sprintf("want %d characters or more, and at most %d bytes", least, directory.MaxPassword))
		}
		if c.blocklist.Blocks(normal, user) {
			return out, httpapi.Invalid("password", "too common: want one that guessers do not try first")
		}
		hash, err := c.hasher.Hash(ctx, *in.Password)
		if err != nil {
			return out, err
		}
		out.PasswordHash = &hash
	}
	return out, nil
}

func (c *console) changeUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var in struct {
		settings
		Enabled *bool `json:"enabled"`
	}
	if err := httpapi.Decode(w, r, maxBody, &in); err != nil {
		return 0, nil, err
	}
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	change, err := c.change(r.Context(), u.Name, in.settings)
	if err != nil {
		return 0, nil, err
	}
	change.Enabled = in.Enabled
	changed, err := c.apply(r.Context(), u.ID, change)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, show(changed), nil
}

// apply makes a change and ends the sessions that must not outlive it.
func (c *console) apply(ctx context.Context, id string, change directory.Change) (directory.User, error) {
	changed, err := c.users.Change(ctx, id, change)
	if err == nil && (change.Ends() || !changed.Enabled || changed.Locked) {
		err = c.endSessions(ctx, id)
	}
	return changed, err
}

func (c *console) deleteUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	// Nobody can begin a session of a locked user, so none is left when the user goes. A failure leaves the user locked
	// and there, for the admin to try again.
	if _, err := c.apply(r.Context(), u.ID, directory.Change{Locked: new(true)}); err != nil {
		return 0, nil, err
	}
	if err := c.users.Delete(r.Context(), u.ID); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

func (c *console) lockUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	locked, err := c.apply(r.Context(), u.ID, directory.Change{Locked: new(true)})
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, show(locked), nil
}

// unlockUser takes back an admin's lock, and the locks by failures of all authenticators.
func (c *console) unlockUser(w http.ResponseWriter, r *http.Request) (int, any, error) {
	u, err := c.find(r)
	if err != nil {
		return 0, nil, err
	}
	if err := c.users.Unlock(r.Context(), u.ID); err != nil {
		return 0, nil, err
	}
	u.Locked = false
	return http.StatusOK, show(u), nil
}
