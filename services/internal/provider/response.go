package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// defaultRetryAfter is how long a 429 holds that does not say so itself.
const defaultRetryAfter = time.Second

// Response is an answer, read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// JSON decodes the body into v. Its error says nothing of the body, unlike those of encoding/json, but the status, since what stands
// before a provider refuses in a format of its own.
func (r *Response) JSON(v any) error {
	if json.Unmarshal(r.Body, v) != nil {
		return fmt.Errorf("answer %d is not the JSON of this API", r.Status)
	}
	return nil
}

// Class returns what the status alone says: nil for 2xx, ErrRefused for a 4xx that blames the request.
// That our credentials are wrong (401, 403) is not the request's fault but makes the provider unusable,
// as do redirects, 5xx and statuses that speak of the connection: ErrUnavailable.
func (r *Response) Class() error {
	switch r.Status {
	case http.StatusTooManyRequests:
		return ErrLimited
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired,
		http.StatusRequestTimeout, http.StatusMisdirectedRequest, http.StatusTooEarly:
		return ErrUnavailable
	}
	switch r.Status / 100 {
	case 2:
		return nil
	case 4:
		return ErrRefused
	default:
		return ErrUnavailable
	}
}

// retryAfter reads the Retry-After header (RFC 9110, section 10.2.3): seconds or an HTTP date.
func (r *Response) retryAfter(now time.Time) time.Duration {
	value := r.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, date.Sub(now))
	}
	return defaultRetryAfter
}
