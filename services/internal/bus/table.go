package bus

import (
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// The table: which worker consumes what, and which streams there are. Streams, consumers, and the NATS users with their
// permissions (users.go) all follow from this file and from [events.Steps], which says who publishes what.

// A Row is what one worker does on the bus beside publishing the steps that events.Steps gives to it.
type Row struct {
	Worker   string
	Consumes []events.Step // steps of LOGIN, one durable consumer each
	Timer    bool          // schedules timers and consumes those that are due
	History  bool          // reads logins by batched direct get
	Reads    []events.Step // reads single events of logins
	Streams  []string      // consumes whole streams in batches
	Alone    bool          // follows them in one instance at a time, which settles whole batches
	Publish  []string      // other subjects
	Serves   []string      // subjects of requests that it answers
}

// Workers is the table of the workers.
var Workers = []Row{
	{Worker: "identityverifier", Consumes: []events.Step{events.StepRequested}},
	{Worker: "riskassessor", Consumes: []events.Step{events.StepIdentified, events.StepClosed},
		History: true, Reads: []events.Step{events.StepAssessed}, Publish: []string{"alert.*.*"}},
	{Worker: "sessionissuer", Timer: true, History: true, Reads: []events.Step{events.StepRequested, events.StepClosed, events.StepWanted},
		Publish: []string{"session.revoked.*.*"},
		Consumes: []events.Step{events.StepAssessed, events.StepRefused, events.StepVerified, events.StepRejected,
			events.StepUndelivered, events.StepChosen, events.StepCancelled, events.StepLapsed},
		Streams: []string{StreamSession}},
	{Worker: "smsdispatcher", Consumes: []events.Step{events.StepWanted}, Reads: []events.Step{events.StepChallenged}, Streams: []string{StreamAccount}},
	{Worker: "pushnotifier", Consumes: []events.Step{events.StepWanted, events.StepAnswered}, History: true,
		Reads:   []events.Step{events.StepChallenged, events.StepRejected, events.StepVerified},
		Publish: []string{"account.*.*", "alert.*.*", "session.revoked.*.*", events.HintSubject("*", "*")},
		Streams: []string{StreamAccount}, Serves: []string{events.DeviceSubject("*")}},
	{Worker: "otpvalidator", Consumes: []events.Step{events.StepWanted, events.StepAnswered}, History: true},
	{Worker: "recorder", Streams: []string{StreamArchive, StreamAccount}, Alone: true},
	{Worker: "console", Publish: []string{"account.*.*", "session.revoked.*.*"}},
}

// ownSteps are the steps that a gateway may read of its logins beside those that it hears.
var ownSteps = []events.Step{events.StepRequested, events.StepAnswered, events.StepChosen}

// The streams that workers follow as a whole: see [Bus.Batches].
const (
	StreamArchive = "ARCHIVE"
	StreamAccount = "ACCOUNT"
	StreamSession = "SESSION"
)

// The other streams.
const (
	streamLogin = "LOGIN"
	streamTimer = "TIMER"
	streamKeys  = "KEYS"
	streamDead  = "DEAD"
	streamRedo  = "REDO"
)

const (
	// ackWait is how long the broker waits for an ack before it delivers again. Handlers send a heartbeat every third of it.
	ackWait = 15 * time.Second
	// loginAge is how long a login stays in LOGIN: twice the longest deadline, since write-once ends when a message expires.
	loginAge = 20 * time.Minute
	// maxAckPending bounds the messages of one consumer that are delivered and not acked, delayed retries included.
	maxAckPending = 8192
)

// Streams lists the streams as [Provision] makes them. replicas is 1 on a single node and 3 in a cluster.
func Streams(replicas int) []jetstream.StreamConfig {
	stream := func(name string, age time.Duration, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: subjects, MaxAge: age, Replicas: replicas,
			Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
			MaxConsumers: -1, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxBytes: -1, MaxMsgSize: -1,
			Duplicates: time.Second, AllowDirect: true, DenyPurge: true,
		}
	}
	login := stream(streamLogin, loginAge, "login.>")
	login.Description = "The logins: every subject takes one message."
	login.MaxMsgsPerSubject, login.Discard, login.DiscardNewPerSubject = 1, jetstream.DiscardNew, true
	login.DenyDelete = true
	login.MaxMsgSize = 80 << 10
	login.MaxBytes = 8 << 30
	// Gateways hear what has been stored, and only that: a plain subscriber of login.> would see what is refused too.
	login.RePublish = &jetstream.RePublish{Source: "login.*.*.>", Destination: "deliver.{{wildcard(2)}}.{{wildcard(1)}}.>"}

	timer := stream(streamTimer, loginAge, "timer.>")
	timer.Description = "Deadlines of logins. One writer: schedules force roll-ups on, so it must not be shared."
	timer.MaxMsgsPerSubject, timer.AllowMsgSchedules, timer.AllowMsgTTL = 1, true, true
	timer.AllowRollup, timer.DenyPurge = true, false

	archive := stream(StreamArchive, 30*24*time.Hour)
	archive.Description = "All events of all logins. The login's name is in the CloudEvents attributes, not in the subject."
	archive.Sources = []*jetstream.StreamSource{archiveSource()}
	archive.Compression = jetstream.S2Compression

	account := stream(StreamAccount, 30*24*time.Hour, "account.>", "alert.>")
	account.Description = "Changes of accounts, and alerts."

	session := stream(StreamSession, 7*24*time.Hour, "session.revoked.>")
	session.Description = "Signals that a session has been revoked. The record is in PostgreSQL."
	session.MaxMsgsPerSubject = 1
	session.RePublish = &jetstream.RePublish{Source: "session.revoked.*.>", Destination: "deliver.{{wildcard(1)}}.revoked.>"}

	keys := stream(streamKeys, 0, "keys.*")
	keys.Description = "Public sealing keys by recipient."
	keys.MaxMsgsPerSubject = 4

	dead := stream(streamDead, 30*24*time.Hour, "dead.>")
	dead.Description = "Events that a worker gave up, with the reason."
	dead.MaxMsgsPerSubject, dead.MaxBytes = 1, 1<<30 // one event dies once per worker, however often it is delivered

	redo := stream(streamRedo, 24*time.Hour, "redo.>")
	redo.Description = "Asks one worker to handle one event of LOGIN again."
	redo.MaxMsgsPerSubject = 1

	return []jetstream.StreamConfig{login, timer, archive, account, session, keys, dead, redo}
}

