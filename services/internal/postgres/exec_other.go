//go:build unix && !linux

package postgres

import "syscall"

// childOf keeps a program out of the terminal's process group, so that Ctrl-C reaches us alone and
// we end the server after its users. Only Linux can also end it when we are killed.
func childOf(runAs *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: runAs, Setpgid: true}
}

// killedWithUs is childOf: see there.
func killedWithUs(runAs *syscall.Credential) *syscall.SysProcAttr { return childOf(runAs) }
