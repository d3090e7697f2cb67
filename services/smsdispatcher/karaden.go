package smsdispatcher

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sekisho/sekisho/services/internal/provider"
)

// karadenVersion is the API version whose shapes this adapter knows.
const karadenVersion = "2024-03-01"

// KaradenConfig is an account at Karaden.
type KaradenConfig struct {
	URL       string // such as https://prg.karaden.jp/api
	Tenant    string
	Token     string
	ServiceID int
}

// Karaden sends by the Karaden SMS API, to Japanese mobile numbers only.
type Karaden struct {
	client *provider.Client
	config KaradenConfig
}

// NewKaraden returns an adapter that calls through c.
func NewKaraden(c *provider.Client, cfg KaradenConfig) *Karaden {
	return &Karaden{client: c, config: cfg}
}

// Send hands the message over. The errors are those of package provider; a message that Karaden gives up at
// once is ErrRefused.
func (k *Karaden) Send(ctx context.Context, m Message) (Receipt, error) {
	to, err := karadenNumber(m.To)
	if err != nil {
		return Receipt{}, err
	}
	form := url.Values{
		"service_id": {strconv.Itoa(k.config.ServiceID)},
		"to":         {to},
		"body":       {m.Body},
		"tags[]":     {m.Tag},
		"is_shorten": {"false"}, // whatever the service's default: a link of ours stays recognizable
	}
	if !m.NotAfter.IsZero() {
		form.Set("limited_at", m.NotAfter.Format("2006-01-02T15:04:05-07:00"))
	}
	var receipt Receipt
	err = k.call(ctx, http.MethodPost, "/messages", nil, form, func(r *provider.Response) (err error) {
		receipt, err = karadenReceipt(r)
		return refuseFailed(receipt, err)
	})
	return receipt, err
}

// Find asks whether Karaden accepted this message before; it is known by its tag.
func (k *Karaden) Find(ctx context.Context, m Message) (Receipt, bool, error) {
	to, err := karadenNumber(m.To)
	if err != nil {
		return Receipt{}, false, err
	}
	query := url.Values{
		"service_id": {strconv.Itoa(k.config.ServiceID)},
		"to":         {to},
		"tag":        {m.Tag},
		"per_page":   {"100"},
	}
	var (
		receipt Receipt
		found   bool
	)
	err = k.call(ctx, http.MethodGet, "/messages", query, nil, func(r *provider.Response) (err error) {
		receipt, found, err = karadenFind(r, to, m.Tag)
		return err
	})
	return receipt, found, err
}

// Status asks how far the message with this id got. ErrRefused if Karaden does not know it.
func (k *Karaden) Status(ctx context.Context, id string) (State, error) {
	if !messageID.MatchString(id) {
		return "", provider.Refuse("karaden", "not an id of a message")
	}
	var receipt Receipt
	err := k.call(ctx, http.MethodGet, "/messages/"+id, nil, nil, func(r *provider.Response) (err error) {
		receipt, err = karadenReceipt(r)
		return err
	})
	return receipt.State, err
}

func (k *Karaden) call(ctx context.Context, method, path string, query, form url.Values, decode func(*provider.Response) error) error {
	req, err := newRequest(method, k.config.URL+"/"+url.PathEscape(k.config.Tenant)+path, query, form)
	if err != nil {
		return fmt.Errorf("karaden: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+k.config.Token)
	req.Header.Set("Karaden-Version", karadenVersion)
	return k.client.Do(ctx, req, decode)
}

// karadenNumber turns an E.164 number into the 11 digits that Karaden wants. Only Japanese mobile numbers have
// that many.
func karadenNumber(e164 string) (string, error) {
	digits, ok := strings.CutPrefix(e164, "+81")
	if !ok || len(digits) != 10 || strings.Trim(digits, "0123456789") != "" {
		return "", provider.Refuse("karaden", "not a Japanese mobile number")
	}
	return "0" + digits, nil
}

type karadenMessage struct {
	Object     string   `json:"object"`
	ID         string   `json:"id"`
	To         string   `json:"to"`
	Tags       []string `json:"tags"`
	Result     string   `json:"result"`
	Status     string   `json:"status"`
	SentResult string   `json:"sent_result"`
}

func karadenReceipt(r *provider.Response) (Receipt, error) {
	if err := karadenError(r); err != nil {
		return Receipt{}, err
	}
	var m karadenMessage
	if err := r.JSON(&m); err != nil {
		return Receipt{}, err
	}
	return m.receipt()
}

// karadenFind takes the message with the tag out of a list.
func karadenFind(r *provider.Response, to, tag string) (receipt Receipt, found bool, err error) {
	if err := karadenError(r); err != nil {
		return Receipt{}, false, err
	}
	var list struct {
		Object string           `json:"object"`
		Data   []karadenMessage `json:"data"`
	}
	if err := r.JSON(&list); err != nil {
		return Receipt{}, false, err
	}
	if list.Object != "list" {
		return Receipt{}, false, errors.New("answer is not a list")
	}
	return pick(list.Data, func(m karadenMessage) bool { return m.To == to && slices.Contains(m.Tags, tag) })
}

func (m karadenMessage) receipt() (Receipt, error) {
	if m.Object != "message" || !messageID.MatchString(m.ID) {
		return Receipt{}, errors.New("answer is not a message")
	}
	state, err := m.state()
	return Receipt{ID: m.ID, State: state}, err
}

// state maps Karaden's three fields. As long as the result is not done, a phone out of reach may still be
// reached.
func (m karadenMessage) state() (State, error) {
	switch m.Status {
	case "waiting":
		return StateAccepted, nil
	case "error", "processing_error", "canceled":
		return StateFailed, nil
	case "done":
		switch m.SentResult {
		case "received":
			return StateReceived, nil
		case "unconnected", "error":
			if m.Result == "done" {
				return StateFailed, nil
			}
			return StateSent, nil
		case "none", "unknown":
			return StateSent, nil
		}
	}
	return "", errors.New("message is in an unknown state")
}

var karadenCode = regexp.MustCompile(`^[a-z_]{1,64}$`)

// karadenError reads the error envelope. Karaden answers 400 to an account or a version that it does not
// know; those are our mistakes, not the message's.
func karadenError(r *provider.Response) error {
	class := r.Class()
	if class == nil {
		return nil
	}
	var envelope struct {
		Object string `json:"object"`
		Code   string `json:"code"`
	}
	if err := r.JSON(&envelope); err != nil {
		return err
	}
	if envelope.Object != "error" || !karadenCode.MatchString(envelope.Code) {
		return errors.New("answer is not an error envelope")
	}
	switch envelope.Code {
	case "invalid_tenant", "invalid_version", "unauthentication":
		class = provider.ErrUnavailable
	}
	return fmt.Errorf("status %d %s: %w", r.Status, envelope.Code, class)
}
