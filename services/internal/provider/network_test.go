package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// raw starts a TCP server that reads each request and then does as it likes with the connection.
func raw(t *testing.T, answer func(*net.TCPConn)) (url string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4096))
			answer(conn.(*net.TCPConn))
			conn.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
	return "http://" + listener.Addr().String()
}

// No error text may repeat what a request or an answer holds.
func TestBrokenConnections(t *testing.T) {
	const secret = "09012345678"
	for name, tc := range map[string]struct {
		answer func(*net.TCPConn)
		text   string
	}{
		"reset":            {func(c *net.TCPConn) { c.SetLinger(0) }, "connection reset"},
		"closed":           {func(c *net.TCPConn) {}, "EOF"},
		"not HTTP":         {func(c *net.TCPConn) { io.WriteString(c, secret+" "+secret+"\r\n\r\n") }, "the exchange broke off"},
		"malformed header": {func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n"+secret+"\r\n\r\n") }, "the exchange broke off"},
		"malformed chunks": {func(c *net.TCPConn) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+secret+"zz\r\n")
		}, "the exchange broke off"},
		"shorter than said":  {func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"+secret) }, "unexpected EOF"},
		"redirect with data": {func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 307 No\r\nLocation: /"+secret+"\r\n\r\n") }, "status 307"},
	} {
		t.Run(name, func(t *testing.T) {
			c := New(Settings{Name: "far"}, prometheus.NewRegistry(), zerolog.Nop())
			defer c.CloseIdle()
			req, err := http.NewRequest(http.MethodPost, raw(t, tc.answer)+"/?to="+secret, strings.NewReader("to="+secret))
			if err != nil {
				t.Fatal(err)
			}
			err = c.Do(t.Context(), req, byStatus)
			wantClass(t, err, ErrUnavailable, false)
			if strings.Contains(err.Error(), secret) {
				t.Fatalf("the text tells too much: %v", err)
			}
			if !strings.HasPrefix(err.Error(), "far: provider unavailable") && !strings.HasPrefix(err.Error(), "far: status") ||
				!strings.Contains(err.Error(), tc.text) {
				t.Fatalf("text is %q, want %q in it", err, tc.text)
			}
		})
	}
}

func TestRefusedConnectionIsUnsent(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	c := New(Settings{Name: "far"}, prometheus.NewRegistry(), zerolog.Nop())
	err = c.Do(t.Context(), request(t, "http://"+listener.Addr().String()+"/?to=secret"), byStatus)
	wantClass(t, err, ErrUnavailable, true)
	if !strings.Contains(err.Error(), "dial: connect: connection refused") || strings.Contains(err.Error(), "secret") {
		t.Fatalf("text is %q", err)
	}
}

func TestRefuseIsUnsent(t *testing.T) {
	err := Refuse("far", "no such number")
	wantClass(t, err, ErrRefused, true)
	if got := err.Error(); got != "far: request refused: no such number" {
		t.Fatal(got)
	}
}

func TestDialMayRefuse(t *testing.T) {
	var log bytes.Buffer
	c := New(Settings{Name: "far", Failures: 1, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, fmt.Errorf("not there: %w", ErrRefused)
	}}, prometheus.NewRegistry(), zerolog.New(&log))
	err := c.Do(t.Context(), request(t, "https://far.test/?to=secret"), byStatus)
	wantClass(t, err, ErrRefused, true)
	if got := err.Error(); got != "far: not there: request refused" {
		t.Fatal(got)
	}
	if log.Len() > 0 {
		t.Fatalf("the breaker changed: %s", &log)
	}
}

// A Dial of one's own sees the address of the far end, and never that of a proxy.
func TestDialIsAskedForTheFarEnd(t *testing.T) {
	var dialed string
	c := New(Settings{Name: "far", Dial: func(_ context.Context, network, addr string) (net.Conn, error) {
		dialed = network + " " + addr
		return nil, errors.New("no")
	}}, prometheus.NewRegistry(), zerolog.Nop())
	if c.transport.Proxy != nil {
		t.Fatal("a proxy would be dialed")
	}
	wantClass(t, c.Do(t.Context(), request(t, "https://far.test/"), byStatus), ErrUnavailable, true)
	if dialed != "tcp far.test:443" {
		t.Fatalf("dialed %s", dialed)
	}
	if New(Settings{Name: "far"}, prometheus.NewRegistry(), zerolog.Nop()).transport.Proxy == nil {
		t.Fatal("the environment's proxy is not used")
	}
}