// archiveSource drops the login's name from the subject, so that a login costs ARCHIVE no memory.
func archiveSource() *jetstream.StreamSource {
	return &jetstream.StreamSource{Name: streamLogin, SubjectTransforms: []jetstream.SubjectTransformConfig{
		{Source: "login.*.*.*", Destination: "archive.{{wildcard(1)}}"},
		{Source: "login.*.*.*.*", Destination: "archive.{{wildcard(1)}}"},
	}}
}

// A Consumer is one durable consumer and the stream that it is on.
type Consumer struct {
	Stream string
	Config jetstream.ConsumerConfig
}

// Consumers lists the durable consumers as [Provision] makes them: one per worker and step, each with a single filter.
func Consumers() []Consumer {
	var all []Consumer
	for _, w := range Workers {
		all = append(all, consumersOf(w)...)
	}
	return all
}

func consumersOf(w Row) []Consumer {
	var all []Consumer
	pull := func(stream, name, filter string) {
		all = append(all, Consumer{stream, jetstream.ConsumerConfig{
			Durable: name, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
			DeliverPolicy: jetstream.DeliverAllPolicy, MaxDeliver: -1, MaxAckPending: maxAckPending,
		}})
	}
	for _, step := range w.Consumes {
		pull(streamLogin, consumerName(w.Worker, string(step)), "login."+string(step)+".>")
	}
	if len(w.Consumes) > 0 {
		pull(streamRedo, consumerName(w.Worker, redoName), "redo."+w.Worker+".>")
	}
	if w.Timer {
		pull(streamTimer, consumerName(w.Worker, timerName), "timer.due.>")
	}
	for _, stream := range w.Streams {
		pull(stream, batchConsumer(w.Worker, stream), "")
	}
	return all
}

// Second parts of the names of consumers that belong neither to a step nor to a whole stream.
const (
	redoName  = "redo"
	timerName = "timer"
)

func consumerName(worker, what string) string { return worker + "-" + what }

// batchConsumer is the consumer of a whole stream: "recorder-archive".
func batchConsumer(worker, stream string) string {
	return consumerName(worker, strings.ToLower(stream))
}

// alone tells whether one instance of a worker at a time follows its streams.
func alone(worker string) bool {
	return slices.ContainsFunc(Workers, func(w Row) bool { return w.Worker == worker && w.Alone })
}
