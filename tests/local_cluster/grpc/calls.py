"""Calls of gRPC by its own library: a server of every kind of method, and clients that check every answer."""

import concurrent.futures
import os
import signal
import sys
import threading
import time

import grpc

CHUNK = bytes(range(256)) * 4096


def read(path):
    with open(path, "rb") as file:
        return file.read()


def serve(address, name, certificate=None, key=None):
    """Serves until SIGTERM, and then what is under way; over TLS by a certificate, if there is one."""
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
        context.send_initial_metadata((("served-by", name),))
        for request in requests:
            yield request

    def hold(request, context):
        context.add_callback(lambda: cancelled.append("hold"))
        yield b"held"
        while context.is_active():
            time.sleep(0.01)

    def remaining(request, context):
        return str(context.time_remaining()).encode()

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
        "Hold": answers(hold), "Cancelled": one(told), "Remaining": one(remaining),
    }
    pool = concurrent.futures.ThreadPoolExecutor(64)
    server = grpc.server(pool, handlers=(grpc.method_handlers_generic_handler("test.Calls", methods),))
    if certificate:
        credentials = grpc.ssl_server_credentials([(read(key), read(certificate))])
        assert server.add_secure_port(address, credentials)
    else:
        assert server.add_insecure_port(address)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server.start()
    ended.wait()
    server.stop(grace=1).wait()


class Calls:
    """A client's channel, over TLS if there is somebody to trust."""

    def __init__(self, address, authority=None):
        options = [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]
        if authority:
            options.append(("grpc.ssl_target_name_override", "rpc"))
            credentials = grpc.ssl_channel_credentials(read(authority))
            self.channel = grpc.secure_channel(address, credentials, options=options)
        else:
            self.channel = grpc.insecure_channel(address, options=options)

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


def check(address, authority=None):
    """Every kind of call, and every way in which one ends."""
    calls = Calls(address, authority)
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
    for timeout in (300, 3600):
        remaining = float(calls.Remaining(b"", timeout=timeout))
        # It is rounded on its way.
        assert 0.9 * timeout < remaining < 1.1 * timeout, (timeout, remaining)
    assert float(calls.Remaining(b"")) > 1e6, "who says none has none"
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


class Talk:
    """A stream both ways that says a number when the one before has come back, until it is ended."""

    def __init__(self, calls):
        self.ended, self.turn, self.count, self.failure = threading.Event(), threading.Semaphore(0), 0, None
        self.call = calls.Echo(self.numbers())
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def numbers(self):
        number = 0
        while not self.ended.is_set():
            yield str(number).encode()
            number += 1
            self.turn.acquire()

    def listen(self):
        try:
            for answer in self.call:
                assert answer == str(self.count).encode(), (answer, self.count)
                self.count += 1
                time.sleep(0.01)
                self.turn.release()
        except Exception as failure:
            self.failure = failure

    def server(self):
        return {item.key: item.value for item in self.call.initial_metadata()}["served-by"]

    def end(self):
        """Whether all that was said has come back, and the server has ended it well."""
        self.ended.set()
        self.thread.join(20)
        return not self.failure and not self.thread.is_alive() and self.call.code() == grpc.StatusCode.OK


def talk(address, authority=None):
    """Long streams, more of them at a line on stdin, and the end of all at another."""
    calls, talks = Calls(address, authority), []
    for more in (16, 8):
        before = [talk.count for talk in talks]
        new = [Talk(calls) for _ in range(more)]
        talks += new
        before += [0] * more
        until("all go on", lambda: all(talk.count >= count + 20 for talk, count in zip(talks, before)))
        print("with", *sorted({talk.server() for talk in new}), flush=True)
        sys.stdin.readline()
    ended = [talk.end() for talk in talks]
    failures = [str(talk.failure) for talk in talks if talk.failure]
    print(f"{sum(ended)} ended well, {len(ended) - sum(ended)} failed", *failures[:5], flush=True)


def load(address, authority=None):
    """Calls without a pause until a line comes on stdin; one that fails is one too many."""
    ended, failed, counts = threading.Event(), [], [0] * 8

    def run(number):
        calls = Calls(address, authority)
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
    {"serve": serve, "check": check, "load": load, "talk": talk}[sys.argv[1]](*sys.argv[2:])
    # Threads of the library may linger.
    sys.stdout.flush()
    os._exit(0)
