package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nyaruka/phonenumbers"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/bus"
)

var gatewayName = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// label is one of the labels of a domain name (RFC 1123 section 2.1), in lower case.
var label = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

type problem struct{ key, text string }

type checker struct{ found []problem }

func (v *checker) add(key, format string, args ...any) {
	v.found = append(v.found, problem{key, fmt.Sprintf(format, args...)})
}

func (v *checker) span(key string, value, least, most time.Duration) {
	switch {
	case value == noSpan:
		v.add(key, "want a time span such as 5m or 0s")
	case most == noSpan: // that is reported itself
	case value < least || value > most:
		v.add(key, "%v: want %v to %v", value, least, most)
	}
}

func (v *checker) number(key string, value, least, most int) {
	if value < least || value > most {
		v.add(key, "%d: want %d to %d", value, least, most)
	}
}

func (v *checker) baseURL(key, value string) {
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		v.add(key, "want an http or https URL without user, query and fragment")
	}
}

// problems lists every value that can not be, in the order of the file.
func (c *Config) problems() []problem {
	const (
		longest = 10 * time.Minute // no login outlives it (SP 800-63B-4 section 3.1.3.2)
		day     = 24 * time.Hour
		plenty  = 1_000_000
	)
	v := &checker{}
	v.span("login.deadline", c.Login.Deadline, time.Second, longest)
	v.span("login.denied_floor", c.Login.DeniedFloor, 0, 10*time.Second)
	v.span("code.ttl", c.Code.TTL, time.Second, longest)
	v.span("code.resend_after", c.Code.ResendAfter, 0, longest)
	c.Push.problems(v)
	v.number("attempts", c.Attempts, 1, events.Attempts)
	v.number("lock.after", c.Lock.After, 1, 100)
	v.span("lock.first", c.Lock.First, 100*time.Millisecond, day)
	v.span("lock.max", c.Lock.Max, 100*time.Millisecond, 30*day)
	v.number("lock.disable_after", c.Lock.DisableAfter, 1, 100)
	v.number("password.memory", int(c.Password.Memory), 8, 4<<20) // to 4 GiB; the least that argon2id takes is for tests alone
	v.number("password.time", int(c.Password.Time), 1, 100)
	v.number("password.threads", int(c.Password.Threads), 1, 64)
	v.number("password.concurrent", c.Password.Concurrent, 1, 1024)
	v.number("password.min_length", c.Password.MinLength, 8, 64)
	if !phonenumbers.GetSupportedRegions()[c.Phone.Region] {
		v.add("phone.region", "%q: want a region of phone numbers such as JP (ISO 3166-1)", c.Phone.Region)
	}
	v.span("session.idle", c.Session.Idle, time.Second, 30*day)
	v.span("session.absolute", c.Session.Absolute, time.Second, 90*day)
	v.span("session.fresh", c.Session.Fresh, time.Second, 90*day)
	v.number("token.look_ahead", c.Token.LookAhead, 0, 100)
	v.number("token.resync", c.Token.Resync, 1, 1000)
	v.span("token.reset", c.Token.Reset, time.Minute, day)
	if c.Token.Question != 0 { // a short one is soon asked again, for the answer of a token that counts nothing
		v.number("token.question", c.Token.Question, 8, 10)
	}
	v.number("token.per_user", c.Token.PerUser, 1, 20)
	v.number("limits.logins_per_source", c.Limits.LoginsPerSource, 1, plenty)
	v.number("limits.device_per_source", c.Limits.DevicePerSource, 1, plenty)
	v.number("limits.sms_per_user", c.Limits.SMSPerUser, 1, plenty)
	v.number("limits.sms_per_number", c.Limits.SMSPerNumber, 1, plenty)
	v.number("limits.notices_per_user", c.Limits.NoticesPerUser, 1, plenty)
	v.number("limits.push_per_user", c.Limits.PushPerUser, 1, plenty)
	v.number("limits.push_per_source", c.Limits.PushPerSource, 1, plenty)
	c.Risk.problems(v)
	c.SMS.problems(v)
	v.number("breaker.failures", c.Breaker.Failures, 1, 1000)
	v.span("breaker.open", c.Breaker.Open, 100*time.Millisecond, time.Hour)
	c.Gateway.problems(v)
	v.span("http.header_timeout", c.HTTP.HeaderTimeout, time.Second, time.Minute)
	v.span("http.read_timeout", c.HTTP.ReadTimeout, c.HTTP.HeaderTimeout, 5*time.Minute)
	v.span("http.write_timeout", c.HTTP.WriteTimeout, max(c.Gateway.MaxPoll, c.Gateway.MaxWait)+time.Second, time.Hour)
	v.span("http.idle_timeout", c.HTTP.IdleTimeout, time.Second, time.Hour)
	v.number("http.max_header", c.HTTP.MaxHeader, 4<<10, 1<<20)
	c.Bus.problems(v, c.Gateway.Name)
	v.number("database.connections", c.Database.Connections, 2, 1000)
	v.span("sealing.rotate", c.Sealing.Rotate, time.Hour, 365*day)
	v.span("audit.keep", c.Audit.Keep, day, 100*365*day)
	v.span("audit.sweep_every", c.Audit.SweepEvery, time.Second, longest)
	v.span("audit.sweep_after", c.Audit.SweepAfter, time.Second, longest) // LOGIN keeps events for 20 minutes
	v.span("shutdown.grace", c.Shutdown.Grace, time.Second, longest)
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		v.add("log.level", "%q: want debug, info, warn or error", c.Log.Level)
	}
	return v.found
}

