package postgres

import "syscall"

// childOf keeps a program out of the terminal's process group, so that Ctrl-C reaches us alone and
// we end the server after its users, and has it shut down when we are killed. Go asks for that
// signal after it has changed the user, which would clear it.
func childOf(runAs *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: runAs, Setpgid: true, Pdeathsig: syscall.SIGINT}
}

// killedWithUs is as childOf, for a program that may be ended at any point: it is, the moment that we are.
func killedWithUs(runAs *syscall.Credential) *syscall.SysProcAttr {
	attr := childOf(runAs)
	attr.Pdeathsig = syscall.SIGKILL
	return attr
}
