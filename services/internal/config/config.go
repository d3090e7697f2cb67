// Package config holds every setting of Sekisho: one struct per section of the YAML file, each field with its unit and its default.
//
// The file is read strictly. An unknown key, a key that stands twice, a value of the wrong type or out of its bounds stops the
// start, and the error names the file, the line and the key. Secrets are never in it: they are named by file. A relative file name
// counts from the folder of the file it stands in. A time span is written as 500ms, 90s or 1h30m.
package config

import (
	"runtime"
	"time"
)

// Config is the whole of the settings. [Default] gives a Config that is complete; a file changes what it names.
type Config struct {
	Login    Login    `yaml:"login"`
	Code     Code     `yaml:"code"`
	Push     Push     `yaml:"push"`
	Attempts int      `yaml:"attempts"` // answers that one login may take; 1 to 5, default 5
	Lock     Lock     `yaml:"lock"`
	Password Password `yaml:"password"`
	Phone    Phone    `yaml:"phone"`
	Session  Session  `yaml:"session"`
	Token    Token    `yaml:"token"`
	Limits   Limits   `yaml:"limits"`
	Risk     Risk     `yaml:"risk"`
	SMS      SMS      `yaml:"sms"`
	Breaker  Breaker  `yaml:"breaker"`
	Gateway  Gateway  `yaml:"gateway"`
	HTTP     HTTP     `yaml:"http"`
	Bus      Bus      `yaml:"bus"`
	Database Database `yaml:"database"`
	Sealing  Sealing  `yaml:"sealing"`
	Audit    Audit    `yaml:"audit"`
	Shutdown Shutdown `yaml:"shutdown"`
	Log      Log      `yaml:"log"`
	Debug    Debug    `yaml:"debug"`

	// Policy is the file of the policy: what each app accepts and asks for. Empty means the built-in policy (deploy/policy.yaml).
	// Gateways, sessionissuer and pushnotifier read it.
	Policy string `yaml:"policy"`

	// AdminToken is the bearer token of the admin API. It comes from the environment or the data dir, never from the file.
	AdminToken string `yaml:"-"`
}

// Login is about logins as a whole.
type Login struct {
	Deadline    time.Duration `yaml:"deadline"`     // from its start to its end; at most 10m, default 5m
	DeniedFloor time.Duration `yaml:"denied_floor"` // "denied" is answered no sooner, so that its cause can not be told by time; default 500ms
}

// Code is about one-time codes sent by text message.
type Code struct {
	TTL         time.Duration `yaml:"ttl"`          // how long a code is good; at most 10m (SP 800-63B-4 section 3.1.3.2), default 5m
	ResendAfter time.Duration `yaml:"resend_after"` // how long a user waits before the next message; default 30s
}

// Push is about challenges on a phone.
type Push struct {
	TTL         time.Duration `yaml:"ttl"`         // how long a push waits for its answer; at most 10m, default 2m
	Activation  time.Duration `yaml:"activation"`  // how long an invitation to enroll a phone can be used; default 10m, and no longer
	Devices     int           `yaml:"devices"`     // phones that one user may have; default 10
	Wrong       int           `yaml:"wrong"`       // wrong numbers after which a login takes no more pushes; default 3
	Cooldown    time.Duration `yaml:"cooldown"`    // how long a user gets no push after having said "this was not me"; default 10m
	Timeout     time.Duration `yaml:"timeout"`     // of one call of a provider; default 3s
	Wait        time.Duration `yaml:"wait"`        // how long a challenge waits for its providers, since phones ask by themselves too; default 1s
	Concurrency int           `yaml:"concurrency"` // calls at a time to one provider in one process; default 64
	Keep        time.Duration `yaml:"keep"`        // how long what phones were asked and told is kept; default 720h

	WebPush      WebPush  `yaml:"webpush"`
	WebPushHosts []string `yaml:"webpush_hosts"` // where subscriptions may point: host suffixes such as push.apple.com, or host:port, which may be a private address; empty: every host with a public address
	Proxy        string   `yaml:"proxy"`         // URL of an HTTP proxy by which Web Push leaves, such as http://egress.example.com:3128. Since that looks up names itself, only known services are called by it: webpush_hosts, or those of the browsers. Empty: directly, whatever HTTPS_PROXY says, which all other providers follow
	FCM          FCM      `yaml:"fcm"`
	Mamoru       Mamoru   `yaml:"mamoru"`
}

