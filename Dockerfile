# syntax=docker/dockerfile:1

# Images are named by version and pinned by digest: docker buildx imagetools inspect NAME:VERSION prints the digest of
# another one. Of Go, any patch release from go.mod's go line on will do.
FROM --platform=$BUILDPLATFORM golang:1.26.8@sha256:6c2a5538f964f1c82f97ad14988bf05de100d922d159d0e398b54c7b0ca0c6c9 AS build
ARG TARGETOS TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod \
    go mod download
COPY . .
# The history is not copied, so a release names its version and its commit.
ARG VERSION COMMIT
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags="-s -w \
        -X github.com/onceshop/onceshop/internal/app.version=$VERSION \
        -X github.com/onceshop/onceshop/internal/app.commit=$COMMIT" -o /out/shop ./cmd/shop && mkdir /out/data

# Alpine rather than scratch, although the binary is static: its wget is the health check of docker-compose.yml, and its
# CA certificates let the shop talk TLS to Postgres, Redis and the payment provider.
FROM alpine:3.23@sha256:fd791d74b68913cbb027c6546007b3f0d3bc45125f797758156952bc2d6daf40
# Nothing runs in this stage, so an image for another processor needs no emulator.
COPY --from=build /out/shop /shop
# A named volume that is mounted on /data takes over its owner.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENTRYPOINT ["/shop"]
CMD ["serve"]
