package phone

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/sekisho/sekisho/events"
)

// A Line takes a request of a phone to pushnotifier and brings the answer back. A gateway on the bus has one:
// [events.Client.Device].
type Line func(context.Context, events.DeviceRequest) (events.DeviceResponse, error)

// HTTP is the line through the gateway at a base URL.
func HTTP(client *http.Client, base string) Line {
	return func(ctx context.Context, r events.DeviceRequest) (events.DeviceResponse, error) {
		req, err := http.NewRequestWithContext(ctx, r.Method, base+r.Path, bytes.NewReader(r.Body))
		if err != nil {
			return events.DeviceResponse{}, err
		}
		if r.Proof != "" {
			req.Header.Set("Authorization", r.Proof)
		}
		if len(r.Body) > 0 {
			req.Header.Set("Content-Type", "application/json")
		}
		res, err := client.Do(req)
		if err != nil {
			return events.DeviceResponse{}, err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return events.DeviceResponse{Status: res.StatusCode, Type: res.Header.Get("Content-Type"), Body: body}, err
	}
}
