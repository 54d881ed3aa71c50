package demo

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// secrets are made once and kept with the data that they protect.
type secrets struct {
	Shop     string `json:"shop"`
	Webhook  string `json:"webhook"`
	Database string `json:"database"`
}

func loadSecrets(path string) (secrets, error) {
	var s secrets
	data, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(data, &s); err != nil {
			return s, fmt.Errorf("%s is damaged; `shop demo --fresh` starts over: %w", path, err)
		}
		return s, nil
	case !errors.Is(err, fs.ErrNotExist):
		return s, fmt.Errorf("read the demo's secrets: %w", err)
	}
	s = secrets{Shop: rand.Text() + rand.Text(), Database: rand.Text()}
	s.Webhook = "whsec_" + base64.StdEncoding.EncodeToString([]byte(rand.Text()+rand.Text()))
	return s, writePrivate(path, s)
}

// writePrivate replaces the file as a whole, readable by its owner only.
func writePrivate(path string, content any) error {
	data, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	_ = os.Remove(path + ".new") // of a run that was killed
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	_, err = file.Write(append(data, '\n'))
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return os.Rename(path+".new", path)
}
