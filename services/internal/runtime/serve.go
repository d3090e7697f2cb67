package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/config"
)

// lingering is how long a request may wait for something to happen after the shutdown began. A GET that still runs then is such a
// wait (a long poll, a stream), and its client will ask again elsewhere; a POST is let finish, and says by [Waiting] what of it is one.
const lingering = time.Second

// Listen opens a listener at the address that an environment variable gives, and names the variable if that fails.
func Listen(variable, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: another program uses the port; choose an address with %s (port 0 picks a free one)", err, variable)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: choose an address with %s", err, variable)
	}
	return l, nil
}

// A server is an HTTP server with every time-out set.
type server struct {
	*http.Server
	stopWaiting context.CancelFunc
}

func newServer(cfg config.HTTP, log zerolog.Logger, h http.Handler) *server {
	waiting, stopWaiting := context.WithCancel(context.Background())
	return &server{stopWaiting: stopWaiting, Server: &http.Server{
		Handler:           recovered(log, endWaiting(h)),
		ReadHeaderTimeout: cfg.HeaderTimeout,
		ReadTimeout:       cfg.ReadTimeout,
		WriteTimeout:      cfg.WriteTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeader,
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.Background(), waitingKey{}, waiting)
		},
		ErrorLog: stdlog.New(io.Discard, "", 0), // it tells the addresses of clients
	}}
}

// drain lets requests finish until ctx ends, then cuts them off.
func (s *server) drain(ctx context.Context) error {
	defer time.AfterFunc(lingering, s.stopWaiting).Stop()
	defer s.stopWaiting()
	if err := s.Shutdown(ctx); err != nil {
		s.Close()
		return fmt.Errorf("requests were cut off: %w", err)
	}
	return nil
}

type waitingKey struct{}

// Waiting is a context in which a request's handler may wait for something to happen: it ends with the request's, and soon after the
// server has begun to shut down.
func Waiting(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	waiting, ok := ctx.Value(waitingKey{}).(context.Context)
	if !ok { // another server
		return ctx, cancel
	}
	forget := context.AfterFunc(waiting, cancel)
	return ctx, func() {
		forget()
		cancel()
	}
}

// endWaiting has GET requests be nothing but waiting.
func endWaiting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			ctx, cancel := Waiting(r)
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// recovered turns a panic into a line of log and an answer, neither of which tells anything about the client.
func recovered(log zerolog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil || v == http.ErrAbortHandler {
				return
			}
			log.Error().Str("panic", fmt.Sprintf("%T", v)).Bytes("stack", debug.Stack()).Str("route", r.Pattern).Msg("a request handler panicked")
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}
