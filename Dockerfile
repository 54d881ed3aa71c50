# syntax=docker/dockerfile:1

# Any patch release from go.mod's go line on will do.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod \
    go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w" -o /out/shop ./cmd/shop

# Alpine rather than scratch, although the binary is static: its wget is the health check of docker-compose.yml, and its
# CA certificates let the shop talk TLS to Postgres, Redis and the payment provider.
FROM alpine:3.23
# A named volume that is mounted on /data takes over its owner.
RUN adduser -D -H -u 65532 shop && install -d -o shop -g shop /data
COPY --from=build /out/shop /shop
USER 65532:65532
ENTRYPOINT ["/shop"]
CMD ["serve"]
