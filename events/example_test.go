package events_test

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sekisho/sekisho/events"
)

// A gateway on the command line: it asks for a login and answers its challenges with what is typed.
func ExampleClient() {
	ctx := context.Background()
	client, err := events.Connect(ctx, "nats://127.0.0.1:4222", ".sekisho/credentials/example.nk", events.Options{Gateway: "example"})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	login, err := client.Request(ctx, events.Request{App: "demo", Method: events.Password, User: "alice", Password: os.Getenv("PASSWORD")})
	if err != nil {
		log.Fatal(err)
	}
	typed := bufio.NewScanner(os.Stdin)
	for state, err := range client.Watch(ctx, login) {
		if err != nil {
			log.Fatal(err)
		}
		if c := state.Challenge(); c != nil {
			fmt.Printf("code sent to %s, %d attempts left: ", c.Hint, c.AttemptsLeft)
			typed.Scan()
			if _, err := client.Answer(ctx, login, typed.Text()); err != nil {
				log.Fatal(err)
			}
		} else if state.Ended() {
			fmt.Println(state.Status())
		}
	}
}
