# SPDX-License-Identifier: Apache-2.0
"""Unix sockets across the VM's boundary: the annotation io.kiln.vsock-forward."""
import hashlib
import os
import signal
import socket
import subprocess
import threading
import time

import pytest

from conftest import deadline_in, kiln_only

pytestmark = [kiln_only, pytest.mark.skipif(os.geteuid() != 0, reason="this host's root file system takes root")]

ANNOTATION = "io.kiln.vsock-forward"
MEGABYTES = 8 << 20

# In the container, before each script.
PRELUDE = """
import hashlib, os, socket, sys, threading
def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s
def listen(path):
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen()
    print("listening", flush=True)
    return s
def read(s):
    out = b""
    while piece := s.recv(1 << 16):
        out += piece
    return out
"""


def read(connection):
    out = bytearray()
    while piece := connection.recv(1 << 16):
        out += piece
    return bytes(out)


def echo(connection):
    """Answers when the peer has ended its half: with the digest for a lot, else with the same."""
    with connection:
        got = read(connection)
        connection.sendall(b"echo " + got if len(got) < 1000 else hashlib.sha256(got).hexdigest().encode())
        if len(got) >= MEGABYTES:
            connection.sendall(got)


class Server:
    """Of the host, at `path`."""

    def __init__(self, path, handle=echo):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(64)
        self.handle = handle
        self.taken = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            self.taken += 1
            threading.Thread(target=self.handle, args=[connection], daemon=True).start()

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path / "server.sock")
    yield made
    made.close()


@pytest.fixture
def share(tmp_path):
    directory = tmp_path / "share"
    directory.mkdir()
    return directory


@pytest.fixture
def kiln(kiln):  # pylint: disable=redefined-outer-name
    kiln.write_config(kiln.config.read_text() + "annotations:\n  allow: [vsock-forward]\n")
    return kiln