func (p *Push) problems(v *checker) {
	const longest = 10 * time.Minute
	v.span("push.ttl", p.TTL, time.Second, longest)
	v.span("push.activation", p.Activation, time.Second, longest) // SP 800-63B-4 section 4.1.2.2
	v.number("push.devices", p.Devices, 1, 1000)
	v.number("push.wrong", p.Wrong, 1, events.Attempts)
	v.span("push.cooldown", p.Cooldown, 0, 24*time.Hour)
	v.span("push.timeout", p.Timeout, 10*time.Millisecond, time.Minute)
	v.span("push.wait", p.Wait, 0, time.Minute)
	v.number("push.concurrency", p.Concurrency, 1, 10_000)
	v.span("push.keep", p.Keep, 24*time.Hour, 10*365*24*time.Hour)
	if s := p.WebPush.Subject; s != "" && !strings.HasPrefix(s, "mailto:") && !strings.HasPrefix(s, "https://") {
		v.add("push.webpush.subject", "%q: want a mailto: or https: URL (RFC 8292 section 2.1)", s)
	}
	for i, host := range p.WebPushHosts {
		if host == "" || strings.ContainsAny(host, "/@?#* ,") || strings.HasPrefix(host, ".") || host != strings.ToLower(host) {
			v.add(fmt.Sprintf("push.webpush_hosts[%d]", i), "%q: want a host such as push.apple.com, or host:port, in lower case", host)
		}
	}
	if p.Proxy != "" {
		v.baseURL("push.proxy", p.Proxy)
	}
	if p.FCM.Project != "" {
		v.baseURL("push.fcm.url", p.FCM.URL)
		if p.FCM.KeyFile == "" {
			v.add("push.fcm.key_file", "missing: the file with the service account's key")
		}
	}
	if p.Mamoru.URL != "" {
		v.baseURL("push.mamoru.url", p.Mamoru.URL)
		if p.Mamoru.ApproveURL != "" {
			v.baseURL("push.mamoru.approve_url", p.Mamoru.ApproveURL)
		}
		if p.Mamoru.TokenFile == "" {
			v.add("push.mamoru.token_file", "missing: the file with the API's secret")
		}
	}
}

func (r *Risk) problems(v *checker) {
	switch r.Static {
	case "":
	case "OK", "REVIEW":
		if r.URL != "" {
			v.add("risk.static", "there is a risk.url too: want one of the two")
		}
	default:
		v.add("risk.static", "%q: want OK or REVIEW", r.Static)
	}
	if r.URL != "" {
		v.baseURL("risk.url", r.URL)
		if r.SignatureFile == "" {
			v.add("risk.signature_file", "missing: the file with the API's secret")
		}
	}
	if r.Collector != "" {
		v.baseURL("risk.collector", r.Collector)
	}
	v.span("risk.timeout", r.Timeout, 10*time.Millisecond, time.Minute)
	v.number("risk.concurrency", r.Concurrency, 1, 10_000)
	v.span("risk.keep", r.Keep, 48*time.Hour, 10*365*24*time.Hour) // what is in daily use is written once a day
}

func (s *SMS) problems(v *checker) {
	names := make(map[string]bool)
	for i := range s.Providers {
		p, key := s.Providers[i], fmt.Sprintf("sms.providers[%d]", i)
		if names[p.Name] {
			v.add(key+".name", "%q stands twice", p.Name)
		}
		names[p.Name] = true
		switch p.Kind {
		case "discard":
			if len(s.Providers) > 1 {
				v.add(key+".kind", "discard stands beside real providers, whose messages it would throw away")
			}
			continue // there is nothing to reach
		case "karaden":
			if p.ServiceID <= 0 {
				v.add(key+".service_id", "%d: want a service of the tenant", p.ServiceID)
			}
		case "twilio":
			if p.From == "" {
				v.add(key+".from", "missing: the sender's number")
			}
		default:
			v.add(key+".kind", "%q: want karaden, twilio or discard", p.Kind)
		}
		v.baseURL(key+".url", p.URL)
		if p.Account == "" {
			v.add(key+".account", "missing: the tenant or account id")
		}
		if p.TokenFile == "" {
			v.add(key+".token_file", "missing: the file with the API's secret")
		}
	}
	v.span("sms.timeout", s.Timeout, 10*time.Millisecond, time.Minute)
	v.number("sms.concurrency", s.Concurrency, 1, 10_000)
	v.span("sms.keep", s.Keep, time.Hour, 10*365*24*time.Hour) // the send limits look back one hour
}

