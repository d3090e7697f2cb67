package runtime

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sekisho/sekisho/services/internal/config"
)

// serveHTTP starts a server and returns its URL. It is closed when the test ends.
func serveHTTP(t *testing.T, log zerolog.Logger, h http.Handler) (*server, string) {
	t.Helper()
	s := newServer(config.Default().HTTP, log, h)
	l, err := Listen("SEKISHO_TEST_ADDR", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.Serve(l); close(done) }()
	t.Cleanup(func() { s.Close(); <-done })
	return s, "http://" + l.Addr().String()
}

func TestPanicIsLoggedAndTellsTheClientNothing(t *testing.T) {
	var log bytes.Buffer
	_, url := serveHTTP(t, zerolog.New(&log), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("code 654321") }))
	resp, err := http.Get(url + "/?code=123456")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusInternalServerError || strings.Contains(string(body), "654321") || strings.Contains(string(body), ".go") {
		t.Errorf("answered %d %q", resp.StatusCode, body)
	}
	if !strings.Contains(log.String(), `"panic":"string"`) || !strings.Contains(log.String(), "serve_test.go") {
		t.Errorf("log %q lacks the panic or its stack", log.String())
	}
	if strings.Contains(log.String(), "123456") || strings.Contains(log.String(), "654321") || strings.Contains(log.String(), "127.0.0.1") {
		t.Errorf("log %q tells the query, the client or what the panic held", log.String())
	}
}

func TestServersHaveEveryTimeout(t *testing.T) {
	s := newServer(config.Default().HTTP, zerolog.Nop(), nil)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("a time-out or bound is missing: %+v", s.Server)
	}
}

func TestAddressInUseNamesTheVariable(t *testing.T) {
	l, err := Listen("SEKISHO_HTTP_ADDR", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for addr, used := range map[string]bool{l.Addr().String(): true, "foo": false} {
		_, err = Listen("SEKISHO_HTTP_ADDR", addr)
		if err == nil || !strings.Contains(err.Error(), "SEKISHO_HTTP_ADDR") || strings.Contains(err.Error(), "another program") != used {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// A request that waits for something to happen ends when the server drains, others are let finish.
func TestDrainEndsThoseWhoWaitAndLetsOthersFinish(t *testing.T) {
	arrived, finish := make(chan string, 2), make(chan struct{})
	s, url := serveHTTP(t, zerolog.Nop(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived <- r.Method
		if r.Method == http.MethodGet {
			<-r.Context().Done()
			return
		}
		waiting, leave := Waiting(r)
		defer leave()
		<-waiting.Done() // what of the POST is a wait ends too
		<-finish
		if r.Context().Err() != nil {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	status := make(chan int, 2)
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		go func() {
			req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Errorf("%s: %v", method, err)
				status <- 0
				return
			}
			resp.Body.Close()
			status <- resp.StatusCode
			if method == http.MethodGet {
				close(finish) // only now: the POST is still there after the GET has been ended
			}
		}()
	}
	<-arrived
	<-arrived
	grace, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := s.drain(grace); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := <-status; got != http.StatusOK {
			t.Errorf("answered %d", got)
		}
	}
}

func TestDrainCutsOffWhatDoesNotEnd(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	defer close(finish)
	s, url := serveHTTP(t, zerolog.Nop(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-finish
	}))
	go func() {
		if resp, err := http.Post(url, "text/plain", nil); err == nil {
			resp.Body.Close()
		}
	}()
	<-arrived
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.drain(over); err == nil {
		t.Error("no word of the request that was cut off")
	}
}
