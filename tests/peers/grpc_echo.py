"""A gRPC server, or client, of raw messages. `server PORT`, `client ADDRESS`, `stream ADDRESS SECONDS`; the client prints what it saw."""

import queue
import sys
import time
from concurrent import futures

import grpc


def echo(requests, context):
    seen = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-seen-peer", seen.get("attested-peer", "nobody")),))
    context.set_trailing_metadata((("x-count-bin", b"\x00\x01"), ("attested-peer", "forged")))
    for request in requests:
        if request == b"fail":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish: 100%")
        yield request[::-1]


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.stream_stream_rpc_method_handler(echo) if call.method == "/test.Echo/Both" else None


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((Handler(),))
    assert server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    print("ready", flush=True)
    sys.stdin.read()
    server.stop(0)


def ask(address):
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream("/test.Echo/Both")

        # Each message waits for the answer to the one before: both directions are open at once.
        messages = queue.Queue()
        answers = call(iter(messages.get, None), timeout=20)
        for number in range(200):
            message = f"message {number}".encode() + b"." * (number * 50)
            messages.put(message)
            assert next(answers) == message[::-1]
        messages.put(None)
        peer = dict(answers.initial_metadata()).get("x-seen-peer")
        rest = list(answers)
        trailers = dict(answers.trailing_metadata())
        print("status", answers.code().name, "rest", len(rest), "peer", peer, "trailers", sorted(trailers.items()))
        failed = call(iter([b"fail"]), timeout=20)
        try:
            list(failed)
        except grpc.RpcError as error:
            print("failed", error.code().name, error.details())
        try:
            channel.unary_unary("/test.Echo/None")(b"", timeout=20)
        except grpc.RpcError as error:
            print("missing", error.code().name)


def stream(address, seconds):
    """One call, whose messages each wait for the answer to the one before, for so long."""
    with grpc.insecure_channel(address) as channel:
        messages, count, end = queue.Queue(), 0, time.monotonic() + seconds
        answers = channel.stream_stream("/test.Echo/Both")(iter(messages.get, None))
        while time.monotonic() < end:
            message = f"message {count}".encode() + b"." * (count % 5000)
            messages.put(message)
            assert next(answers) == message[::-1]
            count += 1
        messages.put(None)
        assert list(answers) == []
        print("status", answers.code().name, "count", count)


def refused(address):
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/test.Echo/Any")(b"", timeout=20)
        except grpc.RpcError as error:
            print("refused", error.code().name, error.details())


if sys.argv[1] == "server":
    serve(int(sys.argv[2]))
elif sys.argv[1] == "client":
    ask(sys.argv[2])
elif sys.argv[1] == "stream":
    stream(sys.argv[2], float(sys.argv[3]))
else:
    refused(sys.argv[2])
