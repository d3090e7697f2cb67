// Package services is the table of contents: every worker, in the order in which a login meets them.
package services

import (
	"github.com/sekisho/sekisho/services/console"
	"github.com/sekisho/sekisho/services/gateway"
	"github.com/sekisho/sekisho/services/identityverifier"
	"github.com/sekisho/sekisho/services/internal/runtime"
	"github.com/sekisho/sekisho/services/otpvalidator"
	"github.com/sekisho/sekisho/services/pushnotifier"
	"github.com/sekisho/sekisho/services/recorder"
	"github.com/sekisho/sekisho/services/riskassessor"
	"github.com/sekisho/sekisho/services/sessionissuer"
	"github.com/sekisho/sekisho/services/smsdispatcher"
)

// All lists the workers. Each runs alone, in any number of instances, or with others in one process.
var All = []runtime.Service{
	gateway.Service,
	identityverifier.Service,
	riskassessor.Service,
	sessionissuer.Service,
	smsdispatcher.Service,
	pushnotifier.Service,
	otpvalidator.Service,
	recorder.Service,
	console.Service,
}
