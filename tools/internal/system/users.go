package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sekisho/sekisho/tools/internal/phone"
)

// adding is how many users or phones are added at once.
const adding = 16

// A User is an account.
type User struct {
	Name, Password string
	Phone          string       // its number
	Authenticator  *phone.Phone // nil until [System.Enroll]
	Address        string       // where the user comes from
}

// AddUsers makes n accounts. There should be many, since logins of one user wait for each other at the user's failure counter.
func (s *System) AddUsers(ctx context.Context, n int) ([]User, error) {
	users := make([]User, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(adding)
	for i := range users {
		users[i] = User{Name: fmt.Sprintf("user%05d", i), Password: "a long enough password",
			Phone: fmt.Sprintf("+81901%07d", i), Address: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)}
		group.Go(func() error { return s.addUser(ctx, users[i]) })
	}
	return users, group.Wait()
}

func (s *System) addUser(ctx context.Context, u User) error {
	_, err := s.admin(ctx, "/users", map[string]string{"user": u.Name, "password": u.Password, "phone": u.Phone, "primary": "password"})
	return err
}

// Enroll makes the phone of each user an authenticator.
func (s *System) Enroll(ctx context.Context, users []User) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(adding)
	for i := range users {
		group.Go(func() error {
			activation, err := s.invite(ctx, users[i])
			if err != nil {
				return err
			}
			users[i].Authenticator, err = phone.Enroll(ctx, phone.HTTP(s.http, s.HTTP), activation, "phone of "+users[i].Name)
			return err
		})
	}
	return group.Wait()
}

// invite gives the code with which a phone can be enrolled for a user.
func (s *System) invite(ctx context.Context, u User) (activation string, err error) {
	answer, err := s.admin(ctx, "/users/"+u.Name+"/activations", nil)
	if err != nil {
		return "", err
	}
	var invited struct {
		URL string `json:"activation_url"`
	}
	if err := json.Unmarshal(answer, &invited); err != nil {
		return "", fmt.Errorf("invitation: %w", err)
	}
	_, activation, _ = strings.Cut(invited.URL, "#")
	return activation, nil
}

// admin creates something by the admin API.
func (s *System) admin(ctx context.Context, path string, value any) ([]byte, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Ops+"/admin/v1"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.adminToken)
	return s.do(req, http.StatusCreated)
}
