package tokenfile

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// maxIterations is how long PBKDF2 may take that a file asks for: about a second.
const maxIterations = 1_000_000

// minMACKey is bytes. Nothing keeps the MAC key itself from changes: one block of noise in its place is an empty key, which everybody has, once in 256 files.
const minMACKey = 16

// The algorithms, by the names that XML Encryption and XML Signature give them.
var (
	cbcKeys = map[string]int{xenc + "aes128-cbc": 16, xenc + "aes192-cbc": 24, xenc + "aes256-cbc": 32} // bytes
	macs    = map[string]func() hash.Hash{
		dsig + "hmac-sha1": sha1.New,
		"http://www.w3.org/2001/04/xmldsig-more#hmac-sha256": sha256.New,
		"http://www.w3.org/2001/04/xmldsig-more#hmac-sha512": sha512.New,
	}
	pbkdf2Names = map[string]bool{"http://www.rsasecurity.com/rsalabs/pkcs/schemas/pkcs-5v2-0#pbkdf2": true, xenc11 + "pbkdf2": true}
)

// An opener opens the secrets of a container. It counts the MACs, for if none is right it is the key that is wrong.
type opener struct {
	key          []byte // nil: of a container in clear
	hash         func() hash.Hash
	macKey       []byte // nil: the container has no MACs
	right, wrong int
}

// unlock finds the keys of a container (RFC 6030 section 6). Errors name the line.
func unlock(key string, encryption, mac *element) (*opener, error) {
	if key == "" {
		if encryption != nil {
			return nil, located(encryption.line, errors.New("the file is encrypted, and no key is given"))
		}
		return &opener{}, nil
	}
	o := &opener{}
	var err error
	if o.key, err = containerKey(key, encryption); err != nil {
		if encryption == nil {
			return nil, fmt.Errorf("tokenfile: %w", err)
		}
		return nil, located(encryption.line, err)
	}
	if mac == nil {
		return o, nil
	}
	name := mac.attr("Algorithm")
	if o.hash = macs[name]; o.hash == nil {
		return nil, located(mac.line, fmt.Errorf("MAC %.100q is not supported", name))
	}
	wrapped := mac.at("MACKey")
	if wrapped == nil {
		return nil, located(mac.line, errors.New("a <MACMethod> without <MACKey> is not supported"))
	}
	if o.macKey, err = o.decrypt(wrapped); err != nil {
		return nil, located(wrapped.line, fmt.Errorf("the MAC key can not be decrypted, so the key given may be wrong: %w", err))
	}
	if len(o.macKey) < minMACKey {
		return nil, located(wrapped.line, fmt.Errorf("the MAC key has %d bytes, want %d or more", len(o.macKey), minMACKey))
	}
	return o, nil
}

// containerKey is the key that is given, or the one that is derived of a pass phrase.
func containerKey(key string, encryption *element) ([]byte, error) {
	if derived := encryption.at("DerivedKey"); derived != nil {
		return derive(key, derived.at("KeyDerivationMethod"))
	}
	if encryption != nil {
		for _, child := range encryption.children {
			if child.Name.Local != "KeyName" {
				return nil, fmt.Errorf("encryption under <%.40s> is not supported, only a pre-shared key or a pass phrase", child.Name.Local)
			}
		}
	}
	raw, err := hex.DecodeString(key)
	if n := len(raw); err != nil || n != 16 && n != 24 && n != 32 {
		return nil, errors.New("the file has a pre-shared key, and the one given is not of 16, 24 or 32 bytes in hex")
	}
	return raw, nil
}

