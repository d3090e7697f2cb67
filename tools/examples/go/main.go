// Command go is a gateway on the command line: it asks for a login and answers its challenges with what is typed.
//
//	PASSWORD=… go run ./tools/examples/go nats://127.0.0.1:4222 .sekisho/credentials/example.nk alice
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/sekisho/sekisho/events"
)

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: go <NATS URL> <seed file> <user>")
	}
	if err := login(context.Background(), os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func login(ctx context.Context, url, seedFile, user string) error {
	client, err := events.Connect(ctx, url, seedFile, events.Options{Gateway: "example"})
	if err != nil {
		return err
	}
	defer client.Close()
	login, err := client.Request(ctx, events.Request{App: "demo", Method: events.Password, User: user, Password: os.Getenv("PASSWORD")})
	if err != nil {
		return err
	}
	typed := bufio.NewScanner(os.Stdin)
	for state, err := range client.Watch(ctx, login) {
		if err != nil {
			return err
		}
		if c := state.Challenge(); c != nil {
			fmt.Printf("code sent to %s, %d attempts left: ", c.Hint, c.AttemptsLeft)
			if !typed.Scan() { // nothing more will be typed
				err = client.Cancel(ctx, login)
			} else {
				_, err = client.Answer(ctx, login, typed.Text())
			}
			if err != nil && !errors.Is(err, events.ErrEnded) { // of an ending, the watch tells
				return err
			}
		} else if state.Ended() {
			fmt.Println(state.Status())
		}
	}
	return nil
}
