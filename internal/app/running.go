package app

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// RunningFile is the file in the data folder where a running demo publishes its addresses.
const RunningFile = "running.json"

// Running is the content of RunningFile: the addresses of a demo's servers.
type Running struct {
	Pid         int    `json:"pid"`
	Shop        string `json:"shop"`
	Ops         string `json:"ops"`
	Provider    string `json:"provider"`
	Mailbox     string `json:"mailbox"`
	DatabaseURL string `json:"database_url"`
	RedisURL    string `json:"redis_url"`
	NATSURL     string `json:"nats_url"`
	SMTPURL     string `json:"smtp_url"`
}

// WithDemo fills in the addresses of the demo that runs on the data folder, unless DATABASE_URL is
// set.
func (c Config) WithDemo() (Config, error) {
	if c.DatabaseURL != "" {
		return c, nil
	}
	if err := c.RequireDataDir(); err != nil {
		return c, errors.Join(UsageError{errors.New("DATABASE_URL is missing")}, err)
	}
	data, err := os.ReadFile(filepath.Join(c.DataDir, RunningFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, c.RequireDatabase()
	}
	var running Running
	if err == nil {
		err = json.Unmarshal(data, &running)
	}
	if err != nil {
		return c, fmt.Errorf("read where the demo runs: %w", err)
	}
	c.DatabaseURL = running.DatabaseURL
	c.RedisURL = cmp.Or(c.RedisURL, running.RedisURL)
	c.BrokerURL = cmp.Or(c.BrokerURL, running.NATSURL)
	c.PSPURL = cmp.Or(c.PSPURL, running.Provider)
	c.MailboxAddr = cmp.Or(c.MailboxAddr, running.Mailbox)
	return c, nil
}
