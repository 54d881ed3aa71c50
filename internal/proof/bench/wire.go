package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// wire is a client with one kept connection. It shares two cores with the server that it measures,
// so it writes the bytes of a request itself and reads no more of an answer than it needs;
// net/http's client takes as much time as the server.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	body []byte
	stop func() bool
}

// answer is what came back. Body is good until the next request.
type answer struct {
	status   int
	replayed bool
	body     []byte
}

// dial connects. The connection is cut when ctx ends.
func dial(ctx context.Context, address string) (*wire, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to the bench's server: %w", err)
	}
	w := &wire{conn: conn, in: bufio.NewReaderSize(conn, 8<<10)}
	w.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	return w, nil
}

func (w *wire) close() {
	w.stop()
	_ = w.conn.Close()
}

// post sends a request with a JSON body.
func (w *wire) post(path, token, key string, body []byte) (answer, error) {
	out := append(w.out[:0], "POST "...)
	out = append(out, path...)
	out = append(out, " HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nAuthorization: Bearer "...)
	out = append(out, token...)
	out = append(out, "\r\nIdempotency-Key: "...)
	out = append(out, key...)
	out = append(out, "\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(out, "\r\n\r\n"...)
	w.out = append(out, body...)
	if _, err := w.conn.Write(w.out); err != nil {
		return answer{}, fmt.Errorf("send a request: %w", err)
	}
	a, err := w.read()
	if err != nil {
		return a, fmt.Errorf("read an answer: %w", err)
	}
	return a, nil
}

func (w *wire) read() (a answer, err error) {
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	const protocol = "HTTP/1.1 "
	if !bytes.HasPrefix(line, []byte(protocol)) || len(line) < len(protocol)+3 {
		return a, fmt.Errorf("not an answer: %q", line)
	}
	if a.status, err = strconv.Atoi(string(line[len(protocol) : len(protocol)+3])); err != nil {
		return a, err
	}
	length := -1
	for {
		if line, err = w.in.ReadSlice('\n'); err != nil {
			return a, err
		}
		name, value, ok := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		if !ok {
			break
		}
		switch string(name) {
		case "Content-Length":
			if length, err = strconv.Atoi(string(value)); err != nil {
				return a, err
			}
		case "Idempotent-Replayed":
			a.replayed = string(value) == "true"
		}
	}
	if length < 0 {
		return a, errors.New("an answer without its length")
	}
	if cap(w.body) < length {
		w.body = make([]byte, length)
	}
	a.body = w.body[:length]
	_, err = io.ReadFull(w.in, a.body)
	return a, err
}

// idOf reads the id that an answer begins with, quoted or not.
func idOf(body []byte) string {
	rest, ok := bytes.CutPrefix(body, []byte(`{"id":`))
	end := bytes.IndexByte(rest, ',')
	if !ok || end < 0 {
		return ""
	}
	return string(bytes.Trim(rest[:end], `"`))
}
