package events

import (
	"errors"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A login ends with `closed`, which only sessionissuer says, or with `lapsed`, which anybody says who meets it past its
// deadline. So it ends in time while sessionissuer is down: `lapsed` alone is an ending, as expired, and the `closed` that
// follows it is no more than its record. The broker keeps the two apart. It takes `lapsed` only while there is no `closed`,
// and a `closed` that says anything but expired only while there is no `lapsed`. Whoever sees one of them therefore knows how
// the login has ended, for ever, however late a replica or a message with the other may be.

// guard sets the condition under which the stream takes an ending: that the one that it disagrees with is not there.
func guard(msg *nats.Msg, e *Event) {
	other := StepClosed
	switch data := e.Data.(type) {
	case *Lapsed:
	case *Closed:
		if data.Outcome == Expired {
			return
		}
		other = StepLapsed
	default:
		return
	}
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, "0")
	msg.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, e.Login.Subject(other, 0))
}

// EndedOtherwise reports whether a publish failed because its login has the other ending, or is about to.
func EndedOtherwise(err error) bool {
	refusal, refused := errors.AsType[*jetstream.APIError](err)
	return refused && slices.Contains([]jetstream.ErrorCode{
		jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant}, refusal.ErrorCode)
}