// WebPush is Web Push (RFC 8030), which needs no account. Its key is in the credentials folder: keys/vapid.pem.
type WebPush struct {
	Subject string `yaml:"subject"` // whom push services may ask about our messages: mailto: or https: (RFC 8292 section 2.1); empty: Web Push is not used
}

// FCM is Firebase Cloud Messaging. Without a project it is not used.
type FCM struct {
	URL     string `yaml:"url"`      // base URL of the API; default https://fcm.googleapis.com
	Project string `yaml:"project"`  // the project's id
	KeyFile string `yaml:"key_file"` // the service account's key, in JSON
}

// Mamoru is a provider that hosts the approval: the user's browser goes there. Without a URL it is not used.
type Mamoru struct {
	URL        string `yaml:"url"`         // base URL of the provider's API
	ApproveURL string `yaml:"approve_url"` // the page where users approve; default url + /approve
	TokenFile  string `yaml:"token_file"`  // file with the API's secret
}

// Lock is what failures do to one authenticator of one user, over all logins.
type Lock struct {
	After        int           `yaml:"after"`         // failures in a row that lock it; default 5
	First        time.Duration `yaml:"first"`         // the first lock, doubled by each further failure; default 1m
	Max          time.Duration `yaml:"max"`           // the longest lock, or first if that is longer; default 1h
	DisableAfter int           `yaml:"disable_after"` // failures in a row after which only an admin unlocks, of known browsers and of everybody else each: together 100 at most by SP 800-63B-4 section 3.2.2; default 50
}

// Password is the cost of a password's argon2id hash (RFC 9106) and the rule for new passwords.
type Password struct {
	Memory     uint32 `yaml:"memory"`     // KiB for one hash; default 19456 (19 MiB); OWASP asks for 7168 at least, with time 5
	Time       uint32 `yaml:"time"`       // passes; default 2
	Threads    uint8  `yaml:"threads"`    // lanes of one hash; default 1
	Concurrent int    `yaml:"concurrent"` // hashes at a time in one process; default the number of processors
	MinLength  int    `yaml:"min_length"` // characters of a new password; default 8
	Blocklist  string `yaml:"blocklist"`  // file with more passwords that nobody may choose than the built-in ones, one a line and in any case; default none
}

// Phone is about phone numbers that people type.
type Phone struct {
	Region string `yaml:"region"` // ISO 3166-1 code of the region of numbers without a country code; default JP
}

// Session is how long a session lasts.
type Session struct {
	Idle     time.Duration `yaml:"idle"`     // without a request, in whole seconds; default 1h
	Absolute time.Duration `yaml:"absolute"` // at all, however long idle is; default 12h
	Fresh    time.Duration `yaml:"fresh"`    // how old a login or step-up may be for its user to add or change phones; default 10m
}

// Token is one-time password tokens.
type Token struct {
	LookAhead int           `yaml:"look_ahead"` // events that a token may be ahead when its code is checked; default 10
	Resync    int           `yaml:"resync"`     // the same, or steps of time either way, when a token is resynchronized or was reset: each guess at one that was reset hits one of so many codes; default 100
	Reset     time.Duration `yaml:"reset"`      // how long codes of a token that was reset are looked for as far away as resync says; default 1h
	Question  int           `yaml:"question"`   // digits of the question that goes with each challenge, for tokens with a keypad (OCRA): 8 to 10; 0: none is asked; default 0
	PerUser   int           `yaml:"per_user"`   // tokens that one user may have; default 5
}

// Limits bound what one source, user or number may cause.
type Limits struct {
	LoginsPerSource int `yaml:"logins_per_source"` // logins that one network starts in a minute at one gateway process; default 300
	DevicePerSource int `yaml:"device_per_source"` // requests about phones that one network makes in a minute at one gateway process; a phone without a stream makes 12; default 3000
	SMSPerUser      int `yaml:"sms_per_user"`      // text messages to one user in an hour; default 10
	SMSPerNumber    int `yaml:"sms_per_number"`    // text messages to one number in an hour; default 10
	NoticesPerUser  int `yaml:"notices_per_user"`  // text messages in an hour that tell one user of changes of phones; more are not told; default 5
	PushPerUser     int `yaml:"push_per_user"`     // pushes to one user in 10 minutes, and as many notices about logins for which phones ring; default 10
	PushPerSource   int `yaml:"push_per_source"`   // pushes that one network causes in 10 minutes; default 60
}

