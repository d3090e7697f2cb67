package console

import (
	"cmp"
	"context"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/httpapi"
	"github.com/sekisho/sekisho/services/internal/oath"
	"github.com/sekisho/sekisho/services/internal/tokenfile"
)

// maxImport bounds a token file, in bytes: some ten thousand tokens of PSKC.
const maxImport = 16 << 20

// A shownToken is a one-time password token as the admin API shows it: never its secret, its PIN, or where it stands.
type shownToken struct {
	Serial       string         `json:"serial"` // as it is printed on the token
	ID           string         `json:"id"`     // what stands for it on the bus
	Algorithm    oath.Algorithm `json:"algorithm"`
	Suite        string         `json:"suite,omitempty"`
	Hash         oath.Hash      `json:"hash,omitempty"`
	Digits       int            `json:"digits"`           // of a code
	Period       int            `json:"period,omitempty"` // seconds
	User         string         `json:"user,omitempty"`
	PIN          bool           `json:"pin"`                  // there is one
	Disabled     bool           `json:"disabled"`             // by an admin
	Locked       bool           `json:"locked"`               // by failures, with all tokens of the user
	Failures     int            `json:"failures"`             // in a row, of all tokens of the user
	Reset        bool           `json:"reset"`                // the next code is looked for far away
	Unreadable   bool           `json:"unreadable,omitempty"` // sealed under another key than keys/token.key: it can only be deleted
	Manufacturer string         `json:"manufacturer,omitempty"`
	Model        string         `json:"model,omitempty"`
	Starts       time.Time      `json:"starts,omitzero"`
	Expires      time.Time      `json:"expires,omitzero"`
	Imported     time.Time      `json:"imported"`
	Assigned     time.Time      `json:"assigned,omitzero"`
	Used         time.Time      `json:"used,omitzero"`
}

func showToken(t directory.OTPToken) shownToken {
	return shownToken{
		Serial: t.Serial, ID: t.ID, Algorithm: t.Token.Algorithm, Suite: t.Token.Suite, Hash: t.Token.Hash, Digits: t.Token.Length(),
		Period: int(t.Token.Period / time.Second), User: t.UserName, PIN: t.PIN != "", Disabled: t.Disabled, Locked: t.Locked, Failures: t.Failures,
		Reset: t.Wide, Unreadable: t.Unreadable, Manufacturer: t.Manufacturer, Model: t.Model, Starts: t.Starts.UTC(), Expires: t.Expires.UTC(), Imported: t.Imported.UTC(),
		Assigned: t.Assigned.UTC(), Used: t.Used.UTC(),
	}
}

// A refusal is why a token of a file was not imported.
type refusal struct {
	Line   int    `json:"line"`   // of the file, where the token begins
	Serial string `json:"serial"` // "" where the file does not say, or what it says can be none
	Error  string `json:"error"`
}

// importTokens adds the tokens of a file. What is wrong with one does not keep the others out, so a file can be sent again as it is.
func (c *console) importTokens(w http.ResponseWriter, r *http.Request) (int, any, error) {
	read, err := reader(r.Header)
	if err != nil {
		return 0, nil, err
	}
	body, err := httpapi.ReadBody(w, r, maxImport)
	if err != nil {
		return 0, nil, err
	}
	found, problems, err := read(body)
	if err != nil {
		return 0, nil, httpapi.Invalid("", strings.TrimPrefix(err.Error(), "tokenfile: "))
	}
	var (
		tokens  []directory.OTPToken
		refused = []refusal{}
		lines   = make(map[string]int)
	)
	for _, p := range problems {
		refused = append(refused, refusal(p))
	}
	for _, t := range found {
		if lacking := c.unasked(t.Token); lacking != "" {
			refused = append(refused, refusal{t.Line, t.Serial, lacking})
			continue
		}
		lines[t.Serial] = t.Line
		tokens = append(tokens, directory.OTPToken{Serial: t.Serial, Token: t.Token, State: oath.State{Next: t.Counter, Drift: int64(t.Drift)},
			Manufacturer: t.Manufacturer, Model: t.Model, Starts: t.Starts, Expires: t.Expires})
	}
	// The file may have been long on its way; once it is here, all of it is added, whether the admin still waits or not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), patience)
	defer cancel()
	there, err := c.tokens.Import(ctx, tokens)
	if err != nil {
		return 0, nil, err
	}
	for _, serial := range there {
		refused = append(refused, refusal{lines[serial], serial, "there is a token of this serial number already, which stays as it is"})
	}
	slices.SortStableFunc(refused, func(a, b refusal) int { return cmp.Compare(a.Line, b.Line) })
	return http.StatusOK, struct {
		Imported int       `json:"imported"`
		Errors   []refusal `json:"errors"`
	}{len(tokens) - len(there), refused}, nil
}

