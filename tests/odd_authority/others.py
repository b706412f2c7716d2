"""gRPC C-core clients on the admin socket and on that of the development issuer: prints a line for each that is answered."""

import sys

import grpc
from spiffe import WorkloadApiClient

ADMIN, ISSUER = sys.argv[1:]
STATUS = "/envoy.service.status.v3.ClientStatusDiscoveryService/"


def raw(message):
    return message


with grpc.insecure_channel(f"unix:{ADMIN}") as channel:
    call = channel.unary_unary(STATUS + "FetchClientStatus", request_serializer=raw, response_deserializer=raw)
    call(b"", timeout=20, wait_for_ready=True)
    print("FetchClientStatus", flush=True)
    call = channel.stream_stream(STATUS + "StreamClientStatus", request_serializer=raw, response_deserializer=raw)
    next(call(iter([b""]), timeout=20))
    print("StreamClientStatus", flush=True)

with grpc.insecure_channel(f"unix:{ISSUER}") as channel:
    call = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID", request_serializer=raw, response_deserializer=raw)
    responses = call(b"", timeout=20, wait_for_ready=True, metadata=[("workload.spiffe.io", "true")])
    assert b"spiffe://domain.test/workload" in next(responses)
    responses.cancel()
    print("FetchX509SVID", flush=True)

with WorkloadApiClient(f"unix:{ISSUER}") as client:
    print("py-spiffe", client.fetch_x509_svid().spiffe_id, flush=True)
    print("py-spiffe JWT", client.fetch_jwt_svid({"audience"}).spiffe_id, flush=True)
