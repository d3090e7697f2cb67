// Package events is what a gateway needs to take part in Sekisho: the events of a login, their subjects on NATS, their
// CloudEvents form, the sealing of what only one worker may read, and a [Client].
//
// A login is one tree of write-once subjects login.<step>.<gateway>.<login>[.<n>]: a subject takes exactly one message,
// so a repeated publish does no harm and there is one outcome per login. See services/README.md for the rules of the bus.
package events
