package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"reflect"
	"strconv"
	"time"

	"github.com/caarlos0/env/v11"
)

// settingErrors returns the errors of reading the settings, with the names of the settings in place
// of the names of Go fields.
func settingErrors(err error, settings map[string]string) error {
	all, ok := errors.AsType[env.AggregateError](err)
	if !ok {
		return err
	}
	var wrong []error
	for _, err := range all.Errors {
		parse, ok := errors.AsType[env.ParseError](err)
		if !ok {
			wrong = append(wrong, err)
			continue
		}
		name := settingOf(reflect.TypeFor[Config](), parse.Name)
		switch want := wanted(parse.Type); {
		case want != "":
			wrong = append(wrong, fmt.Errorf("%s %q must be %s", name, settings[name], want))
		default: // an UnmarshalText, which names its setting
			wrong = append(wrong, parse.Err)
		}
	}
	return errors.Join(wrong...)
}

// settingOf returns the setting of a field of the struct, or of one of its embedded structs.
func settingOf(in reflect.Type, field string) string {
	f, _ := in.FieldByName(field)
	return f.Tag.Get("env")
}

// wanted describes the values of a setting of this type. It is empty for a type with its own
// syntax.
func wanted(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[slog.Level]():
		return "debug, info, warn or error"
	case t == reflect.TypeFor[time.Duration]():
		return "a time such as 30s, 5m or 24h"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Int:
		return "a whole number"
	}
	return ""
}

// checkAddresses reports the addresses that cannot be one.
func (c Config) checkAddresses() error {
	var wrong []error
	for _, setting := range []struct{ name, value string }{
		{"SHOP_ADDR", c.Addr}, {"SHOP_OPS_ADDR", c.OpsAddr}, {"SHOP_PSP_ADDR", c.PSPAddr},
		{"SHOP_MAILBOX_SMTP_ADDR", c.MailboxSMTPAddr},
	} {
		if setting.value == "" {
			continue
		}
		_, port, err := net.SplitHostPort(setting.value)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s %q is not an address such as 127.0.0.1:8080", setting.name,
				setting.value))
		}
	}
	if c.PSPURL != "" {
		u, err := url.Parse(c.PSPURL)
		if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
			wrong = append(wrong, errors.New("PSP_URL is not an address such as https://payments.example.com"))
		}
	}
	return errors.Join(wrong...)
}
