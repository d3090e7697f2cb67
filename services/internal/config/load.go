package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/sekisho/sekisho/services/internal/yamlfile"
)

// Load reads a file over [Default]; an empty path gives the defaults.
func Load(path string) (*Config, error) {
	c := Default()
	if path == "" {
		return c, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	file, err := decode(path, data, c)
	if err != nil {
		return nil, err
	}
	c.SMS.nameProviders()
	c.Gateway.normalize()
	if err := c.check(path, file); err != nil {
		return nil, err
	}
	if c.Policy, err = beside(path, c.Policy); err != nil {
		return nil, err
	}
	return c, c.resolve(path)
}

// FillProviders takes from another file each kind of provider (risk, sms, push) of which c names none. The file has these sections;
// it need not exist. `up` keeps its simulators there, so that a worker started alone with the same credentials uses them too.
func (c *Config) FillProviders(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var named struct {
		Risk struct {
			URL           string `yaml:"url"`
			SignatureFile string `yaml:"signature_file"`
		} `yaml:"risk"`
		SMS struct {
			Providers []SMSProvider `yaml:"providers"`
		} `yaml:"sms"`
		Push struct {
			WebPush      WebPush  `yaml:"webpush"`
			WebPushHosts []string `yaml:"webpush_hosts"`
			FCM          FCM      `yaml:"fcm"`
			Mamoru       Mamoru   `yaml:"mamoru"`
		} `yaml:"push"`
	}
	file, err := decode(path, data, &named)
	if err != nil {
		return err
	}
	fill := Default()
	fill.Risk.URL, fill.Risk.SignatureFile, fill.SMS.Providers = named.Risk.URL, named.Risk.SignatureFile, named.SMS.Providers
	fill.Push.WebPush, fill.Push.WebPushHosts, fill.Push.FCM, fill.Push.Mamoru =
		named.Push.WebPush, named.Push.WebPushHosts, named.Push.FCM, named.Push.Mamoru
	fill.SMS.nameProviders()
	if err := fill.check(path, file); err != nil {
		return err
	}
	if err := fill.resolve(path); err != nil {
		return err
	}
	if c.Risk.URL == "" && c.Risk.Static == "" {
		c.Risk.URL, c.Risk.SignatureFile = fill.Risk.URL, fill.Risk.SignatureFile
	}
	if len(c.SMS.Providers) == 0 {
		c.SMS.Providers = fill.SMS.Providers
	}
	if p := &c.Push; p.WebPush.Subject == "" && p.FCM.Project == "" && p.Mamoru.URL == "" {
		p.WebPush, p.WebPushHosts, p.FCM, p.Mamoru = fill.Push.WebPush, fill.Push.WebPushHosts, fill.Push.FCM, fill.Push.Mamoru
	}
	return nil
}

func (s *SMS) nameProviders() {
	for i := range s.Providers {
		p := &s.Providers[i]
		p.Name = cmp.Or(p.Name, p.Kind)
	}
}

// normalize turns origins, networks and the domain into the form in which they are compared. What is neither stays, for check to refuse.
func (g *Gateway) normalize() {
	g.URL = cmp.Or(origin(g.URL), g.URL)
	g.CookieDomain = strings.ToLower(g.CookieDomain)
	for i, s := range g.Origins {
		g.Origins[i] = cmp.Or(origin(s), s)
	}
	for i, s := range g.Proxies {
		if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			g.Proxies[i] = netip.PrefixFrom(addr, addr.BitLen()).String()
		}
	}
}

// resolve makes the names of secret files absolute.
func (c *Config) resolve(path string) (err error) {
	files := []*string{&c.Password.Blocklist, &c.Risk.SignatureFile, &c.Push.FCM.KeyFile, &c.Push.Mamoru.TokenFile}
	for i := range c.SMS.Providers {
		files = append(files, &c.SMS.Providers[i].TokenFile)
	}
	for _, file := range files {
		if *file, err = beside(path, *file); err != nil {
			return err
		}
	}
	return nil
}

func beside(path, name string) (string, error) {
	if name == "" || filepath.IsAbs(name) {
		return name, nil
	}
	return filepath.Abs(filepath.Join(filepath.Dir(path), name))
}

// decode reads a file strictly into dst. A key without a value changes nothing.
func decode(path string, data []byte, dst any) (*ast.File, error) {
	file, err := yamlfile.Parse(path, data)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	for _, doc := range file.Docs {
		if doc.Body = dropNulls(doc.Body); doc.Body == nil {
			continue
		}
		// No setting is a fraction, and the library would cut one off.
		if fractions := ast.Filter(ast.FloatType, doc.Body); len(fractions) > 0 {
			token := fractions[0].GetToken()
			return nil, fmt.Errorf("config: %s:%d: %s: %s: want a whole number, or quotes around a text",
				path, token.Position.Line, yamlfile.Key(fractions[0]), token.Value)
		}
	}
	if err := yamlfile.Decode(path, file, dst, yaml.CustomUnmarshaler(readSpan)); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return file, nil
}

// noSpan is what stands for a time span that can not be read, which [checker.span] reports with its line: an error of readSpan has none.
const noSpan = time.Duration(math.MinInt64)

func readSpan(span *time.Duration, text []byte) error {
	var value any
	err := yaml.Unmarshal(text, &value)
	s, ok := value.(string)
	if err == nil && ok {
		*span, err = time.ParseDuration(s)
	}
	if err != nil || !ok {
		*span = noSpan
	}
	return nil
}

// dropNulls removes keys without a value, whose settings the decoder would make zero. It returns nil for a mapping that is empty then.
func dropNulls(node ast.Node) ast.Node {
	switch n := node.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil
	case *ast.MappingNode:
		n.Values = slices.DeleteFunc(n.Values, func(v *ast.MappingValueNode) bool {
			v.Value = dropNulls(v.Value)
			return v.Value == nil
		})
		if len(n.Values) == 0 {
			return nil
		}
	case *ast.MappingValueNode:
		if n.Value = dropNulls(n.Value); n.Value == nil {
			return nil
		}
	}
	return node
}

// check reports every value that is out of its bounds, each with its line.
func (c *Config) check(path string, file *ast.File) error {
	found := c.problems()
	errs := make([]error, len(found))
	for i, p := range found {
		errs[i] = fmt.Errorf("config: %s:%d: %s: %s", path, line(file, p.key), p.key, p.text)
	}
	return errors.Join(errs...)
}

// line finds where a key stands, or the nearest section around it.
func line(file *ast.File, key string) int {
	for ; key != ""; key = parent(key) {
		at, err := yaml.PathString("$." + key)
		if err != nil {
			continue
		}
		if node, err := at.FilterFile(file); err == nil {
			return node.GetToken().Position.Line
		}
	}
	return 1
}

func parent(key string) string {
	if i := strings.LastIndexAny(key, ".["); i >= 0 {
		return key[:i]
	}
	return ""
}
