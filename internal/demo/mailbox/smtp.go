package mailbox

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

const (
	maxMessageBytes = 1 << 20
	maxRecipients   = 50
	readTimeout     = time.Minute // for one command, or for a whole message
	writeTimeout    = 10 * time.Second
)

func newServer(m *Mailbox) *smtp.Server {
	s := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) {
		return &session{mailbox: m}, nil
	}))
	s.Domain = "mailbox.localhost"
	s.MaxMessageBytes = maxMessageBytes
	s.MaxRecipients = maxRecipients
	s.ReadTimeout = readTimeout
	s.WriteTimeout = writeTimeout
	s.EnableSMTPUTF8 = true
	s.ErrorLog = slog.NewLogLogger(m.log.Handler(), slog.LevelWarn)
	return s
}

// ServeSMTP accepts mail on l until Shutdown, and then returns nil. It closes l.
func (m *Mailbox) ServeSMTP(l net.Listener) error {
	closeOnce := sync.OnceValue(l.Close)
	// The library closes the listeners it knows at its shutdown, but not one that comes later.
	defer context.AfterFunc(m.closing, func() { _ = closeOnce() })()
	err := m.smtp.Serve(cutListener{l, closeOnce, m.cut})
	if m.closing.Err() != nil {
		return nil
	}
	return err
}

// Shutdown takes no new connections and waits for the open ones to finish. When ctx ends
// first they are cut, and the error is that of ctx.
func (m *Mailbox) Shutdown(ctx context.Context) error {
	m.startClosing()
	defer m.cutAll()
	return m.smtp.Shutdown(ctx)
}

// session is one SMTP conversation.
type session struct {
	mailbox *Mailbox
	from    string
	to      []string
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

// Data answers a message that cannot be stored with a temporary error, so that its sender
// keeps it and tries again.
func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err // the library's own 552 for too large
	}
	if err := s.mailbox.store(append(envelope(s.from, s.to), raw...)); err != nil {
		s.mailbox.log.Error("mailbox: message not stored", "err", err)
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0},
			Message: "The mailbox cannot store the message now"}
	}
	return nil
}

func (s *session) Reset()        { s.from, s.to = "", nil }
func (s *session) Logout() error { return nil }

// cutListener hands out connections that end when ctx does: the SMTP library can close
// connections or wait for them, but not one after the other.
type cutListener struct {
	net.Listener
	close func() error
	ctx   context.Context
}

func (l cutListener) Close() error { return l.close() }

func (l cutListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return cutConn{conn, context.AfterFunc(l.ctx, func() { _ = conn.Close() })}, nil
}

type cutConn struct {
	net.Conn
	stop func() bool
}

func (c cutConn) Close() error {
	c.stop()
	return c.Conn.Close()
}
