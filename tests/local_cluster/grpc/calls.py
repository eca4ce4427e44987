"""Calls of gRPC by its own library: a server of every kind of method, and clients that check every answer."""

import concurrent.futures
import os
import signal
import sys
import threading
import time

import grpc

CHUNK = bytes(range(256)) * 4096


def serve(address, name):
    """Serves until SIGTERM, and then what is under way."""
    cancelled = []

    def unary(request, context):
        context.set_trailing_metadata((("served-by", name), ("sum-bin", bytes([0, 255, 10]))))
        return name.encode() + b":" + request

    def refuse(request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not so: \u00e4 %")

    def fail_late(request, context):
        yield b"first"
        context.abort(grpc.StatusCode.DATA_LOSS, "late")

    def sleep(request, context):
        context.add_callback(lambda: cancelled.append("sleep"))
        time.sleep(float(request))
        return b"awake"

    def count(request, context):
        for number in range(int(request)):
            yield str(number).encode()

    def large(request, context):
        for _ in range(int(request)):
            yield CHUNK

    def total(requests, context):
        return str(sum(len(request) for request in requests)).encode()

    def echo(requests, context):
        for request in requests:
            yield request

    def hold(request, context):
        context.add_callback(lambda: cancelled.append("hold"))
        yield b"held"
        while context.is_active():
            time.sleep(0.01)

    def told(request, context):
        return str(cancelled.count(request.decode())).encode()

    one, answers, asks, both = (
        grpc.unary_unary_rpc_method_handler,
        grpc.unary_stream_rpc_method_handler,
        grpc.stream_unary_rpc_method_handler,
        grpc.stream_stream_rpc_method_handler,
    )
    methods = {
        "Unary": one(unary), "Refuse": one(refuse), "FailLate": answers(fail_late), "Sleep": one(sleep),
        "Count": answers(count), "Large": answers(large), "Total": asks(total), "Echo": both(echo),
        "Hold": answers(hold), "Cancelled": one(told),
    }
    pool = concurrent.futures.ThreadPoolExecutor(64)
    server = grpc.server(pool, handlers=(grpc.method_handlers_generic_handler("test.Calls", methods),))
    assert server.add_insecure_port(address)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server.start()
    ended.wait()
    server.stop(grace=1).wait()


class Calls:
    """A client's channel."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address, options=[("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)])

    def __getattr__(self, name):
        kind = {"Count": "unary_stream", "Large": "unary_stream", "Hold": "unary_stream", "FailLate": "unary_stream",
                "Total": "stream_unary", "Echo": "stream_stream"}.get(name, "unary_unary")
        return getattr(self.channel, kind)(f"/test.Calls/{name}")


def code_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, None


def until(what, look):
    ends = time.monotonic() + 20
    while not look():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def check(address):
    """Every kind of call, and every way in which one ends."""
    calls = Calls(address)
    until("somebody serves", lambda: code_of(calls.Unary, b"", timeout=5)[0] == grpc.StatusCode.OK)
    answer, call = calls.Unary.with_call(b"hello", timeout=20)
    assert answer.endswith(b":hello"), answer
    trailers = {item.key: item.value for item in call.trailing_metadata()}
    assert trailers["served-by"].encode() == answer.split(b":")[0], trailers
    assert trailers["sum-bin"] == bytes([0, 255, 10]), trailers
    assert calls.Unary(b"x" * 3_000_000, timeout=20).endswith(b"x" * 3_000_000)
    assert code_of(calls.Refuse, b"") == (grpc.StatusCode.FAILED_PRECONDITION, "not so: \u00e4 %")
    assert code_of(calls.Missing, b"")[0] == grpc.StatusCode.UNIMPLEMENTED
    assert list(calls.Count(b"2000", timeout=20)) == [str(number).encode() for number in range(2000)]
    assert all(chunk == CHUNK for chunk in calls.Large(b"16", timeout=20))
    late = calls.FailLate(b"", timeout=20)
    assert next(late) == b"first"
    assert (late.code(), late.details()) == (grpc.StatusCode.DATA_LOSS, "late"), late
    assert calls.Total(iter([CHUNK] * 16), timeout=20) == str(16 * len(CHUNK)).encode()
    check_echo(calls)
    # Deadlines and cancellations reach the server.
    assert code_of(calls.Sleep, b"1", timeout=0.2)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    held = calls.Hold(b"")
    assert next(held) == b"held"
    before = int(calls.Cancelled(b"hold", timeout=20))
    held.cancel()
    until("the server hears of it", lambda: int(calls.Cancelled(b"hold", timeout=20)) > before)
    # Many at a time, through one channel.
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        words = [str(number).encode() for number in range(600)]
        answers = pool.map(lambda word: calls.Unary(word, timeout=20), words)
        assert all(answer.endswith(b":" + word) for word, answer in zip(words, answers))


def check_echo(calls):
    """Each message is answered before the next one is sent; and then all at once, more than any window."""
    turn = threading.Semaphore(0)

    def one_by_one():
        for number in range(100):
            yield str(number).encode()
            turn.acquire()

    for number, answer in enumerate(calls.Echo(one_by_one(), timeout=20)):
        assert answer == str(number).encode(), (number, answer)
        turn.release()
    assert number == 99
    assert sum(len(answer) for answer in calls.Echo(iter([CHUNK] * 16), timeout=20)) == 16 * len(CHUNK)


def load(address):
    """Calls without a pause until a line comes on stdin; one that fails is one too many."""
    ended, failed, counts = threading.Event(), [], [0] * 8

    def run(number):
        calls = Calls(address)
        while not ended.is_set():
            try:
                assert calls.Unary(b"x", timeout=20).endswith(b":x")
                assert len(list(calls.Count(b"20", timeout=20))) == 20
                assert len(list(calls.Echo(iter([b"a", b"b"]), timeout=20))) == 2
                counts[number] += 3
            except grpc.RpcError as error:
                failed.append(f"{error.code()}: {error.details()}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(counts))]
    [thread.start() for thread in threads]
    until("all call", lambda: all(counts) or failed)
    print("calling", flush=True)
    sys.stdin.readline()
    ended.set()
    [thread.join() for thread in threads]
    print(f"{sum(counts)} answered, {len(failed)} failed", *failed[:5], flush=True)


if __name__ == "__main__":
    {"serve": serve, "check": check, "load": load}[sys.argv[1]](*sys.argv[2:])
    # Threads of the library may linger.
    sys.stdout.flush()
    os._exit(0)
