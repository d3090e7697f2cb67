package otpvalidator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/sekisho/sekisho/events"
	"github.com/sekisho/sekisho/services/internal/directory"
	"github.com/sekisho/sekisho/services/internal/oath"
)

// challenge asks for the code of a token. Nothing is looked up and nothing is sent, so nobody learns whether there is such a token. A
// question goes with every challenge or with none, also for that reason; of two deliveries' questions the one that is stored counts.
func (v *verifier) challenge(_ context.Context, e *events.Event, wanted *events.Wanted) ([]*events.Event, error) {
	if wanted.Factor != events.Token {
		return nil, nil // another worker's
	}
	question, err := newQuestion(v.settings.Question)
	if err != nil {
		return nil, err
	}
	return []*events.Event{events.New(e.Login, e.N, &events.Challenged{
		Factor: events.Token, Question: question, Expires: wanted.Deadline, Choices: append([]events.Factor{events.Token}, wanted.Left...),
	})}, nil
}

// newQuestion is as many random digits; "" for none.
func newQuestion(digits int) (string, error) {
	if digits == 0 {
		return "", nil
	}
	modulus := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
	number, err := rand.Int(rand.Reader, modulus)
	if err != nil {
		return "", fmt.Errorf("otpvalidator: question: %w", err)
	}
	return fmt.Sprintf("%0*d", digits, number), nil
}

// judgeToken judges a token's code. There is no proof unless it is right, and nothing is left to finish: the verdict is stored.
func (v *verifier) judgeToken(ctx context.Context, c *claim, standing directory.Standing) (proof *events.Verified, _ *directory.Result, err error) {
	verdict := standing.Verdict
	switch {
	case !standing.Allowed:
		return nil, nil, v.pretend(ctx, c)
	case verdict == "":
		verdict, err = v.checkToken(ctx, c)
	}
	if err != nil || verdict == wrong {
		return nil, nil, err
	}
	authenticator, counter, err := accepted(verdict)
	return &events.Verified{Factor: events.Token, Authenticator: authenticator, Counter: counter}, nil, err
}

// checkToken gives the verdict on a code that any of the user's tokens may have shown, and stores it. A right one uses the code up: the
// token moves on in the same transaction in which the verdict is written, so neither a second answer nor a crash makes it good again.
func (v *verifier) checkToken(ctx context.Context, c *claim) (verdict string, err error) {
	tokens, err := v.tokens.Of(ctx, c.wanted.User)
	if err != nil {
		return "", err
	}
	for _, token := range tokens {
		check, far := token.Token.Check, v.settings.LookAhead
		if token.Wide {
			check, far = token.Token.CheckWide, v.settings.Resync
		}
		state, ok := check(oath.Typed{Code: c.code, PIN: token.PIN, Question: c.question}, token.State, c.at, int64(far))
		if !ok || !token.Good(c.at) || c.wanted.Decoy {
			continue
		}
		verdict = fmt.Sprintf("%s %s %d", right, token.ID, state.Next-1)
		taken, err := v.tokens.Accept(ctx, v.attempts, token, state, directory.Result{Attempt: c.attempt, Verdict: verdict, Right: true})
		if err != nil || taken {
			return verdict, err
		}
		// Another answer has used the code up, or another delivery of this one has its verdict, which is found below.
	}
	// Another delivery may have used the code up before the tokens were read here. Of two verdicts the first is kept, and counts.
	if err := v.storeWrong(ctx, c); err != nil {
		return "", err
	}
	standing, err := v.attempts.Begin(ctx, c.attempt)
	if err == nil && standing.Verdict == "" {
		err = errors.New("otpvalidator: the verdict on a token's code was lost")
	}
	return standing.Verdict, err
}

// storeWrong stores the verdict, unless there is one.
func (v *verifier) storeWrong(ctx context.Context, c *claim) error {
	return v.attempts.Finish(ctx, directory.Result{Attempt: c.attempt, Verdict: wrong}, func() error { return nil })
}

// pretend does with the answer to a locked token what takes time with a wrong one, so that nobody who only knows the name learns of the lock:
// it reads the tokens, and waits for a verdict to be stored, which changes nothing where no attempt has begun.
func (v *verifier) pretend(ctx context.Context, c *claim) error {
	if _, err := v.tokens.Of(ctx, c.wanted.User); err != nil {
		return err
	}
	return v.storeWrong(ctx, c)
}

// accepted reads the verdict on a right code: the token, as events name it, and its event or step of time.
func accepted(verdict string) (authenticator string, counter int64, err error) {
	parts := strings.Fields(verdict)
	if len(parts) != 3 || parts[0] != right {
		return "", 0, errors.New("otpvalidator: the verdict on a token's code can not be read")
	}
	counter, err = strconv.ParseInt(parts[2], 10, 64)
	return directory.TokenOf(parts[1]), max(counter, 0), err
}