func (g *Gateway) problems(v *checker) {
	if !gatewayName.MatchString(g.Name) {
		v.add("gateway.name", "%q: want 1 to 32 of a-z, 0-9, '-'", g.Name)
	}
	if isUser(g.Name) {
		v.add("gateway.name", isUserText, g.Name)
	}
	const wantOrigin = "%q: want scheme://host or scheme://host:port, without a path"
	if g.URL != "" && origin(g.URL) == "" {
		v.add("gateway.url", wantOrigin, g.URL)
	}
	for i, s := range g.Origins {
		if origin(s) == "" {
			v.add(fmt.Sprintf("gateway.origins[%d]", i), wantOrigin, s)
		}
	}
	for i, network := range g.Proxies {
		if _, err := netip.ParsePrefix(network); err != nil {
			v.add(fmt.Sprintf("gateway.proxies[%d]", i), "%q: want a network such as 10.0.0.0/8, or an address", network)
		}
	}
	if g.CookieDomain != "" {
		g.domainProblems(v)
	}
	v.number("gateway.max_body", int(g.MaxBody), 1<<10, 1<<20)
	v.span("gateway.wait", g.Wait, 0, g.MaxWait)
	v.span("gateway.max_wait", g.MaxWait, 0, 5*time.Minute)
	v.span("gateway.max_poll", g.MaxPoll, 0, 5*time.Minute)
	v.span("gateway.max_stream", g.MaxStream, time.Minute, time.Hour)
	v.number("gateway.streams_per_device", g.StreamsPerDevice, 1, 100)
}

// domainProblems finds a domain with which browsers do not take the session's cookie: every login would be granted, and be gone on the next page.
func (g *Gateway) domainProblems(v *checker) {
	const key = "gateway.cookie_domain"
	if !isDomain(g.CookieDomain) {
		v.add(key, "%q: want a domain such as example.com", g.CookieDomain)
		return
	}
	if own := origin(g.URL); own != "" {
		u, _ := url.Parse(own) // origin has parsed it
		if host := u.Hostname(); host != g.CookieDomain && !strings.HasSuffix(host, "."+g.CookieDomain) {
			v.add(key, "%q: want %s, the host of gateway.url, or a domain that it is in", g.CookieDomain, host)
		}
	}
}

func (b *Bus) problems(v *checker, web string) {
	names := map[string]bool{web: true}
	for i, name := range b.Gateways {
		key := fmt.Sprintf("bus.gateways[%d]", i)
		if !gatewayName.MatchString(name) {
			v.add(key, "%q: want 1 to 32 of a-z, 0-9, '-'", name)
		}
		if isUser(name) {
			v.add(key, isUserText, name)
		}
		if names[name] {
			v.add(key, "%q stands twice, or is gateway.name", name)
		}
		names[name] = true
	}
	if b.Replicas != 1 && b.Replicas != 3 && b.Replicas != 5 {
		v.add("bus.replicas", "%d: want 1, 3 or 5", b.Replicas)
	}
}

const isUserText = "%q: a worker or a tool has this name on the bus"

// isUser tells whether a name is of a NATS user that is no gateway, whose seed a gateway of that name would share.
func isUser(name string) bool {
	return slices.ContainsFunc(bus.Users(nil), func(u bus.User) bool { return u.Name == name })
}

// isDomain tells a domain name from an address and from what is neither.
func isDomain(s string) bool {
	labels := strings.Split(s, ".")
	_, err := strconv.Atoi(labels[len(labels)-1]) // no top-level domain is a number: it is the end of an address
	return len(s) <= 253 && err != nil && !slices.ContainsFunc(labels, func(l string) bool { return !label.MatchString(l) })
}

// origin is a serialized origin (RFC 6454 section 6.2) as browsers send it, so that origins compare as strings, of one as people paste
// it: with capital letters, the slash that browsers show, or the scheme's own port. "" of anything else.
func origin(s string) string {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || strings.HasSuffix(u.Host, ":") {
		return ""
	}
	if said := u.Scheme + "://" + u.Host; !strings.EqualFold(strings.TrimSuffix(s, "/"), said) {
		return ""
	}
	usual := ":80"
	if u.Scheme == "https" {
		usual = ":443"
	}
	return u.Scheme + "://" + strings.TrimSuffix(strings.ToLower(u.Host), usual)
}