// derive is PBKDF2 (RFC 8018 section 5.2) as a file asks for it.
func derive(phrase string, method *element) ([]byte, error) {
	if name := method.attr("Algorithm"); !pbkdf2Names[name] {
		return nil, fmt.Errorf("key derivation %.100q is not supported", name)
	}
	parameters := method.at("PBKDF2-params")
	salt, err := decode(parameters.at("Salt", "Specified"))
	if err != nil || len(salt) == 0 {
		return nil, errors.New("PBKDF2 has no <Salt> in Base64")
	}
	iterations, err := strconv.Atoi(parameters.at("IterationCount").value())
	if err != nil || iterations < 1 || iterations > maxIterations {
		return nil, fmt.Errorf("<IterationCount> of PBKDF2 is not 1 to %d", maxIterations)
	}
	length, err := strconv.Atoi(parameters.at("KeyLength").value())
	if err != nil || length != 16 && length != 24 && length != 32 {
		return nil, errors.New("<KeyLength> of PBKDF2 is not 16, 24 or 32")
	}
	prf := sha1.New // RFC 8018 appendix A.2
	if name := parameters.at("PRF").attr("Algorithm"); name != "" {
		if prf = macs[name]; prf == nil {
			return nil, fmt.Errorf("<PRF> %.100q of PBKDF2 is not supported", name)
		}
	}
	return pbkdf2.Key(prf, phrase, salt, iterations, length)
}

// secret is the secret of a token.
func (o *opener) secret(e *element) ([]byte, error) {
	plain, encrypted := e.at("PlainValue"), e.at("EncryptedValue")
	switch {
	case plain == nil && encrypted == nil:
		return nil, errors.New("there is no <Secret>")
	case plain != nil && encrypted != nil:
		return nil, errors.New("<Secret> is both in clear and encrypted")
	case plain != nil && o.key != nil:
		return nil, errors.New("<Secret> is in clear, though a key is given")
	case encrypted != nil && o.key == nil:
		return nil, errors.New("<Secret> is encrypted, and no key is given")
	case plain != nil:
		return decode(plain)
	}
	if cbcKeys[encrypted.at("EncryptionMethod").attr("Algorithm")] == 0 {
		return o.decrypt(encrypted) // which says what is wrong
	}
	// AES-CBC keeps secret and does not keep from changes: the MAC over the encrypted bytes does (RFC 6030 section 6.1.1).
	mac := e.at("ValueMAC")
	if mac == nil || o.macKey == nil {
		return nil, errors.New("<Secret> is encrypted without a <ValueMAC>, so it could have been changed")
	}
	sum, err := decode(mac)
	if err != nil {
		return nil, err
	}
	sealed, err := decode(encrypted.at("CipherData", "CipherValue"))
	if err != nil {
		return nil, err
	}
	h := hmac.New(o.hash, o.macKey)
	h.Write(sealed)
	if !hmac.Equal(h.Sum(nil), sum) {
		o.wrong++
		return nil, errors.New("<ValueMAC> is wrong: the secret was changed, or is of another key")
	}
	o.right++
	return o.decrypt(encrypted)
}

// decrypt opens an EncryptedDataType: the IV and what was encrypted under AES in CBC mode (XML Encryption section 5.2). Its last byte tells how many pad it.
func (o *opener) decrypt(e *element) ([]byte, error) {
	name := e.at("EncryptionMethod").attr("Algorithm")
	size, ok := cbcKeys[name]
	if !ok {
		return nil, fmt.Errorf("encryption %.100q is not supported", name)
	}
	if size != len(o.key) {
		return nil, fmt.Errorf("the key has %d bytes, want %d", len(o.key), size)
	}
	sealed, err := decode(e.at("CipherData", "CipherValue"))
	if err != nil {
		return nil, err
	}
	if len(sealed) < 2*aes.BlockSize || len(sealed)%aes.BlockSize != 0 {
		return nil, errors.New("<CipherValue> is not an IV and whole blocks")
	}
	block, err := aes.NewCipher(o.key)
	if err != nil {
		return nil, err
	}
	iv, opened := sealed[:aes.BlockSize], sealed[aes.BlockSize:]
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(opened, opened)
	padding := int(opened[len(opened)-1])
	if padding < 1 || padding > aes.BlockSize {
		return nil, errors.New("the padding is wrong")
	}
	return opened[:len(opened)-padding], nil
}

// decode reads Base64, which may have line breaks in it.
func decode(e *element) ([]byte, error) {
	if e == nil {
		return nil, errors.New("there is no value")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(e.text), ""))
	if err != nil {
		return nil, fmt.Errorf("<%s> is not Base64", e.Name.Local)
	}
	return raw, nil
}
