package bus

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sekisho/sekisho/events"
)

// Names of NATS users beside the workers and the gateways.
const (
	UserSetup    = "setup"    // provisions
	UserViewer   = "viewer"   // reads everything that is on the bus, for tools
	UserOperator = "operator" // viewer, and may redo and drop dead letters
)

// A User is one NATS user. Everything that is not allowed is denied.
type User struct {
	Name      string
	Publish   []string
	Subscribe []string
	Unheard   []string // denied, though Subscribe covers it
	Apart     bool     // has an account of its own: see [UsersConf]
	Responds  bool     // may answer each request that it hears: once, within respondWait
}

// respondWait is how long after a request its answer may come. Gateways do not wait that long.
const respondWait = 10 * time.Second

// InboxPrefix is where a user gets its replies, so that nobody can listen to another's.
func InboxPrefix(user string) string { return "_INBOX_" + user }

// Users lists the NATS users with exactly the subjects that they need. Gateways are users under their own names.
func Users(gateways []string) []User {
	var users []User
	for _, w := range Workers {
		users = append(users, workerUser(w))
	}
	for _, gateway := range gateways {
		users = append(users, gatewayUser(gateway))
	}
	users = append(users, viewerUser(UserViewer), operatorUser(), User{Name: UserSetup, Publish: []string{">"}, Subscribe: []string{">"}})
	return users
}

func workerUser(w Row) User {
	publish := []string{directGet(streamKeys, "keys.*"), "dead." + w.Worker + ".>"}
	publish = append(publish, w.Publish...)
	for step, row := range events.Steps {
		if slices.Contains(row.By, w.Worker) {
			publish = append(publish, stepSubjects(step, "*")...)
		}
	}
	for _, c := range consumersOf(w) {
		name := c.Stream + "." + c.Config.Durable
		publish = append(publish, "$JS.API.CONSUMER.INFO."+name, "$JS.API.CONSUMER.MSG.NEXT."+name, "$JS.ACK."+name+".>",
			"$JS.ACK.*.*."+name+".>") // the next form of ack subjects, behind a feature flag in 2.15
		if w.Alone {
			publish = append(publish, "$JS.API.CONSUMER.RESET."+name)
		}
	}
	if w.History {
		publish = append(publish, "$JS.API.DIRECT.GET."+streamLogin)
	}
	for _, step := range slices.Concat(w.Consumes, w.Reads) { // what it consumes too, since a redo only names the event
		publish = append(publish, directGet(streamLogin, "login."+string(step)+".>"))
	}
	if w.Timer {
		publish = append(publish, "timer.at.*.*")
	}
	slices.Sort(publish)
	return User{Name: w.Worker, Publish: slices.Compact(publish), Subscribe: append([]string{InboxPrefix(w.Worker) + ".>"}, w.Serves...),
		Responds: len(w.Serves) > 0}
}

func gatewayUser(gateway string) User {
	publish := []string{directGet(streamKeys, "keys.*"), events.DeviceSubject(gateway), "session.revoked." + gateway + ".*",
		directGet(StreamSession, "session.revoked."+gateway+".*")}
	for step, row := range events.Steps {
		if slices.Contains(row.By, events.GatewayWorker) {
			publish = append(publish, stepSubjects(step, gateway)...)
		}
	}
	for _, step := range slices.Concat(events.Heard, ownSteps) {
		publish = append(publish, directGet(streamLogin, "login."+string(step)+"."+gateway+".>"))
	}
	slices.Sort(publish)
	// LOGIN says every step again. The broker drops what is not for gateways, also for wildcard subscribers.
	var unheard []string
	for step := range events.Steps {
		if !slices.Contains(events.Heard, step) {
			unheard = append(unheard, "deliver."+gateway+"."+string(step)+".>")
		}
	}
	slices.Sort(unheard)
	return User{Name: gateway, Publish: publish, Subscribe: []string{"deliver." + gateway + ".>", InboxPrefix(gateway) + ".>"}, Unheard: unheard, Apart: true}
}

