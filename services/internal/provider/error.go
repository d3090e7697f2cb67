package provider

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The classes of failure.
var (
	ErrOpen        = errors.New("circuit breaker is open")  // nothing was sent
	ErrBusy        = errors.New("too many calls at a time") // nothing was sent
	ErrTimeout     = errors.New("no answer in time")        // the provider may or may not have acted
	ErrRefused     = errors.New("request refused")          // it is the request that is at fault; the provider is fine
	ErrLimited     = errors.New("rate limited")             // Error.RetryAfter says for how long
	ErrUnavailable = errors.New("provider unavailable")     // a 5xx, a broken connection, garbage, or our credentials
)

var classes = []error{ErrOpen, ErrBusy, ErrTimeout, ErrRefused, ErrLimited, ErrUnavailable, context.Canceled}

// errSlow is the cause of a context that ended by the client's own Timeout.
var errSlow = errors.New("timeout of the provider")

var errTooLarge = errors.New("answer is too large")

// Error is the failure of one call. errors.Is finds its class.
type Error struct {
	Provider   string
	Class      error         // one of the package's classes, or context.Canceled
	RetryAfter time.Duration // with ErrLimited: how long the provider wants to be left alone
	Unsent     bool          // the request did not leave this process
	Cause      error         // more about it; may be nil

	early bool // the caller gave up before the client's Timeout
}

func (e *Error) Error() string {
	switch {
	case e.Cause == nil:
		return fmt.Sprintf("%s: %v", e.Provider, e.Class)
	case errors.Is(e.Cause, e.Class):
		return fmt.Sprintf("%s: %v", e.Provider, e.Cause)
	default:
		return fmt.Sprintf("%s: %v: %v", e.Provider, e.Class, e.Cause)
	}
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Cause}
}

// Refuse returns the ErrRefused of an adapter that turns a request down itself, because the provider
// would never take it. Nothing was sent.
func Refuse(name, reason string) error {
	return &Error{Provider: name, Class: ErrRefused, Unsent: true, Cause: errors.New(reason)}
}

// Unsent reports whether the provider cannot have seen the request that failed with err: the breaker was
// open, no slot was free, a Retry-After is still running, or no connection was made.
func Unsent(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Unsent
}

func classOf(err error) error {
	for _, class := range classes {
		if errors.Is(err, class) {
			return class
		}
	}
	return nil
}

// blunt takes out of a transport's error what may quote the provider's answer: net/http repeats malformed
// headers and status lines in its texts. What the network itself said is kept.
func blunt(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	for _, plain := range []error{errTooLarge, io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, plain) {
			return plain
		}
	}
	return errors.New("the exchange broke off")
}
