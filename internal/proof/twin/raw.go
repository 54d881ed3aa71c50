package twin

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"
)

// connect opens a connection for bytes that net/http would not send.
func (r *run) connect(ctx context.Context, node int) (net.Conn, error) {
	if r.requests.Add(1) > r.limit {
		return nil, errTooMany
	}
	to := r.nodes[node]
	conn, err := r.dial(ctx, "tcp", address(to))
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		conn.Close()
		return nil, err
	}
	if to.Scheme != "https" {
		return conn, nil
	}
	secure := tls.Client(conn, &tls.Config{ServerName: to.Hostname(), MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// rawRequest returns the bytes of a request with these values of the key's header, a line each.
func (r *run) rawRequest(node int, i intent, keys ...string) []byte {
	var b bytes.Buffer
	request, err := http.NewRequest(r.Method, r.target(node), nil) //nolint:noctx // it is only written into b
	if err != nil {
		panic(err) // the address was parsed before
	}
	host := request.URL.Host
	if given := i.header.Get("Host"); given != "" {
		host = given
	}
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n", r.Method,
		request.URL.RequestURI(), host, len(i.body))
	if i.header.Get("Content-Type") == "" && r.object {
		b.WriteString("Content-Type: application/json\r\n")
	}
	for name, values := range i.header {
		for _, value := range values {
			if name != "Host" {
				fmt.Fprintf(&b, "%s: %s\r\n", name, value)
			}
		}
	}
	for _, key := range keys {
		fmt.Fprintf(&b, "%s: %s\r\n", r.KeyHeader, key)
	}
	b.WriteString("\r\n")
	b.Write(i.body)
	return b.Bytes()
}

// sendRaw sends the request with these values of the key's header.
func (r *run) sendRaw(ctx context.Context, i intent, keys ...string) answer {
	conn, err := r.connect(ctx, 0)
	if err != nil {
		return answer{err: err}
	}
	defer conn.Close()
	if _, err := conn.Write(r.rawRequest(0, i, keys...)); err != nil {
		return answer{err: err}
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return answer{err: err}
	}
	return r.read(response)
}

// abandon sends the first bytes of the request and disconnects after a while. All bytes are sent if
// part is 1.
func (r *run) abandon(ctx context.Context, i intent, part float64, after time.Duration) error {
	conn, err := r.connect(ctx, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	whole := r.rawRequest(0, i, i.key)
	cut := len(whole) - int((1-part)*float64(len(i.body)))
	if _, err := conn.Write(whole[:cut]); err != nil {
		return err
	}
	return pause(ctx, after)
}
