#!/usr/bin/env python3
"""drive.py NAME HOST PORT: plays the client's side of the network guest NAME, which listens on HOST:PORT.

One deterministic conversation per guest. Every reply is checked, and where a server's output depends on the order of
events, the next step waits for the reply to the last. The first connection waits for the server to come up; after that
a refused, reset or silent connection is a failure, unless the conversation is about just that. Ends with EXIT-SUCCESS
and status 0, or with a traceback and status 1.
"""

import errno
import socket
import struct
import sys
import time
import zlib
from array import array

TIMEOUT_S = 20


class Client:
    """One TCP connection to the guest."""

    up = False  # has anybody got through yet?

    def __init__(self, address, receive_buffer=None):
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            self.socket = socket.socket(family, socket.SOCK_STREAM)
            self.socket.settimeout(TIMEOUT_S)
            if receive_buffer:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            try:
                self.socket.connect(address)
                break
            except ConnectionRefusedError:
                self.socket.close()
                if Client.up or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        Client.up = True
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ahead = b""

    def send(self, data):
        self.socket.sendall(data)

    def say(self, line):
        self.send(line.encode() + b"\n")

    def read(self, size):
        """Exactly `size` bytes."""
        while len(self.ahead) < size:
            data = self.socket.recv(1 << 16)
            assert data, f"end of file after {len(self.ahead)} of {size} bytes"
            self.ahead += data
        data, self.ahead = self.ahead[:size], self.ahead[size:]
        return data

    def line(self):
        while b"\n" not in self.ahead:
            data = self.socket.recv(1 << 16)
            assert data, f"end of file in the middle of a line: {self.ahead!r}"
            self.ahead += data
        line, self.ahead = self.ahead.split(b"\n", 1)
        return line.decode()

    def hear(self, want):
        got = self.line()
        assert got == want, f"got {got[:200]!r}, want {want[:200]!r}"

    def ask(self, line, want=None):
        self.say(line)
        self.hear(line if want is None else want)

    def hear_end(self):
        assert self.ahead == b"", f"more than expected: {self.ahead[:200]!r}"
        data = self.socket.recv(1 << 16)
        assert data == b"", f"more than expected: {data[:200]!r}"

    def close(self):
        self.socket.close()

    def finish(self):
        """No more from us, nothing more from them."""
        self.socket.shutdown(socket.SHUT_WR)
        self.hear_end()
        self.close()

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def quit_with(client):
    client.ask("quit", "bye")
    client.close()


def counters(count, first=0):
    """The stream that transfers are made of: little-endian 32-bit counters."""
    return array("I", range(first, first + count)).tobytes()


# ---- echo servers -----------------------------------------------------------------------------------------------


def long_lines(client):
    for size in (0, 1, 100, 1447, 1448, 1449, 10000, 100000):
        client.ask("".join(chr(97 + (i * 7 + size) % 26) for i in range(size)))


def tcp_echo_blocking(address):
    for n in range(3):
        client = Client(address)
        for i in range(20):
            client.ask(f"line {i} of client {n}")
        long_lines(client)
        client.finish()
    first = Client(address)
    first.ask("I am served")
    second = Client(address)  # in the backlog, with bytes waiting
    second.say("I wait")
    first.ask("still served")
    first.finish()
    second.hear("I wait")
    second.send(b"in ")
    time.sleep(0.01)
    second.send(b"pieces\nand two\nat once\n")
    for want in ("in pieces", "and two", "at once"):
        second.hear(want)
    quit_with(second)


def echo_many(address, count=50):
    clients = [Client(address) for _ in range(count)]
    for round_ in range(3):  # in turn, from both ends
        for n, client in enumerate(clients):
            client.ask(f"round {round_}, client {n}")
        for client in reversed(clients):
            client.ask("backwards")
    for n, client in enumerate(clients):  # all at once
        client.say(f"all at once {n}")
    for n, client in enumerate(clients):
        client.hear(f"all at once {n}")
    for client in clients[::2]:
        client.finish() if client is not clients[0] else client.close()
    clients = clients[1::2]
    late = [Client(address) for _ in range(5)]
    for n, client in enumerate(late + clients):
        client.ask(f"after half have gone: {n}")
    long_lines(late[0])
    last = clients.pop()
    for client in clients + late:
        client.close()
    quit_with(last)


def tcp_echo_epoll(address):
    # the server leaves no connection half-closed for us to wait on: it closes at end of file
    echo_many(address)


def tcp_echo_poll(address):
    echo_many(address)


def tcp_echo_select(address):
    echo_many(address)


def tcp_echo_threads(address):
    echo_many(address)


def tcp_echo_fork(address):
    echo_many(address, 10)


def tcp_prefork(address):
    for n in range(10):
        client = Client(address)
        client.ask(f"client {n}")
        client.finish()
    together = [Client(address) for _ in range(3)]  # one for each worker
    for n, client in enumerate(together):
        client.ask(f"at once {n}")
    waiting = Client(address)
    waiting.say("I wait for a worker")
    together[1].finish()
    waiting.hear("I wait for a worker")
    together[0].finish()
    together[2].finish()
    quit_with(waiting)