// Risk is the risk provider. Without a URL every login counts as not assessed, and the policy's on_unavailable decides.
type Risk struct {
	Static        string        `yaml:"static"`         // OK or REVIEW: the verdict on every login, and no provider is asked; for closed networks and load tests
	URL           string        `yaml:"url"`            // base URL of the provider's API
	SignatureFile string        `yaml:"signature_file"` // file with the API's secret
	Collector     string        `yaml:"collector"`      // URL of the provider's script, which the login page loads to have the browser assessed; empty: none
	Timeout       time.Duration `yaml:"timeout"`        // of one call; default 1s
	Concurrency   int           `yaml:"concurrency"`    // calls at a time in one process; default 100
	Keep          time.Duration `yaml:"keep"`           // how long a network stays known in which its user does not log in; default 2160h (90 days)
}

// SMS is the providers of text messages, asked in this order.
type SMS struct {
	Providers   []SMSProvider `yaml:"providers"`   // without any, no text message can be sent
	Timeout     time.Duration `yaml:"timeout"`     // of one call; less than gateway.wait, so that a hanging provider is overtaken by the next while the user waits; default 3s
	Concurrency int           `yaml:"concurrency"` // calls at a time to one provider in one process; default 256
	Keep        time.Duration `yaml:"keep"`        // how long the record of a message is kept; default 720h
}

// SMSProvider is one provider of text messages.
type SMSProvider struct {
	Name      string `yaml:"name"`       // in logs and metrics; default the kind
	Kind      string `yaml:"kind"`       // karaden, twilio, or discard: throws messages away, for load tests, and only by itself
	URL       string `yaml:"url"`        // base URL of the API
	Account   string `yaml:"account"`    // Karaden: tenant id; Twilio: account SID
	TokenFile string `yaml:"token_file"` // file with the API's secret
	From      string `yaml:"from"`       // Twilio: the sender's number
	ServiceID int    `yaml:"service_id"` // Karaden: the service that sends
}

// Breaker is the circuit breaker in front of each provider.
type Breaker struct {
	Failures int           `yaml:"failures"` // failed calls in a row that open it; default 5
	Open     time.Duration `yaml:"open"`     // how long it stays open before one call may try; default 10s
}

// Gateway is the web gateway.
type Gateway struct {
	Name         string        `yaml:"name"`          // the gateway's name on the bus: 1 to 32 of a-z, 0-9, '-', and no worker's or tool's; default web
	Origins      []string      `yaml:"origins"`       // origins besides its own, without a path, that may use the API with cookies and be returned to, such as https://app.example.com
	Proxies      []string      `yaml:"proxies"`       // networks (CIDR) or addresses of reverse proxies whose X-Forwarded headers count
	Base         string        `yaml:"-"`             // origin at which the process itself serves the gateway, for links where url is empty; comes from the listener, never from the file
	URL          string        `yaml:"url"`           // the gateway's own origin, such as https://login.example.com; empty: as each request says
	CookieDomain string        `yaml:"cookie_domain"` // domain of the session's cookie, in which the host of url is; empty: this host only
	MaxBody      int64         `yaml:"max_body"`      // bytes of a request's body; default 16384
	Wait         time.Duration `yaml:"wait"`          // how long an answer waits for the login to move when the client does not say; default 5s
	MaxWait      time.Duration `yaml:"max_wait"`      // the most that a client may ask for when it starts or answers; default 30s
	MaxPoll      time.Duration `yaml:"max_poll"`      // the most that a client may ask for when it looks; less than http.write_timeout, default 60s

	PlaceHeader      string        `yaml:"place_header"`       // header in which the proxies say where a client is, in words or as a region's code (JP); shown on the phone; empty: the address alone
	MaxStream        time.Duration `yaml:"max_stream"`         // after which a phone proves its key anew for its stream; default 10m
	StreamsPerDevice int           `yaml:"streams_per_device"` // streams of one phone at one gateway process, of which the oldest ends for a new one; default 3
}

// HTTP is the time-outs and bounds of every HTTP server of the process.
type HTTP struct {
	HeaderTimeout time.Duration `yaml:"header_timeout"` // to read a request's header; default 5s
	ReadTimeout   time.Duration `yaml:"read_timeout"`   // to read a whole request; default 10s
	WriteTimeout  time.Duration `yaml:"write_timeout"`  // to answer, waiting included; streams move it on; default 75s
	IdleTimeout   time.Duration `yaml:"idle_timeout"`   // of a connection between requests; default 2m
	MaxHeader     int           `yaml:"max_header"`     // bytes of a request's header; default 16384
}

