# SPDX-License-Identifier: Apache-2.0
"""A name server over UDP and TCP for tests: python3 name_server.py ADDRESS. Says `ready` once it listens.

It knows the names under `.test`: NAME-1-2-3-4.test is 1.2.3.4, long.test has 300 addresses, which need TCP.
"""
import socket
import struct
import sys
import threading

MOST_BY_UDP = 512


def addresses_of(name):
    if name == "long.test":
        return [f"10.1.{i // 256}.{i % 256}" for i in range(300)]
    parts = name.removesuffix(".test").split("-")[1:]
    return [".".join(parts)] if len(parts) == 4 and name.endswith(".test") else []


def answer(query, most):
    """For one question of any type; RFC 1035 §4."""
    identifier, flags = struct.unpack(">HH", query[:4])
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12:at + 5]
    kind = struct.unpack(">H", query[at + 1:at + 3])[0]
    name = ".".join(labels)
    found = addresses_of(name) if kind == 1 else []
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address) for address in found)
    code = 0 if addresses_of(name) else 3
    truncated = 0
    if 12 + len(question) + len(records) > most:
        truncated, found, records = 0x200, [], b""
    header = struct.pack(">HHHHHH", identifier, 0x8080 | flags & 0x100 | truncated | code, 1, len(found), 0, 0)
    return header + question + records


def serve_datagrams(address):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, 53))
    def loop():
        while True:
            query, peer = server.recvfrom(65535)
            server.sendto(answer(query, MOST_BY_UDP), peer)
    return loop


def serve_stream(connection):
    with connection, connection.makefile("rwb") as file:
        while len(size := file.read(2)) == 2:
            reply = answer(file.read(struct.unpack(">H", size)[0]), 65535)
            file.write(struct.pack(">H", len(reply)) + reply)
            file.flush()


def serve_streams(address):
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, 53))
    server.listen()
    def loop():
        while True:
            threading.Thread(target=serve_stream, args=(server.accept()[0],), daemon=True).start()
    return loop


if __name__ == "__main__":
    loops = [serve_datagrams(sys.argv[1]), serve_streams(sys.argv[1])]
    print("ready", flush=True)
    threading.Thread(target=loops[0], daemon=True).start()
    loops[1]()
