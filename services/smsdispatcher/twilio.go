package smsdispatcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sekisho/sekisho/services/internal/provider"
)

// twilioMaxValidity is the longest ValidityPeriod that Twilio has always taken.
const twilioMaxValidity = 4 * time.Hour

// TwilioConfig is an account at Twilio or at one of the many that speak its API.
type TwilioConfig struct {
	URL     string // such as https://api.twilio.com
	Account string // account SID
	Token   string
	From    string // sender's number, E.164
}

// Twilio sends by Twilio's Messages API.
type Twilio struct {
	client *provider.Client
	config TwilioConfig
	now    func() time.Time
}

// NewTwilio returns an adapter that calls through c.
func NewTwilio(c *provider.Client, cfg TwilioConfig) *Twilio {
	return &Twilio{client: c, config: cfg, now: time.Now}
}

// Send hands the message over. The errors are those of package provider; a message that is past its
// NotAfter, or that Twilio gives up at once, is ErrRefused.
func (t *Twilio) Send(ctx context.Context, m Message) (Receipt, error) {
	form := url.Values{"To": {m.To}, "From": {t.config.From}, "Body": {m.Body}}
	if !m.NotAfter.IsZero() {
		validity := min(m.NotAfter.Sub(t.now()), twilioMaxValidity) / time.Second
		if validity < 1 {
			return Receipt{}, provider.Refuse("twilio", "message is past its time")
		}
		form.Set("ValidityPeriod", strconv.Itoa(int(validity)))
	}
	var receipt Receipt
	err := t.call(ctx, http.MethodPost, "/Messages.json", nil, form, func(r *provider.Response) (err error) {
		receipt, err = twilioReceipt(r)
		return refuseFailed(receipt, err)
	})
	return receipt, err
}

// Find asks whether Twilio accepted this message before. Twilio knows no tags, so it is looked for among
// the messages to the number since yesterday (Twilio's days are UTC's), by its body, which holds the code
// and so is its own.
func (t *Twilio) Find(ctx context.Context, m Message) (Receipt, bool, error) {
	query := url.Values{
		"To":        {m.To},
		"DateSent>": {t.now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)},
		"PageSize":  {"100"},
	}
	var (
		receipt Receipt
		found   bool
	)
	err := t.call(ctx, http.MethodGet, "/Messages.json", query, nil, func(r *provider.Response) (err error) {
		receipt, found, err = twilioFind(r, m)
		return err
	})
	return receipt, found, err
}

// Status asks how far the message with this id got. ErrRefused if Twilio does not know it.
func (t *Twilio) Status(ctx context.Context, id string) (State, error) {
	if !messageID.MatchString(id) {
		return "", provider.Refuse("twilio", "not an id of a message")
	}
	var receipt Receipt
	err := t.call(ctx, http.MethodGet, "/Messages/"+id+".json", nil, nil, func(r *provider.Response) (err error) {
		receipt, err = twilioReceipt(r)
		return err
	})
	return receipt.State, err
}

func (t *Twilio) call(ctx context.Context, method, path string, query, form url.Values, decode func(*provider.Response) error) error {
	req, err := newRequest(method, t.config.URL+"/2010-04-01/Accounts/"+url.PathEscape(t.config.Account)+path, query, form)
	if err != nil {
		return fmt.Errorf("twilio: %w", err)
	}
	req.SetBasicAuth(t.config.Account, t.config.Token)
	return t.client.Do(ctx, req, decode)
}

type twilioMessage struct {
	SID    string `json:"sid"`
	To     string `json:"to"`
	Body   string `json:"body"`
	Status string `json:"status"`
}

func twilioReceipt(r *provider.Response) (Receipt, error) {
	if err := twilioError(r); err != nil {
		return Receipt{}, err
	}
	var m twilioMessage
	if err := r.JSON(&m); err != nil {
		return Receipt{}, err
	}
	return m.receipt()
}

// twilioFind takes the message with the same body out of a list.
func twilioFind(r *provider.Response, sent Message) (receipt Receipt, found bool, err error) {
	if err := twilioError(r); err != nil {
		return Receipt{}, false, err
	}
	var list struct {
		Messages *[]twilioMessage `json:"messages"`
	}
	if err := r.JSON(&list); err != nil {
		return Receipt{}, false, err
	}
	if list.Messages == nil {
		return Receipt{}, false, errors.New("answer is not a list")
	}
	return pick(*list.Messages, func(m twilioMessage) bool { return m.To == sent.To && m.Body == sent.Body })
}

func (m twilioMessage) receipt() (Receipt, error) {
	if !messageID.MatchString(m.SID) {
		return Receipt{}, errors.New("answer is not a message")
	}
	receipt := Receipt{ID: m.SID}
	switch m.Status {
	case "accepted", "scheduled", "queued", "sending":
		receipt.State = StateAccepted
	case "sent":
		receipt.State = StateSent
	case "delivered", "read":
		receipt.State = StateReceived
	case "undelivered", "failed", "canceled":
		receipt.State = StateFailed
	default:
		return Receipt{}, errors.New("message is in an unknown state")
	}
	return receipt, nil
}

// twilioError reads Twilio's error. Its codes are named for operators only: Twilio asks not to build on
// them, since they change.
func twilioError(r *provider.Response) error {
	class := r.Class()
	if class == nil {
		return nil
	}
	var envelope struct {
		Code   int `json:"code"`
		Status int `json:"status"`
	}
	if err := r.JSON(&envelope); err != nil {
		return err
	}
	if envelope.Status != r.Status {
		return errors.New("answer is not an error of this API")
	}
	return fmt.Errorf("status %d code %d: %w", r.Status, envelope.Code, class)
}
