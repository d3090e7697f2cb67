package gateway

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mileusna/useragent"

	"github.com/sekisho/sekisho/events"
)

// prompt is what the user's phone asks for and shows, nil where the app sends no pushes.
func (g *gateway) prompt(r *http.Request, app, lang string, login events.Login) *events.Prompt {
	a := g.policy.Policy().Apps[app]
	if a == nil || !slices.Contains(a.Factors, events.Push) {
		return nil
	}
	p := &events.Prompt{Number: g.keys.number(login), App: a.Name.In(lang), Place: g.place(r), Browser: browserInWords(r.UserAgent())}
	if a.Name.EN != a.Name.JA {
		p.Names = events.Names(a.Name)
	}
	return p
}

// number is the number that the login page shows and the phone asks for: six digits that follow from the login, so that
// every instance of the gateway shows the same one and none has to keep it.
func (k *keys) number(login events.Login) string {
	sum := k.mac(promptNumber, login.String())
	offset := sum[len(sum)-1] & 0x0f // the dynamic truncation of RFC 4226 section 5.3
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[offset:])&0x7fffffff%1_000_000)
}

// maxPlace bounds what a proxy says of where a client is, in characters.
const maxPlace = 64

// place is where a login comes from: the client's address, and what the proxies know of it.
func (g *gateway) place(r *http.Request) string {
	address := g.border.client(r)
	if !address.IsValid() {
		return ""
	}
	name := g.cfg.Gateway.PlaceHeader
	if name == "" {
		return address.String()
	}
	where := strings.TrimSpace(g.border.forwarded(r, name))
	if where == "" || !utf8.ValidString(where) || utf8.RuneCountInString(where) > maxPlace || strings.ContainsFunc(where, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return address.String()
	}
	return where + " (" + address.String() + ")"
}

// Browsers and systems as people call them. Whatever else a client calls itself is not passed on: it would put a stranger's
// words on the user's phone.
var (
	browsers = map[string]string{
		useragent.Chrome: "Chrome", useragent.HeadlessChrome: "Chrome", useragent.Firefox: "Firefox", useragent.Safari: "Safari",
		useragent.MobileSafari: "Safari", useragent.Edge: "Edge", useragent.Opera: "Opera", useragent.OperaMini: "Opera",
		useragent.OperaTouch: "Opera", useragent.Vivaldi: "Vivaldi", useragent.SamsungBrowser: "Samsung Internet",
	}
	systems = map[string]string{
		useragent.Windows: "Windows", useragent.MacOS: "macOS", useragent.IOS: "iOS", useragent.Android: "Android",
		useragent.Linux: "Linux", useragent.ChromeOS: "ChromeOS", useragent.CrOS: "ChromeOS", useragent.FreeBSD: "FreeBSD",
	}
)

// browserInWords is a User-Agent header in a few words, empty if it names nothing that people know.
func browserInWords(header string) string {
	ua := useragent.Parse(cut(header))
	words := []string{browsers[ua.Name], systems[ua.OS]}
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), ", ")
}
