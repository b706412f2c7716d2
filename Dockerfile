# syntax=docker/dockerfile:1
#
# A static binary and nothing else: no shell, no libraries, no user but a number.
#
#   docker build -t spiffe-sds .
#   docker run -e SPIFFE_ENDPOINT_SOCKET=unix:///run/spire/agent.sock \
#     -v /run/spire:/run/spire:ro -v sds:/run/spiffe-sds spiffe-sds
#
# The agent attests the process that connects to its socket, so the container usually needs what the agent's attestors
# look at: `--pid host` for SPIRE's Docker and Kubernetes attestors.

FROM rust:1.95.0-bookworm AS build

# The toolchain of the image is the pinned one; without this, rustup would download the components that only
# development needs.
ENV RUSTUP_TOOLCHAIN=1.95.0

# musl makes the binary static; its compiler builds the C and assembly of aws-lc, cmake is the fallback of that build.
# Debian removes old versions of packages, so a pinned one would soon not be found.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends musl-tools cmake \
 && rm -rf /var/lib/apt/lists/* \
 && rustup target add "$(uname -m)-unknown-linux-musl"

WORKDIR /build
COPY . .

# Without default features: the development issuer, which signs for anybody, has no place in an image that is deployed.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    target="$(uname -m)-unknown-linux-musl" \
 && cargo build --release --locked --no-default-features --target "$target" \
 && mkdir -p /image/run/spiffe-sds \
 && cp "target/$target/release/spiffe-sds" /image/spiffe-sds

FROM scratch

# The directory of the default socket belongs to the user below, and a fresh named volume mounted there inherits that.
# Names cannot be looked up here (there is no /etc/passwd): give `owner` and `group` of a socket as numbers.
COPY --from=build --chown=65532:65532 /image/run/spiffe-sds /run/spiffe-sds
COPY --from=build --chmod=0555 /image/spiffe-sds /spiffe-sds
COPY LICENSE THIRD-PARTY-LICENSES /

# Envoy must be able to write to the socket (mode 0660): run it with group 65532, or set `group` or `mode`.
USER 65532:65532

# SIGTERM, the default, drains. There is no HEALTHCHECK: orchestrators probe with `/spiffe-sds health`, or grpc.health.v1 on the
# socket.
ENTRYPOINT ["/spiffe-sds"]
CMD ["serve"]
