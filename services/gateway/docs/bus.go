package docs

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/sekisho/sekisho/schemas"
	"github.com/sekisho/sekisho/services/internal/document"
)

// A bus is asyncapi.yaml as the page shows it.
type bus struct {
	Description string
	Server      string
	Attributes  []field   // of the steps of a login
	Steps       []channel // in the order in which a login usually meets them
	Channels    []channel // all others
	Objects     []object  // parts of steps' data
	Streams     []stream
	Users       []user
}

type channel struct {
	Name, Address, Summary string
	Stream                 string
	Senders, Receivers     []string
	Data                   object // of a step
	Example                string // of a step
	Messages               []message
}

type message struct {
	Name, Summary string
	Fields        []field
}

type stream struct {
	Name, Description string
	Settings          []setting
}

// A user is one NATS user, and what it may do.
type user struct {
	Name    string
	Permits []setting
}

type setting struct {
	Name   string
	Values []string
}

func readBus(doc document.Node) (b bus, err error) {
	b = bus{
		Description: doc.Get("info", "description").Text(),
		Server:      doc.Get("servers", "nats", "protocol").Text() + "://" + doc.Get("servers", "nats", "host").Text(),
		Attributes:  fields(doc.Get("components", "schemas", "StepAttributes")),
	}
	for name, n := range doc.Get("channels").Each() {
		c := channel{Name: name, Address: n.Get("address").Text(), Summary: n.Get("summary").Text(), Stream: n.Get("x-stream").Text()}
		c.Senders, c.Receivers = parties(doc, name)
		if c.Stream == "LOGIN" {
			if err := c.readStep(); err != nil {
				return b, err
			}
			b.Steps = append(b.Steps, c)
			continue
		}
		if c.Stream != "ARCHIVE" { // which says again what LOGIN has stored
			for _, m := range n.Get("messages").Each() {
				c.Messages = append(c.Messages, message{m.Get("name").Text(), m.Get("summary").Text(), fields(m.Get("payload"))})
			}
		}
		b.Channels = append(b.Channels, c)
	}
	for _, name := range []string{"sealed", "decision"} {
		o, err := readSchema(name)
		if err != nil {
			return b, err
		}
		b.Objects = append(b.Objects, o)
	}
	for name, n := range doc.Get("x-streams").Each() {
		b.Streams = append(b.Streams, stream{name, n.Get("description").Text(), settings(n)})
	}
	for name, n := range doc.Get("x-permissions").Each() {
		b.Users = append(b.Users, user{name, settings(n)})
	}
	return b, nil
}

// parties are the users who send to a channel, and those who receive from it. Operations are named for both.
func parties(doc document.Node, channel string) (senders, receivers []string) {
	for name := range doc.Get("operations").Each() {
		if who, ok := strings.CutSuffix(name, "-sends-"+channel); ok {
			senders = append(senders, who)
		}
		if who, ok := strings.CutSuffix(name, "-receives-"+channel); ok {
			receivers = append(receivers, who)
		}
	}
	return senders, receivers
}

func (c *channel) readStep() (err error) {
	if c.Data, err = readSchema(c.Name); err != nil {
		return err
	}
	text, err := fs.ReadFile(schemas.Files, path.Join("examples", c.Name+".json"))
	c.Example = string(bytes.TrimSpace(text))
	return err
}

func readSchema(name string) (object, error) {
	schema, err := read(name + ".schema.json")
	if err != nil {
		return object{}, fmt.Errorf("schema of %s: %w", name, err)
	}
	o := object{name, schema.Get("description").Text(), fields(schema)}
	for i, f := range o.Fields { // parts that stand in it have no name
		if part := schema.Get("properties", f.Name); f.Object == "" && part.Get("properties").There() {
			for _, inner := range fields(part) {
				o.Fields[i].Values = append(o.Fields[i].Values, inner.Name)
			}
		}
	}
	return o, nil
}

func settings(n document.Node) (all []setting) {
	for name, value := range n.Each() {
		if name == "description" {
			continue
		}
		s := setting{Name: name, Values: value.Texts()}
		if len(s.Values) == 0 || s.Values[0] == "" {
			s.Values = []string{strings.Join(strings.Fields(literal(value)), " ")}
		}
		all = append(all, s)
	}
	return all
}
