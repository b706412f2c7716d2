"""A gRPC C-core client on a Unix socket: prints a line for each call that was answered with a certificate.

Messages are written by hand, so that nothing but grpcio is needed: (number << 3 | 2), length, bytes for each field.
"""

import sys
import threading

import grpc

SECRET = b"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
SERVICE = "/envoy.service.secret.v3.SecretDiscoveryService/"


def field(number, value):
    assert len(value) < 128
    return bytes([number << 3 | 2, len(value)]) + value


def raw(message):
    return message


def open_ended(request, over):
    """One request, and no end of requests before the answer is there."""
    yield request
    over.wait()


node = field(1, b"python")
sotw = field(2, node) + field(3, b"default") + field(4, SECRET)
delta = field(1, node) + field(2, SECRET) + field(3, b"default")

with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
    # Twice, so that the second time the authority comes out of the compression table.
    for _ in range(2):
        for method, request in ("StreamSecrets", sotw), ("DeltaSecrets", delta):
            call = channel.stream_stream(SERVICE + method, request_serializer=raw, response_deserializer=raw)
            over = threading.Event()
            responses = call(open_ended(request, over), timeout=20, wait_for_ready=True)
            assert b"-----BEGIN CERTIFICATE-----" in next(responses)
            print(method, flush=True)
            responses.cancel()
            over.set()
        call = channel.unary_unary(SERVICE + "FetchSecrets", request_serializer=raw, response_deserializer=raw)
        assert b"-----BEGIN CERTIFICATE-----" in call(sotw, timeout=20)
        print("FetchSecrets", flush=True)
