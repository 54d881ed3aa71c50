package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/onceshop/onceshop/internal/notify"
)

// hold keeps a worker's next connection to the mail server waiting.
type hold struct{ arrived, released chan struct{} }

// slowMail makes the mail server slow for the worker's next mail: arrived is closed when the worker
// waits there, release lets it go on.
func (w *worker) slowMail() (arrived <-chan struct{}, release func()) {
	h := &hold{make(chan struct{}), make(chan struct{})}
	w.hold.Store(h)
	return h.arrived, sync.OnceFunc(func() { close(h.released) })
}

// openMailGate returns a mailer whose way to the lab's mail server draws each mail and can be slow.
func (w *worker) openMailGate(ctx context.Context) (*notify.Mailer, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open the way to the mail server: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() { w.carryMail(ctx, client) })
		}
	})
	w.bench.OnEnd(func() {
		stop()
		_ = listener.Close()
		open.Wait()
	})
	return notify.NewMailer("smtp://"+listener.Addr().String()+"?tls=none", 2*patience)
}

// carryMail joins a client with the mail server until one of them leaves.
func (w *worker) carryMail(ctx context.Context, client net.Conn) {
	defer client.Close()
	if h := w.hold.Swap(nil); h != nil {
		w.bench.Fails(ctx, Mailbox, "slow: %s waits for its mail server", w.actor)
		close(h.arrived)
		select {
		case <-h.released:
		case <-ctx.Done():
			return
		}
	}
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.bench.smtpAddr)
	if err != nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() {
		_ = client.Close()
		_ = server.Close()
	})()
	var up sync.WaitGroup
	defer up.Wait()
	up.Go(func() {
		defer server.Close()
		_, _ = io.Copy(server, client)
	})
	defer client.Close()
	w.carryAnswers(ctx, server, client)
}

// carryAnswers passes on the mail server's answers, and draws the mail and its answer.
func (w *worker) carryAnswers(ctx context.Context, server io.Reader, client io.Writer) {
	answers := bufio.NewReader(server)
	for given := false; ; {
		answer, err := answers.ReadString('\n')
		if err != nil {
			return
		}
		if given {
			w.bench.Says(ctx, Mailbox, w.actor, "%s", strings.TrimSpace(answer))
		}
		if given = strings.HasPrefix(answer, "354"); given {
			w.bench.Says(ctx, w.actor, Mailbox, "the receipt, by SMTP")
		}
		if _, err := io.WriteString(client, answer); err != nil {
			return
		}
	}
}