def tcp_accept_threads(address):
    together = [Client(address) for _ in range(4)]
    for n, client in enumerate(reversed(together)):
        client.ask(f"at once {n}")
    for client in together:
        client.finish()
    for n in range(20):
        client = Client(address)
        client.ask(f"client {n}")
        client.finish()
    quit_with(Client(address))


# ---- transfers --------------------------------------------------------------------------------------------------


def tcp_half_close(address):
    for data in (b"", counters(50000, 3)):
        client = Client(address)
        client.send(data)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.read(1 << 20) == counters(1 << 18, 1000)
        client.hear(f"{len(data)} bytes {zlib.adler32(data):08x}")
        client.hear_end()
        client.close()
    quit_with(Client(address))


def tcp_big_upload(address):
    client = Client(address)
    for count, first in ((1 << 20, 0), (1, 5), (250000, 77)):
        data = counters(count, first)
        client.send(f"put {len(data)}\n".encode() + data)
        client.hear(f"got {len(data)} adler {zlib.adler32(data):08x}")
    quit_with(client)


def tcp_big_download(address):
    slow = Client(address, receive_buffer=32768)
    fast = Client(address)
    size = 4 << 20
    slow.say(f"get {size}")
    time.sleep(0.05)
    fast.say(f"get {size // 4}")
    assert fast.read(size // 4) == counters(size // 16)
    assert fast.line().startswith(f"sent {size // 4}")
    want = counters(size // 4)
    for at in range(0, size, 1 << 14):
        assert slow.read(1 << 14) == want[at : at + (1 << 14)], f"wrong bytes after {at}"
        if at < 1 << 20:
            time.sleep(0.002)
    slow.hear(f"sent {size}, had to wait")
    slow.ask("get 4", "\0\0\0\0sent 4")
    slow.close()
    quit_with(fast)


def tcp_sendfile(address):
    client = Client(address)
    content = counters(1 << 18, 7)
    for offset, size in ((0, 1 << 20), (1001, 5000), ((1 << 20) - 1, 1)):
        client.say(f"send {offset} {size}")
        client.hear(f"header {size}")
        client.hear("more")
        assert client.read(size) == content[offset : offset + size]
    quit_with(client)


# ---- ends of connections ----------------------------------------------------------------------------------------


def tcp_reset(address):
    client = Client(address)
    client.ask("hello")
    client.reset()  # while the server reads
    client = Client(address)
    client.ask("hello")
    client.say("flood")
    client.read(300000)
    client.reset()  # while it writes
    client = Client(address)
    client.ask("hello")
    client.say("x" * 50)
    client.reset()  # with data under way
    serving = Client(address)
    serving.ask("count", "3 greeted")
    Client(address).reset()  # not yet accepted
    serving.ask("hello")
    serving.finish()
    last = Client(address)
    last.ask("count", "4 greeted")
    quit_with(last)


def expect_reset(client):
    try:
        data = client.socket.recv(100)
    except ConnectionResetError:
        return
    raise AssertionError(f"expected a reset, got {data!r}")


def tcp_server_close(address):
    client = Client(address)
    client.ask("close", "closing")
    client.hear_end()
    deadline = time.monotonic() + TIMEOUT_S
    while True:  # nobody is there: writing must end in an error
        try:
            client.send(b"x")
        except (ConnectionResetError, BrokenPipeError):
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.close()

    client = Client(address)
    client.ask("shutdown", "shutting down")
    client.hear_end()
    for n in range(3):
        client.say(f"still heard {n}")
    client.close()

    client = Client(address)
    client.send(b"unread\n" + b"x" * 50)
    try:
        assert client.socket.recv(100) == b""
    except ConnectionResetError:
        pass  # a reset or an end, as the kernel likes; but an end
    client.close()

    client = Client(address)
    client.say("reset")
    expect_reset(client)
    client.close()

    client = Client(address)
    client.say("linger")
    assert client.read(200000) == b"b" * 200000
    client.hear_end()
    client.close()
    quit_with(Client(address))


# ---- the rest ---------------------------------------------------------------------------------------------------


def tcp_options(address):
    client = Client(address)
    own, peer = client.socket.getsockname(), client.socket.getpeername()
    client.ask(f"addresses {own[0]} {own[1]} {peer[0]} {peer[1]}", "agreed")
    quit_with(client)


def tcp_ipv6(address):
    hosts = [address[0]] * 2
    if address[0] == "127.0.0.1":
        hosts.append("::1")
    for host in hosts:
        client = Client((host, address[1]))
        own = client.socket.getsockname()
        client.ask(f"I am {own[0]} {own[1]}", "so you are")
        for n in range(5):
            client.ask(f"line {n}")
        client.finish()
    quit_with(Client(address))


def tcp_nonblocking_accept(address):
    for batch in (1, 3, 5):
        clients = [Client(address) for _ in range(batch)]
        for n, client in enumerate(clients):
            client.say(f"client {n}")
        for n, client in enumerate(clients):
            client.hear("welcome")
            client.hear(f"client {n}")
            client.hear_end()
            client.close()
    client = Client(address)
    client.hear("welcome")
    quit_with(client)


def tcp_peek(address):
    client = Client(address)
    client.ask("dontwait", "ok dontwait")
    client.send(b"peek 10\n0123")
    time.sleep(0.02)
    client.send(b"456789")
    client.hear("ok peek 10")
    client.ask("waitall 30", "go")
    for piece in (b"first-ten.", b"second-ten", b".third-ten"):
        client.send(piece)
        time.sleep(0.02)
    client.hear("ok waitall 30")
    client.send(b"truncate 10\nthrow-away")
    client.hear("ok truncate 10")
    client.ask("quit", "bye")
    client.send(b"the end")
    client.finish()


def tcp_iov(address):
    client = Client(address)
    client.send(b"readv 20\nABCDEFGHIJ")
    time.sleep(0.02)
    client.send(b"KLMNOPQRST")
    client.hear("head: ABCDE tail")
    client.send(b"recvmsg 20\nabcdefghijklmnopqrst")
    client.hear("head: abcde tail")
    quit_with(client)


def tcp_timeout(address):
    client = Client(address)
    for _ in range(3):
        client.ask("ticks", "3 ticks")
    client.ask("receive", "timed out")
    deaf = Client(address)
    client.ask("send", "timed out")
    total = 0
    while data := deaf.socket.recv(1 << 16):
        assert data.count(b"\0") == len(data)
        total += len(data)
    assert total > 0
    deaf.close()
    client.ask("receive", "timed out")
    quit_with(client)


def tcp_push_timer(address):
    client = Client(address)
    number = 0
    for count in (1, 10, 5):
        client.say(f"subscribe {count}")
        for _ in range(count):
            number += 1
            client.hear(f"tick {number}")
    quit_with(client)


def tcp_listen_errors(address):
    first = Client(address)
    first.ask("first", "reopened")
    second = Client(address)
    second.ask("second", "welcome")
    first.ask("still here", "so am I")
    quit_with(second)


def tcp_port_taken(address):
    other = socket.create_server(("127.0.0.1", 0))
    client = Client(address)
    client.ask(str(other.getsockname()[1]), "taken")
    other.close()
    client.ask("closed", "free")
    client.hear_end()
    client.close()


def tcp_signal_quit(address):
    clients = [Client(address) for _ in range(3)]
    for n, client in enumerate(clients):
        client.ask(f"client {n}", f"ok client {n}")
    clients[1].ask("term", "ok term")
    for client in clients:
        client.hear("farewell")
        client.hear_end()
        client.close()


def tcp_dial_out(address):
    control = Client(address)
    own_ip = control.socket.getsockname()[0]
    listener = socket.create_server((own_ip, 0))
    listener.settimeout(TIMEOUT_S)
    port = listener.getsockname()[1]
    for how in ("blocking", "nonblocking") * 2:
        control.say(f"{how} {own_ip} {port}")
        called, _ = listener.accept()
        called.settimeout(TIMEOUT_S)
        stream = called.makefile("rwb")
        assert stream.readline() == f"hello, {how}\n".encode()
        stream.write(b"hello yourself\n")
        stream.flush()
        control.hear("heard hello yourself")
        assert stream.read() == b""
        called.close()
    deaf = socket.socket()
    deaf.bind((own_ip, 0))  # bound, not listening: refuses
    for how in ("refused", "refused-nonblocking"):
        control.ask(f"{how} {own_ip} {deaf.getsockname()[1]}", "refused")
    quit_with(control)


def tcp_churn(address):
    for n in range(300):
        client = Client(address)
        client.ask(f"client {n}")
        if n % 2 == 0:
            client.hear_end()
        client.close()
    quit_with(Client(address))


def udp_echo(address):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.connect(address)

    def ask(data, want=None, sock=udp):
        # the server may not be up yet, and datagrams may be lost: ask again, and skip late answers to earlier questions
        for _ in range(40):
            try:
                sock.settimeout(0.5)
                sock.send(data)
                while True:
                    got = sock.recv(65536)
                    if got == (data if want is None else want):
                        return
            except (TimeoutError, ConnectionRefusedError):
                time.sleep(0.05)
        raise AssertionError(f"no answer to {data[:50]!r}")

    ask(b"are you there?")
    for size in (1, 100, 1400, 9000, 60000):
        ask(bytes((i * 3 + size) & 0x7F | 0x80 for i in range(size)))
    ask(b"")
    ask(b"cut this", b"was cut")
    unconnected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unconnected.settimeout(TIMEOUT_S)
    unconnected.sendto(b"connected reply", address)
    data, sender = unconnected.recvfrom(100)
    assert data == b"connected reply" and sender[1] != address[1]  # from a socket of its own
    ask(b"quit", b"bye")


def main():
    _, name, host, port = sys.argv
    conversation = globals().get(name)
    if conversation is None:
        sys.exit(f"drive.py: no conversation for {name!r}")
    conversation((host, int(port)))
    print("EXIT-SUCCESS")


if __name__ == "__main__":
    main()