// Bus is what `sekisho setup` provisions in NATS.
type Bus struct {
	Gateways []string `yaml:"gateways"` // names of outside gateways, which get a NATS user each; default [example]
	Replicas int      `yaml:"replicas"` // copies of each stream: 1, or 3 or 5 in a cluster; default 1
}

// Database is the connections to PostgreSQL.
type Database struct {
	Connections int `yaml:"connections"` // the most that one worker opens in one process; default 8
}

// Sealing is the keys that seal what only one worker may read.
type Sealing struct {
	Rotate time.Duration `yaml:"rotate"` // age at which a key gets a successor; an hour after senders know the successor its private half is destroyed; default 24h
}

// Audit is the recorder's work.
type Audit struct {
	Keep       time.Duration `yaml:"keep"`        // how long audit lines are kept; default 8760h (a year)
	SweepEvery time.Duration `yaml:"sweep_every"` // how often abandoned logins are looked for; default 15s
	SweepAfter time.Duration `yaml:"sweep_after"` // how long after its deadline a login counts as abandoned; default 1m
}

// Shutdown is how the process ends.
type Shutdown struct {
	Grace time.Duration `yaml:"grace"` // for requests and handlers that are running; default 10s
}

// Log is the log on stderr.
type Log struct {
	Level string `yaml:"level"` // debug, info, warn or error; default info
}

// Debug is for whoever looks for a fault or for time that is lost.
type Debug struct {
	Profiles bool `yaml:"profiles"` // serves /debug/pprof/ on the ops address, to whoever reaches it; default false
}

// Default is the Config without a file.
func Default() *Config {
	return &Config{
		Login: Login{Deadline: 5 * time.Minute, DeniedFloor: 500 * time.Millisecond},
		Code:  Code{TTL: 5 * time.Minute, ResendAfter: 30 * time.Second},
		Push: Push{
			TTL: 2 * time.Minute, Activation: 10 * time.Minute, Devices: 10, Wrong: 3, Cooldown: 10 * time.Minute,
			Timeout: 3 * time.Second, Wait: time.Second, Concurrency: 64, Keep: 30 * 24 * time.Hour, FCM: FCM{URL: "https://fcm.googleapis.com"},
		},
		Attempts: 5,
		Lock:     Lock{After: 5, First: time.Minute, Max: time.Hour, DisableAfter: 50},
		Password: Password{Memory: 19 << 10, Time: 2, Threads: 1, Concurrent: runtime.GOMAXPROCS(0), MinLength: 8},
		Phone:    Phone{Region: "JP"},
		Session:  Session{Idle: time.Hour, Absolute: 12 * time.Hour, Fresh: 10 * time.Minute},
		Token:    Token{LookAhead: 10, Resync: 100, Reset: time.Hour, PerUser: 5},
		Limits:   Limits{LoginsPerSource: 300, DevicePerSource: 3000, SMSPerUser: 10, SMSPerNumber: 10, NoticesPerUser: 5, PushPerUser: 10, PushPerSource: 60},
		Risk:     Risk{Timeout: time.Second, Concurrency: 100, Keep: 90 * 24 * time.Hour},
		SMS:      SMS{Timeout: 3 * time.Second, Concurrency: 256, Keep: 30 * 24 * time.Hour},
		Breaker:  Breaker{Failures: 5, Open: 10 * time.Second},
		Gateway: Gateway{Name: "web", MaxBody: 16 << 10, Wait: 5 * time.Second, MaxWait: 30 * time.Second, MaxPoll: time.Minute,
			MaxStream: 10 * time.Minute, StreamsPerDevice: 3},
		HTTP: HTTP{
			HeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 75 * time.Second,
			IdleTimeout: 2 * time.Minute, MaxHeader: 16 << 10,
		},
		Bus:      Bus{Gateways: []string{"example"}, Replicas: 1},
		Database: Database{Connections: 8},
		Sealing:  Sealing{Rotate: 24 * time.Hour},
		Audit:    Audit{Keep: 365 * 24 * time.Hour, SweepEvery: 15 * time.Second, SweepAfter: time.Minute},
		Shutdown: Shutdown{Grace: 10 * time.Second},
		Log:      Log{Level: "info"},
	}
}