// reader is what reads the file that a request brings, as its header says.
func reader(header http.Header) (func([]byte) ([]tokenfile.Token, []tokenfile.Problem, error), error) {
	media, params, err := mime.ParseMediaType(header.Get("Content-Type"))
	charset := strings.ToLower(cmp.Or(params["charset"], "utf-8"))
	key := header.Get("Sekisho-Import-Key")
	switch {
	case err != nil || charset != "utf-8" && charset != "us-ascii":
	case media == "application/pskc+xml":
		return func(data []byte) ([]tokenfile.Token, []tokenfile.Problem, error) { return tokenfile.PSKC(data, key) }, nil
	case media == "text/csv" && key != "": // with a key nobody can slip in a secret in clear: see tokenfile.PSKC
		return nil, httpapi.Invalid("Sekisho-Import-Key", "nothing in text/csv is encrypted: leave the key out")
	case media == "text/csv":
		return tokenfile.CSV, nil
	}
	return nil, &httpapi.Problem{Status: http.StatusUnsupportedMediaType, Detail: "want Content-Type: application/pskc+xml or text/csv, in UTF-8"}
}

// unasked says why a token that is asked a question could not be used as things are set; "" if it can.
func (c *console) unasked(t oath.Token) string {
	if t.Algorithm != oath.OCRA {
		return ""
	}
	suite, err := oath.ParseSuite(t.Suite)
	switch asked := c.cfg.Token.Question; {
	case err != nil:
		return strings.TrimPrefix(err.Error(), "oath: ")
	case asked == 0:
		return "the token has to be asked a question, and none is: set token.question"
	case asked > suite.Question():
		return fmt.Sprintf("the token takes questions of at most %d digits, and token.question says %d", suite.Question(), asked)
	}
	return ""
}

func (c *console) listTokens(w http.ResponseWriter, r *http.Request) (int, any, error) {
	prefix := r.FormValue("q")
	if prefix != "" && !isPrintable(prefix) {
		return 0, nil, httpapi.Invalid("q", "want the beginning of a serial number or of a user name")
	}
	page, err := pageOf(r)
	if err != nil {
		return 0, nil, err
	}
	found, more, err := c.tokens.List(r.Context(), prefix, page)
	if err != nil {
		return 0, nil, err
	}
	list := struct {
		Tokens []shownToken `json:"tokens"`
		Next   int          `json:"next,omitempty"` // the next page, if there is one
	}{Tokens: make([]shownToken, len(found))}
	for i, t := range found {
		list.Tokens[i] = showToken(t)
	}
	if more {
		list.Next = page + 1
	}
	return http.StatusOK, list, nil
}