def forwarding(value, *binds, more=None):
    """A patch of config.json: the annotation, and bind mounts (source, name below /mnt, options)."""
    def patch(spec):
        if value is not None:
            spec.setdefault("annotations", {})[ANNOTATION] = value
        spec["mounts"].append({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"})
        for source, name, *options in binds:
            spec["mounts"].append({"destination": f"/mnt/{name}", "type": "bind", "source": str(source),
                                   "options": ["rbind", *options]})
        if more is not None:
            more(spec)
    return patch


def python(kiln, script, patch, check=True, **options):
    """Output of a script that runs in a container on this host's own root file system."""
    result = kiln.run(["python3", "-c", PRELUDE + script], patch, rootfs="/", writable=False, **options)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result.stdout if check else result


class Running:
    """A container whose script has printed `listening`."""

    def __init__(self, kiln, script, patch):
        self.id = kiln.new_id()
        bundle = kiln.bundle(["python3", "-c", PRELUDE + script], patch, rootfs="/", writable=False)
        self.process = kiln.start_background("run", "--bundle", bundle, self.id, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line == "listening\n", line + self.process.stderr.read()


def ask(path, words):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(words)
        client.shutdown(socket.SHUT_WR)
        return read(client)


# -- the host serves

ASK = """
s = connect(sys.argv[1] if len(sys.argv) > 1 else "/mnt/s")
s.sendall(b"hello")
s.shutdown(socket.SHUT_WR)
print(read(s).decode())
"""


def test_a_bind_mounted_socket_is_reached(kiln, server):
    assert python(kiln, ASK, forwarding("/mnt/s", (server.path, "s"))) == "echo hello\n"
    kiln.assert_clean()


def test_a_read_only_mount_does_not_keep_anybody_from_connecting(kiln, server):
    assert python(kiln, ASK, forwarding("/mnt/s", (server.path, "s", "ro"))) == "echo hello\n"


def test_a_socket_in_a_shared_directory_is_reached(kiln, share):
    (share / "sub").mkdir()
    server = Server(share / "sub/s")
    script = ASK.replace("/mnt/s", "/mnt/d/sub/s")
    # A second later the guest asks the host for the name again.
    script += "import time; time.sleep(2.5)\n" + script
    try:
        assert python(kiln, script, forwarding("/mnt/d/sub/s", (share, "d"))) == "echo hello\necho hello\n"
        assert python(kiln, ASK.replace("/mnt/s", "/mnt/d/sub/s"), forwarding(
            "/mnt/d/sub/s", (share, "d", "ro"))) == "echo hello\n"
    finally:
        server.close()
    assert os.listdir(share / "sub") == ["s"]


def test_a_path_that_is_too_long_for_an_address_works(kiln, tmp_path):
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    os.chdir(directory)
    server = Server("s")
    os.chdir("/")
    try:
        assert python(kiln, ASK, forwarding("/mnt/s", (directory / "s", "s"))) == "echo hello\n"
    finally:
        server.close()


def test_the_socket_s_mode_and_owner_hold_in_the_container(kiln, server):
    os.chown(server.path, 1000, 2000)

    def as_user(uid, gid):
        def more(spec):
            spec["process"]["user"] = {"uid": uid, "gid": gid}
        return forwarding("/mnt/s", (server.path, "s"), more=more)
    os.chmod(server.path, 0o660)
    assert python(kiln, ASK, as_user(1000, 1000)) == "echo hello\n"
    assert python(kiln, ASK, as_user(1234, 2000)) == "echo hello\n"
    result = python(kiln, ASK, as_user(1234, 1234), check=False)
    assert result.returncode != 0 and "Permission denied" in result.stderr, result.stderr


def test_megabytes_come_whole_both_ways(kiln, server):
    script = f"""
data = os.urandom({MEGABYTES})
s = connect("/mnt/s")
threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
got = read(s)
assert got[:64].decode() == hashlib.sha256(data).hexdigest()
assert got[64:] == data
print("whole")
"""
    assert python(kiln, script, forwarding("/mnt/s", (server.path, "s"))) == "whole\n"


def test_many_connections_at_once(kiln, server):
    script = """
all = [connect("/mnt/s") for _ in range(20)]
for i, s in enumerate(all):
    s.sendall(b"%d" % i)
for s in all:
    s.shutdown(socket.SHUT_WR)
print(*[read(s).decode() for s in all], sep=",")
"""
    out = python(kiln, script, forwarding("/mnt/s", (server.path, "s")))
    assert out.strip().split(",") == [f"echo {i}" for i in range(20)]
    assert server.taken == 20


def test_last_words_arrive(kiln, tmp_path):
    """Of a process that says them and ends, and the machine with it."""
    heard = []
    server = Server(tmp_path / "log.sock", lambda connection: heard.append(read(connection)))
    words = 1 << 20
    python(kiln, f"connect('/mnt/s').sendall(b'x' * {words})", forwarding("/mnt/s", (server.path, "s")))
    deadline = deadline_in(5)
    while not heard and time.monotonic() < deadline:
        time.sleep(0.01)
    server.close()
    assert [len(text) for text in heard] == [words]


def test_a_server_that_has_gone_ends_the_connection(kiln, server):
    script = """
sys.stdin.readline()
try:
    s = connect("/mnt/s")
    print(read(s))
except ConnectionError as error:
    print("refused")
"""
    container = kiln.new_id()
    bundle = kiln.bundle(["python3", "-c", PRELUDE + "print('up', flush=True)" + script],
                         forwarding("/mnt/s", (server.path, "s")), rootfs="/", writable=False)
    process = kiln.start_background("run", "--bundle", bundle, container, stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    server.close()
    server.close = lambda: None
    out, errors = process.communicate("\n", timeout=60)
    assert out in ("b''\n", "refused\n"), out + errors


def test_another_process_of_the_guest_has_no_use_for_the_port(kiln, server):
    """Whoever dials the vsock port by himself does not know the token."""
    script = """
s = socket.socket(socket.AF_VSOCK)
s.connect((2, 1027))
s.sendall(b"0" * 32 + b"hello")
try:
    print(s.recv(10))
except ConnectionError:
    print(b"")
"""
    assert python(kiln, script, forwarding("/mnt/s", (server.path, "s"))) == "b''\n"
    assert server.taken == 0


# -- the container serves

SERVE = """
server = listen("/mnt/up.sock")
while True:
    c = server.accept()[0]
    got = read(c)
    if got == b"end":
        c.sendall(b"bye")
        break
    c.sendall(b"container " + got if len(got) < 1000 else got)
    c.close()
"""


def test_the_host_reaches_what_the_container_serves(kiln, share):
    os.chown(share, 1000, 1000)
    running = Running(kiln, SERVE, forwarding("serve:/mnt/up.sock=/mnt/d/host.sock", (share, "d")))
    path = share / "host.sock"
    info = path.stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o777) == (1000, 1000, 0o600)
    assert ask(path, b"hello") == b"container hello"
    big = os.urandom(1 << 20)
    assert ask(path, big) == big
    # The last answer is there although the container ends with it.
    assert ask(path, b"end") == b"bye"
    out, errors = running.process.communicate(timeout=60)
    assert running.process.returncode == 0, out + errors
    assert os.listdir(share) == []
    kiln.assert_clean()


def test_nobody_listens_in_the_container(kiln, share):
    script = SERVE.replace("/mnt/up.sock", "/mnt/other.sock")
    Running(kiln, script, forwarding("serve:/mnt/up.sock=/mnt/d/host.sock", (share, "d")))
    assert ask(share / "host.sock", b"") == b""


# -- what goes wrong

@pytest.mark.parametrize("value, words", [
    (None, "is a socket of the host, which nothing in a VM can connect to: needs the annotation "
           "io.kiln.vsock-forward: /mnt/s"),
    ("/elsewhere/s", "annotation `io.kiln.vsock-forward`: `/elsewhere/s`: `/elsewhere/s` lies in no bind mount"),
    ("mnt/s", "annotation `io.kiln.vsock-forward`: `mnt/s`: must be PATH or serve:PATH=SHARED"),
    ("/mnt/s,/mnt/s", "annotation `io.kiln.vsock-forward`: `/mnt/s`: `/mnt/s` is there twice"),
    ("/mnt/s,/mnt/d/lost", "annotation `io.kiln.vsock-forward`: `/mnt/d/lost`: find the socket"),
    ("/mnt/s,serve:/x=/mnt/ro/new", "lies in a mount that is read-only"),
    ("/mnt/s,serve:/x=/mnt/d/file", "`serve:/x=/mnt/d/file`: create the socket `file`: File exists"),
])
def test_errors_are_one_line(kiln, server, share, value, words):
    (share / "file").write_text("mine")
    patch = forwarding(value, (server.path, "s"), (share, "d"), (share, "ro", "ro"))
    result = python(kiln, "", patch, check=False)
    assert result.returncode == 1
    assert words in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert sorted(os.listdir(share)) == ["file"]
    kiln.assert_clean()


def test_it_has_to_be_allowed(kiln, server):
    kiln.write_config(kiln.config.read_text().replace("vsock-forward", "vcpus"))
    result = python(kiln, "", forwarding("/mnt/s", (server.path, "s")), check=False)
    assert result.returncode == 1
    assert f"annotation `{ANNOTATION}`: the configuration file does not allow it" in result.stderr


# -- what is left

def served(share, more=None):
    return forwarding("serve:/mnt/up.sock=/mnt/d/host.sock", (share, "d"), more=more)


def test_a_create_that_fails_leaves_no_socket(kiln, share):
    def missing_device(spec):
        spec["linux"]["devices"] = [{"path": "/dev/none", "type": "c", "major": 226, "minor": 0}]
    result = python(kiln, "", served(share, missing_device), check=False)
    assert result.returncode == 1, result.stderr
    assert os.listdir(share) == []
    kiln.assert_clean()


@pytest.mark.parametrize("how", ["delete", "kill -9"])
def test_delete_leaves_no_socket(kiln, share, how):
    container = kiln.start_sleeper(served(share), rootfs="/", writable=False)
    assert os.listdir(share) == ["host.sock"]
    if how == "kill -9":
        os.kill(kiln.state(container)["pid"], signal.SIGKILL)
        kiln.wait_status(container, "stopped")
        assert os.listdir(share) == ["host.sock"]
    for _ in range(2):
        kiln("delete", "--force", container, check=True)
    assert os.listdir(share) == []
    kiln.assert_clean()


def test_delete_leaves_what_has_taken_the_socket_s_place(kiln, share):
    container = kiln.start_sleeper(served(share), rootfs="/", writable=False)
    os.kill(kiln.state(container)["pid"], signal.SIGKILL)
    kiln.wait_status(container, "stopped")
    (share / "host.sock").unlink()
    other = Server(share / "host.sock")
    kiln("delete", "--force", container, check=True)
    assert os.listdir(share) == ["host.sock"]
    other.close()


# -- pods

def test_a_member_of_a_pod_has_forwards_of_its_own(kiln, server, share):
    """Both have ports of one machine."""
    other = Server(server.path.with_name("other.sock"), lambda connection: (connection.sendall(b"other"),
                                                                            connection.close()))
    first = kiln.start_sleeper(forwarding("/mnt/s", (other.path, "s")), rootfs="/", writable=False)
    pid = kiln.state(first)["pid"]

    def join(spec):
        for entry in spec["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = f"/proc/{pid}/ns/net"
    member = Running(kiln, ASK.replace("print(", "first = (") + SERVE.replace(
        "container ", "member ").replace("got == b\"end\"", "print(first, flush=True) or got == b\"end\""), forwarding(
            "/mnt/s,serve:/mnt/up.sock=/mnt/d/host.sock", (server.path, "s"), (share, "d"), more=join))
    assert ask(share / "host.sock", b"hello") == b"member hello"
    assert member.process.stdout.readline() == "echo hello\n"
    result = kiln("exec", first, "python3", "-c", PRELUDE + "print(read(connect('/mnt/s')))", check=True)
    assert result.stdout == "b'other'\n"
    kiln("delete", "--force", member.id, check=True)
    assert os.listdir(share) == []
    vm = kiln.root / first / "vm"
    assert sorted(name for name in os.listdir(vm) if name.startswith("vsock_102") and name > "vsock_1026") == ["vsock_1027"]
    other.close()
