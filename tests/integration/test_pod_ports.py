# SPDX-License-Identifier: Apache-2.0
"""A pod's localhost in its network namespace on the host, which engines dial to forward ports: the guest answers."""
import ctypes
import errno
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import kiln_only
from netns import Namespace, use_namespace
from test_forward import MEGABYTES, read
from test_kill9 import wait_for
from test_pod_sandbox import member_of, sandbox_bundle, start_pod

pytestmark = [kiln_only, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and BPF programs take root")]

CLONE_NEWNET = 0x40000000

# Answers when its peer has ended its half: with the digest and, for a lot, all of it. `hold` never ends.
SERVER = """
import hashlib, socket, sys, threading
def serve(c):
    got = bytearray()
    while piece := c.recv(1 << 16):
        got += piece
        if got == b"hold":
            c.sendall(b"held")
    c.sendall(hashlib.sha256(got).hexdigest().encode() + (got if len(got) > 1000 else b""))
    c.close()
def listen(family, address, port):
    s = socket.socket(family)
    s.bind((address, port))
    s.listen(256)
    while True:
        threading.Thread(target=serve, args=[s.accept()[0]], daemon=True).start()
threading.Thread(target=listen, args=[socket.AF_INET6, "::1", 8006], daemon=True).start()
listen(socket.AF_INET, "127.0.0.1", 8004)
"""


class Localhost:
    """That of a pod, seen from its network namespace on the host."""

    def __init__(self, path):
        self.namespace = open(path, "rb")

    def socket(self, family=socket.AF_INET):
        """A socket stays in the namespace of the thread that makes it."""
        made = []

        def make():
            assert ctypes.CDLL(None, use_errno=True).setns(self.namespace.fileno(), CLONE_NEWNET) == 0
            made.append(socket.socket(family))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        made[0].settimeout(60)
        return made[0]

    def connect(self, port, address="127.0.0.1"):
        client = self.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        client.connect((address, port))
        return client

    def ask(self, port, words, address="127.0.0.1"):
        with self.connect(port, address) as client:
            client.sendall(words)
            client.shutdown(socket.SHUT_WR)
            return read(client)

    def refuses(self, port):
        """Nobody has the namespace's localhost."""
        with self.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def digest(words):
    return hashlib.sha256(words).hexdigest().encode()


def start_server(kiln, name, localhost):
    server = kiln.start_sleeper(member_of(kiln, name), args=["python3", "-c", SERVER], rootfs="/", writable=False)

    def answers():
        try:
            return localhost.ask(8004, b"you") == digest(b"you")
        except ConnectionError:
            return False

    wait_for(answers, "server")
    return server


def warnings(kiln, name):
    log = (kiln.root / name / "log").read_text()
    return [line for line in log.splitlines() if "localhost" in line]


@pytest.fixture(scope="module")
def pod(shared):
    name = start_pod(shared)
    assert warnings(shared, name) == []
    return name


@pytest.fixture(scope="module")
def localhost(shared, pod):
    made = Localhost(f"/proc/{shared.state(pod)['pid']}/ns/net")
    start_server(shared, pod, made)
    return made


@pytest.fixture
def namespace():
    made = Namespace()
    yield made
    made.close()


def test_both_addresses_reach_the_guest(localhost):
    # Whichever of the two the server has, and the client dials.
    for port in (8004, 8006):
        for address in ("127.0.0.1", "::1"):
            assert localhost.ask(port, b"hello", address) == digest(b"hello")


def test_a_port_without_a_server_is_reset(localhost):
    for _ in range(20):
        with pytest.raises(ConnectionResetError):
            localhost.ask(8005, b"")
    assert localhost.ask(8004, b"x") == digest(b"x")


def test_many_connections(localhost):
    failed = []

    def some(number):
        for i in range(10):
            words = f"{number} {i}".encode()
            if localhost.ask(8004, words) != digest(words):
                failed.append(words)

    threads = [threading.Thread(target=some, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_more_connections_than_are_carried_wait(localhost):
    clients = [localhost.connect(8004) for _ in range(200)]
    try:
        for client in clients:
            client.sendall(b"hold")
        answered = [client for client in clients[:128] if client.recv(4) == b"held"]
        assert len(answered) == 128
        clients[-1].settimeout(0.5)
        with pytest.raises(TimeoutError):
            clients[-1].recv(4)
        for client in answered:
            client.close()
        clients[-1].settimeout(60)
        assert clients[-1].recv(4) == b"held"
    finally:
        for client in clients:
            client.close()
    wait_for(lambda: localhost.ask(8004, b"x") == digest(b"x"), "answer")


def test_megabytes_go_both_ways(localhost):
    words = os.urandom(MEGABYTES)
    started = time.monotonic()
    assert localhost.ask(8004, words) == digest(words) + words
    print(f"{2 * MEGABYTES / (time.monotonic() - started) / 1e6:.0f} MB/s")


def test_what_is_not_localhost_is_left_alone(shared, pod, localhost):
    """Such as Docker's name server, which is in the namespace too."""
    for address in ("127.0.0.11", "127.0.0.2"):
        with localhost.socket() as server:
            server.bind((address, 8004))
            server.listen()
            with localhost.connect(8004, address), server.accept()[0]:
                pass
    # The host's own localhost is nobody else's.
    assert Localhost("/proc/self/ns/net").refuses(8004)
    assert shared.state(pod)["status"] == "running"


def test_connections_wait_while_the_machine_stands(kiln):
    name = start_pod(kiln)
    localhost = Localhost(f"/proc/{kiln.state(name)['pid']}/ns/net")
    server = start_server(kiln, name, localhost)
    with localhost.connect(8004) as early:
        kiln("pause", server, check=True)
        time.sleep(1)
        with localhost.connect(8004) as late:
            for client in (early, late):
                client.sendall(b"still")
                client.shutdown(socket.SHUT_WR)
            late.settimeout(0.5)
            with pytest.raises(TimeoutError):
                late.recv(1)
            late.settimeout(60)
            kiln("resume", server, check=True)
            assert read(early) == read(late) == digest(b"still")
    kiln("delete", "--force", name, check=True)


@pytest.mark.parametrize("end", ["KILL of the container", "TERM of the pod", "delete", "kill -9 of the monitor"])
def test_nothing_is_left_in_the_namespace(kiln, namespace, end):
    name = start_pod(kiln, use_namespace(namespace.path))
    pid = kiln.state(name)["pid"]
    localhost = Localhost(namespace.path)
    server = start_server(kiln, name, localhost)
    with localhost.connect(8004) as client:
        client.sendall(b"hold")
        assert client.recv(4) == b"held"
        if end == "KILL of the container":
            kiln("kill", server, "KILL", check=True)
        elif end == "TERM of the pod":
            kiln("kill", name, "TERM", check=True)
        elif end == "delete":
            kiln("delete", "--force", name, check=True)
        else:
            os.kill(pid, signal.SIGKILL)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            pass
    if end == "KILL of the container":
        with pytest.raises(ConnectionResetError):
            localhost.ask(8004, b"")
        kiln("delete", "--force", name, check=True)
    wait_for(lambda: localhost.refuses(8004), "end of the listeners")
    with localhost.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 8004))
        other.listen()
        with localhost.connect(8004), other.accept()[0]:
            pass
    for container in (server, name):
        kiln("delete", "--force", container, check=True)
    kiln.assert_clean()


def test_a_pod_without_the_privileges_runs_all_the_same(kiln):
    """As rootless: whoever is privileged in a user namespace alone loads no such program."""
    name = kiln.new_id("pod")
    own = ["unshare", "--user", "--map-root-user"]
    made = subprocess.run([*own, *kiln.command("create", "--bundle", sandbox_bundle(kiln), name)], env=kiln.environment,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    assert made.returncode == 0
    assert len(warnings(kiln, name)) == 1
    assert "Operation not permitted, ignoring" in warnings(kiln, name)[0]
    subprocess.run([*own, *kiln.command("delete", "--force", name)], env=kiln.environment, stdin=subprocess.DEVNULL, check=True)
    kiln.assert_clean()
