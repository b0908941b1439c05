"""Slow links."""

import socket
import threading
import time

from benchmarks.federation.link import Link

MESSAGE = bytes(20_000)


def echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while chunk := connection.recv(1 << 16):
            connection.sendall(chunk)


def test_what_passes_a_link_is_unchanged_counted_and_not_faster_than_its_rate() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        with Link(listener.getsockname()[1], bits_per_second=400_000) as link:
            start = time.monotonic()
            with socket.create_connection(("127.0.0.1", link.port)) as connection:
                connection.sendall(MESSAGE)
                received = b""
                while len(received) < len(MESSAGE):
                    received += connection.recv(1 << 16)
            seconds = time.monotonic() - start

            assert received == MESSAGE
            assert (link.up, link.down) == (len(MESSAGE), len(MESSAGE))
            assert seconds >= 8 * len(MESSAGE) / 400_000  # one direction alone
