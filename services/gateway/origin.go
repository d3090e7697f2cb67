package gateway

import (
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/sekisho/sekisho/services/internal/config"
)

// A border knows what is inside and what is outside: the gateway's own origin, the origins that it trusts, and the
// reverse proxies that it believes about who is asking.
type border struct {
	url     string // the gateway's own origin, if it is configured
	origins []string
	proxies []netip.Prefix
}

func newBorder(cfg config.Gateway) (*border, error) {
	b := &border{url: cfg.URL, origins: cfg.Origins}
	for _, network := range cfg.Proxies {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			return nil, err
		}
		b.proxies = append(b.proxies, prefix.Masked())
	}
	return b, nil
}

func (b *border) isProxy(addr netip.Addr) bool {
	return slices.ContainsFunc(b.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// peer is the address at the other end of the connection, or the zero Addr, which is nobody's, if it is not known.
func peer(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// client is the client's address: the rightmost one that a configured proxy reports and that is no proxy itself. What
// stands further left, or comes from anybody else, may be made up.
func (b *border) client(r *http.Request) netip.Addr {
	addr := peer(r)
	if !b.isProxy(addr) {
		return addr
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		next, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			return addr
		}
		addr = next.Unmap().WithZone("")
		if !b.isProxy(addr) {
			return addr
		}
	}
	return addr
}

// source is the client's network: a single IPv4 address, or the /64 that one site gets of IPv6.
func (b *border) source(r *http.Request) netip.Prefix {
	addr := b.client(r)
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	network, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // shared by all whose address is not known
	}
	return network
}

// forwarded is a header that a configured proxy has set, or nothing.
func (b *border) forwarded(r *http.Request, name string) string {
	if !b.isProxy(peer(r)) {
		return ""
	}
	return r.Header.Get(name)
}

func (b *border) secure(r *http.Request) bool {
	return r.TLS != nil || b.forwarded(r, "X-Forwarded-Proto") == "https"
}

// own is the gateway's origin as the browser sees it.
func (b *border) own(r *http.Request) string {
	if host := b.forwarded(r, "X-Forwarded-Host"); host != "" {
		return b.at(r, host)
	}
	return b.at(r, r.Host)
}

// at is the configured origin of the gateway, or the one that follows from the host by which it is reached.
func (b *border) at(r *http.Request, host string) string {
	switch {
	case b.url != "":
		return b.url
	case b.secure(r):
		return "https://" + strings.ToLower(host)
	default:
		return "http://" + strings.ToLower(host)
	}
}

func (b *border) trusts(own, origin string) bool {
	return origin == own || slices.Contains(b.origins, origin)
}

// cookiesCount reports whether the request's cookies may speak for their owner in the JSON API: a page of a trusted
// origin has sent it. Browsers attach cookies to requests that other pages cause, too.
func (b *border) cookiesCount(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		return b.trusts(b.own(r), origin)
	}
	return r.Header.Get("Sec-Fetch-Site") == "same-origin"
}

// returnTo checks where a browser is to go after a login: a path of the gateway, whose origin is own, or a URL of a
// trusted origin. What browsers and this program could read differently is refused, not repaired.
func (b *border) returnTo(own, target string) (string, bool) {
	if target == "" || len(target) > 2048 || strings.ContainsFunc(target, func(c rune) bool { return c <= ' ' || c == '\\' || c == 0x7f }) {
		return "", false
	}
	u, err := url.Parse(target)
	if err != nil || u.User != nil || u.Opaque != "" {
		return "", false
	}
	switch {
	case u.Scheme == "" && u.Host == "" && strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "//"):
		return target, true
	case u.Host != "" && b.trusts(own, u.Scheme+"://"+u.Host):
		return u.String(), true
	default:
		return "", false
	}
}