// serialOf is the serial number of the request's path. The database refuses some of what can be none.
func serialOf(r *http.Request) (string, error) {
	serial := norm.NFC.String(r.PathValue("serial")) // as package tokenfile has it
	if !isPrintable(serial) {
		return "", directory.ErrNoToken
	}
	return serial, nil
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (c *console) getToken(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	return answerToken(r, c.tokens.Get)
}

// A deed is something done with the token of a serial number, which it returns as it is then.
type deed func(ctx context.Context, serial string) (directory.OTPToken, error)

// answerToken does something with the token of the request's path, and answers with it.
func answerToken(r *http.Request, do deed) (int, any, error) {
	serial, err := serialOf(r)
	if err != nil {
		return 0, nil, err
	}
	token, err := do(r.Context(), serial)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, showToken(token), nil
}

// withdrawn is a change after which nobody logs in with the token any more. Its user's sessions end.
func (c *console) withdrawn(change deed) deed {
	return func(ctx context.Context, serial string) (changed directory.OTPToken, err error) {
		token, err := c.tokens.Get(ctx, serial)
		if err != nil {
			return token, err
		}
		remove := func(ctx context.Context) (err error) {
			changed, err = change(ctx, serial)
			return err
		}
		if token.User == "" {
			err = remove(ctx)
		} else {
			err = c.take(ctx, token.User, remove)
		}
		return changed, err
	}
}

func (c *console) deleteToken(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	if _, _, err := answerToken(r, c.withdrawn(c.tokens.Delete)); err != nil {
		return 0, nil, err
	}
	return http.StatusNoContent, nil, nil
}

func (c *console) assignToken(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var in struct {
		User string `json:"user"`
	}
	if err := httpapi.Decode(w, r, maxBody, &in); err != nil {
		return 0, nil, err
	}
	if in.User == "" {
		return 0, nil, httpapi.Invalid("user", "want the name of a user")
	}
	return answerToken(r, func(ctx context.Context, serial string) (token directory.OTPToken, err error) {
		if token, err = c.tokens.Get(ctx, serial); err != nil { // before whatever is wrong with the user
			return token, err
		}
		u, err := c.named(ctx, in.User)
		if err != nil {
			return token, err
		}
		return c.tokens.Assign(ctx, serial, u.ID, c.cfg.Token.PerUser)
	})
}

func (c *console) unassignToken(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	return answerToken(r, c.withdrawn(c.tokens.Unassign))
}

func (c *console) disableToken(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	return answerToken(r, c.withdrawn(c.tokens.Disable))
}

// unlockToken takes back that the token was disabled, and what failures did to all tokens of its user.
func (c *console) unlockToken(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	return answerToken(r, c.tokens.Unlock)
}

func (c *console) resetToken(_ http.ResponseWriter, r *http.Request) (int, any, error) {
	return answerToken(r, func(ctx context.Context, serial string) (directory.OTPToken, error) {
		return c.tokens.Reset(ctx, serial, c.cfg.Token.Reset)
	})
}

func (c *console) resyncToken(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var in struct {
		Codes []string `json:"codes"`
	}
	if err := httpapi.Decode(w, r, maxBody, &in); err != nil {
		return 0, nil, err
	}
	if len(in.Codes) != 2 || slices.ContainsFunc(in.Codes, func(code string) bool { return !isDigits(code, oath.MinDigits, oath.MaxDigits) }) {
		return 0, nil, httpapi.Invalid("codes", fmt.Sprintf("want two codes of %d to %d digits, without a PIN", oath.MinDigits, oath.MaxDigits))
	}
	return answerToken(r, func(ctx context.Context, serial string) (directory.OTPToken, error) {
		token, err := c.tokens.Get(ctx, serial)
		if err == nil && token.Token.Algorithm == oath.OCRA {
			err = &httpapi.Problem{Status: http.StatusConflict, Detail: "the token is asked a question, without which its codes say nothing: reset it instead"}
		}
		if err != nil {
			return token, err
		}
		return c.tokens.Resync(ctx, serial, in.Codes[0], in.Codes[1], int64(c.cfg.Token.Resync))
	})
}

// Bounds of a PIN, in digits.
const (
	minPIN = 4
	maxPIN = 8
)

// setPIN sets a token's PIN, or takes it away. As with a password, whoever had the one before may hold sessions, which end.
func (c *console) setPIN(w http.ResponseWriter, r *http.Request) (int, any, error) {
	var in struct {
		PIN *string `json:"pin"`
	}
	if err := httpapi.Decode(w, r, maxBody, &in); err != nil {
		return 0, nil, err
	}
	if in.PIN == nil || *in.PIN != "" && !isDigits(*in.PIN, minPIN, maxPIN) {
		return 0, nil, httpapi.Invalid("pin", fmt.Sprintf("want %d to %d digits, or nothing between the quotes to take the PIN away", minPIN, maxPIN))
	}
	return answerToken(r, func(ctx context.Context, serial string) (directory.OTPToken, error) {
		token, err := c.tokens.SetPIN(ctx, serial, *in.PIN)
		if err == nil {
			err = c.endSessions(ctx, token.User)
		}
		return token, err
	})
}

func isDigits(s string, least, most int) bool {
	return len(s) >= least && len(s) <= most && strings.Trim(s, "0123456789") == ""
}