func viewerUser(name string) User {
	publish := []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.*",
		"$JS.API.CONSUMER.NAMES.*", "$JS.API.CONSUMER.LIST.*", "$JS.API.CONSUMER.INFO.*.*"}
	for _, s := range []string{streamLogin, StreamArchive, StreamAccount, streamDead, streamRedo, streamKeys, StreamSession, streamTimer} {
		// Batched direct gets read a whole stream. No consumers: who may create one may change one.
		publish = append(publish, "$JS.API.DIRECT.GET."+s, "$JS.API.DIRECT.GET."+s+".>", "$JS.API.STREAM.MSG.GET."+s)
	}
	return User{Name: name, Publish: publish, Subscribe: []string{InboxPrefix(name) + ".>"}, Apart: true}
}

func operatorUser() User {
	u := viewerUser(UserOperator)
	u.Publish = append(u.Publish, "redo.>", "$JS.API.STREAM.MSG.DELETE."+streamDead,
		"$JS.API.CONSUMER.PAUSE.*.*", "$JS.API.CONSUMER.RESET.*.*")
	return u
}

// stepSubjects lists the subjects of a step with every number that it may have, so that permissions bound them too.
func stepSubjects(step events.Step, gateway string) []string {
	base := "login." + string(step) + "." + gateway + ".*"
	row := events.Steps[step]
	if row.Max == 0 {
		return []string{base}
	}
	subjects := make([]string, row.Max)
	for i := range subjects {
		subjects[i] = fmt.Sprintf("%s.%d", base, i+1)
	}
	return subjects
}

func directGet(stream, subject string) string { return "$JS.API.DIRECT.GET." + stream + "." + subject }

// coreAccount is the NATS account of the streams and the workers.
const coreAccount = "SEKISHO"

// accountOf is the NATS account of a user that is apart.
func accountOf(user string) string { return "user-" + user }

// batched matches the way to a batched direct get, which is answered by many messages.
var batched = regexp.MustCompile(`DIRECT\.GET\.[A-Z]+"$`)

// UsersConf is the part of a broker's configuration that says who may do what: accounts, their users and permissions.
//
// The broker checks what a user publishes to, but not where the answer is to go. So within one account, whoever asks for something can
// have the broker publish the answer as somebody else's event, or as a call of the management API. That is why each gateway and each
// tool has an account of its own, with a way to each subject that it may use: an answer never leaves the account that asked.
func UsersConf(gateways []string, keys map[string]string) string {
	var core, others strings.Builder
	exports := make(map[string][]string) // accounts by "service: <subject>" or "stream: <subject>"
	for _, u := range Users(gateways) {
		if !u.Apart {
			fmt.Fprintf(&core, "      %s\n", userConf(u, keys[u.Name]))
			continue
		}
		account := accountOf(u.Name)
		fmt.Fprintf(&others, "  %s {\n    users = [\n      %s\n    ]\n    imports = [\n", account, userConf(u, keys[u.Name]))
		use := func(kind, subject string) {
			way := fmt.Sprintf("%s: %q", kind, subject)
			exports[way] = append(exports[way], account)
			fmt.Fprintf(&others, "      { %s: { account: %s, subject: %q } }\n", kind, coreAccount, subject)
		}
		for _, subject := range u.Publish {
			use("service", subject)
		}
		for _, subject := range u.Subscribe {
			if subject != InboxPrefix(u.Name)+".>" { // answers arrive in the account itself
				use("stream", subject)
			}
		}
		others.WriteString("    ]\n  }\n")
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Accounts, users and permissions of Sekisho. Written by "sekisho setup"; include it in nats-server's configuration.
accounts {
  %s {
    jetstream: enabled
    users = [
%s    ]
    exports = [
`, coreAccount, core.String())
	for _, way := range slices.Sorted(maps.Keys(exports)) {
		response := ""
		if batched.MatchString(way) {
			response = ", response: stream"
		}
		fmt.Fprintf(&b, "      { %s, accounts: %s%s }\n", way, list(exports[way]), response)
	}
	fmt.Fprintf(&b, "    ]\n  }\n%s}\n", others.String())
	return b.String()
}

func userConf(u User, key string) string {
	responses := ""
	if u.Responds {
		responses = fmt.Sprintf(", allow_responses: { max: 1, expires: %q }", respondWait)
	}
	return fmt.Sprintf("{ nkey: %s, permissions: { publish: { allow: %s }, subscribe: { allow: %s, deny: %s }%s } } # %s",
		key, list(u.Publish), list(u.Subscribe), list(u.Unheard), responses, u.Name)
}

func list(words []string) string {
	if len(words) == 0 {
		return "[]"
	}
	return `["` + strings.Join(words, `", "`) + `"]`
}
