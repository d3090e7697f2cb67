package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sekisho/sekisho/events"
)

// ErrDiffers says that a stream or a consumer is there with other settings than the table's. It was left as it is.
var ErrDiffers = errors.New("settings differ")

// Provision makes the streams and consumers that are missing. What is there with other settings is reported, all of it
// at once, by an error that wraps [ErrDiffers], and is not changed.
func Provision(ctx context.Context, nc *nats.Conn, replicas int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	var differ []error
	note := func(err error) error {
		if errors.Is(err, ErrDiffers) {
			differ = append(differ, err)
			return nil
		}
		return err
	}
	// Asked before LOGIN is made: of several who provision at once, one may make LOGIN and another ARCHIVE.
	_, err = js.Stream(ctx, StreamArchive)
	hadArchive := err == nil
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("bus: stream %s: %w", StreamArchive, err)
	}
	madeLogin := false
	for _, want := range Streams(replicas) {
		made, err := ensureStream(ctx, js, want)
		if err := note(err); err != nil {
			return err
		}
		if want.Name == streamLogin {
			madeLogin = made
		}
		// A source remembers its place in the stream that it had. A new LOGIN starts at one again.
		if want.Name == StreamArchive && madeLogin && hadArchive {
			if err := renewSource(ctx, js, want); err != nil {
				return err
			}
		}
	}
	for _, c := range Consumers() {
		if err := note(ensureConsumer(ctx, js, c)); err != nil {
			return err
		}
	}
	return errors.Join(differ...)
}

func ensureStream(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) (made bool, err error) {
	have, err := js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = js.CreateStream(ctx, want); err != nil {
			return false, fmt.Errorf("bus: create stream %s: %w", want.Name, err)
		}
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("bus: stream %s: %w", want.Name, err)
	}
	return false, differences("stream "+want.Name, have.CachedInfo().Config, want)
}

func renewSource(ctx context.Context, js jetstream.JetStream, want jetstream.StreamConfig) error {
	without := want
	without.Sources = nil
	for _, cfg := range []jetstream.StreamConfig{without, want} {
		if _, err := js.UpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("bus: renew the source of %s: %w", want.Name, err)
		}
	}
	return nil
}

func ensureConsumer(ctx context.Context, js jetstream.JetStream, want Consumer) error {
	stream, err := js.Stream(ctx, want.Stream)
	if err != nil {
		return fmt.Errorf("bus: stream %s: %w", want.Stream, err)
	}
	name := want.Config.Durable
	have := want.Config
	found, err := stream.Consumer(ctx, name)
	if err == nil {
		have = found.CachedInfo().Config
	} else if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = stream.CreateConsumer(ctx, want.Config)
	}
	if err != nil {
		return fmt.Errorf("bus: consumer %s of %s: %w", name, want.Stream, err)
	}
	return differences("consumer "+name, have, want.Config)
}

// serverSets are the settings that the broker fills in by itself when they are left open.
var serverSets = []string{"name", "max_waiting", "num_replicas", "replay_policy", "ack_wait", "max_ack_pending", "description"}

// differences compares settings in their wire form, so that a setting which a later version adds is seen too.
func differences(what string, have, want any) error {
	h, w := wire(have), wire(want)
	keys := slices.Sorted(maps.Keys(h))
	for k := range w {
		if _, ok := h[k]; !ok {
			keys = append(keys, k)
		}
	}
	var list []string
	for _, k := range keys {
		if string(h[k]) == string(w[k]) || (w[k] == nil && slices.Contains(serverSets, k)) || k == "metadata" { // the broker adds its own
			continue
		}
		list = append(list, fmt.Sprintf("%s is %s, want %s", k, orNone(h[k]), orNone(w[k])))
	}
	if list == nil {
		return nil
	}
	return fmt.Errorf("bus: %s: %w: %s", what, ErrDiffers, strings.Join(list, "; "))
}

// wire is the JSON form of settings without what says nothing: absent, false, 0 and "" are the same to the broker.
func wire(settings any) map[string]json.RawMessage {
	data, err := json.Marshal(settings)
	if err != nil {
		panic(err) // settings are plain structs of nats.go
	}
	m := make(map[string]json.RawMessage)
	if err := json.Unmarshal(data, &m); err != nil {
		panic(err)
	}
	maps.DeleteFunc(m, func(_ string, v json.RawMessage) bool {
		return slices.Contains([]string{"null", "false", "0", `""`, "{}", "[]", `"none"`}, string(v))
	})
	return m
}

func orNone(v json.RawMessage) string {
	if v == nil {
		return "not set"
	}
	return string(v)
}

// PublishKeys puts public sealing keys into KEYS, where senders find them.
func PublishKeys(ctx context.Context, nc *nats.Conn, keys []events.PublicKey) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	for _, k := range keys {
		subject := "keys." + k.Recipient
		data, err := json.Marshal(k)
		if err != nil {
			return fmt.Errorf("bus: key of %s: %w", k.Recipient, err)
		}
		stream, err := js.Stream(ctx, streamKeys)
		if err != nil {
			return fmt.Errorf("bus: key of %s: %w", k.Recipient, err)
		}
		if last, err := stream.GetLastMsgForSubject(ctx, subject); err == nil && string(last.Data) == string(data) {
			continue
		}
		if _, err := js.Publish(ctx, subject, data); err != nil {
			return fmt.Errorf("bus: key of %s: %w", k.Recipient, err)
		}
	}
	return nil
}
