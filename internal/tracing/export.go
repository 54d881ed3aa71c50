package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Export describes where spans go, by the names that OpenTelemetry defines. The SDK reads its own
// names from the environment, such as OTEL_SERVICE_NAME and OTEL_TRACES_SAMPLER.
type Export struct {
	OTLPEndpoint       string `env:"OTEL_EXPORTER_OTLP_ENDPOINT"`
	OTLPTracesEndpoint string `env:"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"`
	OTLPHeaders        string `env:"OTEL_EXPORTER_OTLP_HEADERS"`
	OTLPProtocol       string `env:"OTEL_EXPORTER_OTLP_PROTOCOL"`
	OTLPCertificate    string `env:"OTEL_EXPORTER_OTLP_CERTIFICATE"`
	// OTLPTimeout is in milliseconds.
	OTLPTimeout  int  `env:"OTEL_EXPORTER_OTLP_TIMEOUT" envDefault:"10000"`
	OTELDisabled bool `env:"OTEL_SDK_DISABLED"`
}

// Open returns a provider that sends spans in the background, or nil if there is no place for them
// to go. Spans that the collector does not take are dropped.
func Open(ctx context.Context, e Export, version string) (*sdktrace.TracerProvider, error) {
	if e.OTELDisabled || e.OTLPEndpoint == "" && e.OTLPTracesEndpoint == "" {
		return nil, nil //nolint:nilnil // there is no provider
	}
	client, err := e.client()
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("open the exporter of traces: %w", err)
	}
	from, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", "onceshop"), attribute.String("service.version", version)),
		resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(from)), nil
}

// client sends spans to a collector as OTLP over HTTP. It stands in for OpenTelemetry's own client,
// which brings gRPC into the program. See docs/decisions.md, D95.
type client struct {
	url    string
	header http.Header
	http   *http.Client
}

func (e Export) client() (*client, error) {
	if e.OTLPProtocol != "" && e.OTLPProtocol != "http/protobuf" {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL %q must be http/protobuf", e.OTLPProtocol)
	}
	c := &client{url: e.OTLPTracesEndpoint, header: http.Header{"Content-Type": {"application/x-protobuf"}},
		http: &http.Client{Timeout: time.Duration(e.OTLPTimeout) * time.Millisecond}}
	if c.url == "" {
		c.url = strings.TrimSuffix(e.OTLPEndpoint, "/") + "/v1/traces"
	}
	if u, err := url.Parse(c.url); err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("OTEL_EXPORTER_OTLP_ENDPOINT is not an address such as http://127.0.0.1:4318")
	}
	for pair := range strings.SplitSeq(e.OTLPHeaders, ",") {
		name, value, _ := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if err != nil {
			return nil, errors.New("OTEL_EXPORTER_OTLP_HEADERS is not of the form name=value,name=value")
		}
		if name = strings.TrimSpace(name); name != "" {
			c.header.Set(name, value)
		}
	}
	if e.OTLPCertificate != "" {
		pem, err := os.ReadFile(e.OTLPCertificate)
		if err != nil {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE: %s holds no certificate", e.OTLPCertificate)
		}
		c.http.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment,
			TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	}
	return c, nil
}

// Start implements otlptrace.Client.
func (c *client) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (c *client) Stop(context.Context) error {
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client.
func (c *client) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// A TracesData has the bytes of an ExportTraceServiceRequest, whose package needs gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	request.Header = c.header.Clone()
	response, err := c.http.Do(request)
	if err != nil {
		return fmt.Errorf("send spans: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10)) // so that the connection is used again
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("send spans: the collector answered %s", response.Status)
	}
	return nil
}
