# SPDX-License-Identifier: Apache-2.0
"""Containers under a service manager: NOTIFY_SOCKET, LISTEN_FDS, --preserve-fds."""
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time

import pytest

from conftest import deadline_in, kiln_only

pytestmark = kiln_only  # runc relays READY=1 alone, and passes descriptors as they are


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """service.c, static, so that it runs in the guest's busybox."""
    path = tmp_path_factory.mktemp("service") / "service"
    source = pathlib.Path(__file__).with_name("service.c")
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", path, source], check=True)
    return path


@pytest.fixture
def bundle_of(kiln, program):
    """bundle_of(script, patch): a bundle of a shell script that has /bin/service."""
    def make(script, patch=None, **options):
        directory = kiln.bundle(["/bin/sh", "-c", script], patch, **options)
        shutil.copy(program, directory / "rootfs/bin/service")
        return directory
    return make


class Manager:
    """A service manager's notification socket."""

    def __init__(self, path):
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def hear(self, timeout=60):
        """(lines, pid of who says it)."""
        self.socket.settimeout(timeout)
        data, ancillary, _, _ = self.socket.recvmsg(8192, socket.CMSG_SPACE(12))
        return data.decode().splitlines(), int.from_bytes(ancillary[0][2][:4], "little")

    def hears_nothing(self, seconds=0.5):
        try:
            return self.hear(seconds) and False
        except TimeoutError:
            return True


@pytest.fixture
def manager(kiln):
    return Manager(kiln.directory / "notify.sock")


def start_with(kiln, environment, *words, preexec_fn=None, **options):
    """A kiln command in the background, with more in its environment."""
    process = subprocess.Popen(kiln.command(*words), env={**kiln.environment, **environment}, preexec_fn=preexec_fn,
                               close_fds=preexec_fn is None, **options)
    kiln.background.append(process)
    return process


# -- NOTIFY_SOCKET


def test_readiness_of_a_foreground_container(kiln, manager, bundle_of):
    script = "echo $NOTIFY_SOCKET; service notify READY=1 'STATUS=up and running'; service barrier; " \
             "service notify STOPPING=1; read line"
    client = start_with(kiln, {"NOTIFY_SOCKET": str(manager.path)}, "run", "--bundle", bundle_of(script),
                        kiln.new_id(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # In the name of the process that the manager has started, as with NotifyAccess=main.
    assert manager.hear() == (["READY=1", "STATUS=up and running"], client.pid)
    assert manager.hear() == ([f"MAINPID={client.pid}"], client.pid)
    assert manager.hear() == (["STOPPING=1"], client.pid)
    out, _ = client.communicate(b"go\n", timeout=60)
    assert out == b"/run/notify/notify.sock\nbarrier\n" and client.returncode == 0
    kiln.assert_clean()


def test_start_waits_until_the_container_is_ready(kiln, manager, bundle_of):
    container = kiln.new_id()
    bundle = bundle_of("while [ ! -e /tmp/go ]; do sleep 0.05; done; service notify READY=1; sleep 1000")
    environment = {"NOTIFY_SOCKET": str(manager.path)}
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert start_with(kiln, environment, "create", "--bundle", bundle, container, **quiet).wait(60) == 0
    start = start_with(kiln, environment, "start", container)
    kiln.wait_status(container, "running")
    assert manager.hears_nothing() and start.poll() is None
    kiln("exec", container, "touch", "/tmp/go", check=True)
    pid = kiln.state(container)["pid"]
    assert manager.hear()[0] == ["READY=1"]
    assert manager.hear()[0] == [f"MAINPID={pid}"]
    assert start.wait(60) == 0
    # The first process's alone, as with runc.
    assert "NOTIFY_SOCKET" not in kiln("exec", container, "env", check=True).stdout


def test_start_does_not_wait_for_a_container_that_ends(kiln, manager, bundle_of):
    container = kiln.new_id()
    environment = {"NOTIFY_SOCKET": str(manager.path)}
    with open(kiln.directory / "out", "wb") as out:
        client = start_with(kiln, environment, "run", "--detach", "--bundle", bundle_of("exit 3"), container,
                            stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    assert client.wait(120) == 0
    kiln.wait_status(container, "stopped")
    assert manager.hears_nothing(0.1)


def test_what_would_give_the_guest_power_is_not_relayed(kiln, manager, bundle_of):
    script = "service notify MAINPID=1 NOTIFYACCESS=all FDSTORE=1 X=1 READY=2; " \
             f"service notify STATUS={'x' * 5000}; " \
             "i=0; while [ $i -lt 400 ]; do service notify STATUS=flood; i=$((i+1)); done; " \
             "service notify WATCHDOG=1 READY=1 MAINPID=1; service barrier"
    client = start_with(kiln, {"NOTIFY_SOCKET": str(manager.path)}, "run", "--bundle", bundle_of(script),
                        kiln.new_id(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    heard = []
    while not heard or not heard[-1][0].startswith("MAINPID"):
        heard.append(manager.hear()[0])
    assert client.wait(120) == 0
    assert heard[0] == ["READY=2"]  # not READY=1: the manager makes of it what it likes
    assert heard[-2:] == [["WATCHDOG=1", "READY=1"], [f"MAINPID={client.pid}"]]
    assert all(lines == ["STATUS=flood"] for lines in heard[1:-2]) and len(heard) < 200


def test_any_user_of_the_container_may_notify(kiln, manager, bundle_of):
    def unprivileged(spec):
        spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    script = "touch /run/notify/x 2>/dev/null && exit 9; service notify READY=1"
    client = start_with(kiln, {"NOTIFY_SOCKET": str(manager.path)}, "run", "--bundle",
                        bundle_of(script, unprivileged, writable=False), kiln.new_id(), stdin=subprocess.DEVNULL)
    assert client.wait(60) == 0
    assert manager.hear()[0] == ["READY=1"]


def test_a_notification_socket_that_is_not_there(kiln):
    result = subprocess.run(kiln.command("create", "--bundle", kiln.bundle(), "n1"), stdin=subprocess.DEVNULL,
                            env={**kiln.environment, "NOTIFY_SOCKET": "/nonexistent/notify"}, timeout=60,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1 and "/nonexistent/notify" in result.stderr
    kiln.assert_clean()


def test_podmans_mount_of_a_notification_socket(kiln, bundle_of):
    """podman mounts a directory in which conmon listens, and sets the variable in the config."""
    directory = kiln.directory / "notify"
    directory.mkdir()
    manager = Manager(directory / "notify.sock")

    def patch(spec):
        spec["mounts"].append({"destination": "/run/notify", "type": "bind", "source": str(directory),
                               "options": ["bind", "private"]})
        spec["process"]["env"].append("NOTIFY_SOCKET=/run/notify/notify.sock")
    kiln("run", "--bundle", bundle_of("service notify READY=1; service barrier", patch), kiln.new_id(), check=True)
    assert manager.hear()[0] == ["READY=1"]
    assert manager.hears_nothing(0.1)  # the pid is conmon's to say


# -- LISTEN_FDS and --preserve-fds


def pass_fds(*fds):
    """For preexec_fn: `fds` become 3, 4, …, as a service manager has them."""
    def place():
        lifted = [os.dup2(fd, 100 + index) for index, fd in enumerate(fds)]
        for index, fd in enumerate(lifted):
            os.dup2(fd, 3 + index)
            os.close(fd)
        os.closerange(3 + len(fds), 99)
    return place


def activated(kiln, fds, *words, **options):
    """A kiln command with LISTEN_FDS: a shell tells its own pid, which exec keeps."""
    command = " ".join(f"'{word}'" for word in kiln.command(*words))
    script = f"export LISTEN_PID=$$ LISTEN_FDS={len(fds)}; exec {command}"
    process = subprocess.Popen(["/bin/sh", "-c", script], env=kiln.environment, preexec_fn=pass_fds(*fds),
                               close_fds=False, **options)
    kiln.background.append(process)
    return process


def ask(address, data, family=socket.AF_INET):
    with socket.socket(family) as client:
        client.settimeout(60)
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX], ids=["inet", "unix"])
def test_socket_activation(kiln, bundle_of, family):
    with socket.socket(family) as listener:
        listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(kiln.directory / "listener.sock"))
        listener.listen()
        client = activated(kiln, [listener.fileno()], "run", "--bundle",
                           bundle_of("echo $LISTEN_FDS $LISTEN_PID $$; ls /proc/self/fd; service serve 3 20"),
                           kiln.new_id(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        address = listener.getsockname()
        assert ask(address, b"first", family) == b"5 bytes: first"
        answers = {}

        def one(number):
            data = f"client {number} ".encode() * 3000
            answers[number] = ask(address, data, family) == f"{len(data)} bytes: ".encode() + data
        threads = [threading.Thread(target=one, args=(number,)) for number in range(19)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: True for number in range(19)}
        out, _ = client.communicate(timeout=60)
    lines = out.decode().split("\n")
    assert client.returncode == 0 and lines[0] == "1 1 1"
    assert {"0", "1", "2", "3"} <= set(lines[1:])  # and that of the directory itself
    assert len(lines[1:]) <= 6
    kiln.assert_clean()


def test_a_container_that_does_not_listen_refuses(kiln, bundle_of):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = activated(kiln, [listener.fileno()], "run", "--bundle",
                           bundle_of("exec 3>&-; echo closed; read line"), kiln.new_id(),
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert client.stdout.readline() == b"closed\n"
        try:
            assert ask(listener.getsockname(), b"") == b""
        except ConnectionResetError:
            pass
        client.communicate(b"go\n", timeout=60)
        assert client.returncode == 0


def test_listen_fds_of_somebody_else(kiln, bundle_of):
    """sd_listen_fds(3): LISTEN_PID says whom they are for."""
    client = start_with(kiln, {"LISTEN_FDS": "3", "LISTEN_PID": "1"}, "run", "--bundle",
                        bundle_of("env; ls /proc/self/fd"), kiln.new_id(), stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE)
    out, _ = client.communicate(timeout=60)
    assert client.returncode == 0 and b"LISTEN" not in out
    assert set(out.decode().split("\n")[-5:-1]) == {"0", "1", "2", "3"}


def test_preserved_sockets_and_pipes(kiln, bundle_of):
    ours, theirs = socket.socketpair()
    to_read, written = os.pipe()
    read, to_write = os.pipe()
    client = start_with(kiln, {}, "run", "--preserve-fds", "3", "--bundle",
                        bundle_of("env | grep LISTEN; cat <&4 >&3; cat <&3 >&5; echo done"), kiln.new_id(),
                        preexec_fn=pass_fds(theirs.fileno(), to_read, to_write), stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE)
    for end in (to_read, to_write):
        os.close(end)
    theirs.close()
    data = os.urandom(300_000)
    writer = threading.Thread(target=lambda: (os.write(written, b"from the pipe"), os.close(written)))
    writer.start()
    ours.settimeout(60)
    assert ours.recv(100) == b"from the pipe"
    sender = threading.Thread(target=lambda: (ours.sendall(data), ours.shutdown(socket.SHUT_WR)))
    sender.start()
    with os.fdopen(read, "rb") as end:
        assert end.read() == data
    writer.join()
    sender.join()
    out, _ = client.communicate(timeout=60)
    assert (client.returncode, out) == (0, b"done\n")
    ours.close()
    kiln.assert_clean()


def test_listen_fds_come_before_preserved_ones(kiln, bundle_of):
    ours, theirs = socket.socketpair()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = activated(kiln, [listener.fileno(), theirs.fileno()], "run", "--preserve-fds", "1", "--bundle",
                           bundle_of("true"), kiln.new_id(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # LISTEN_FDS counts both here, so that there is none left to be preserved.
        _, err = client.communicate(timeout=60)
    assert client.returncode == 1 and b"unable to stat preserved-fd 0 (of 1): stat /proc/self/fd/5" in err
    ours.close()
    theirs.close()


def test_descriptors_of_a_process(kiln, bundle_of):
    container = kiln.new_id()
    with open(os.devnull, "wb") as null:
        kiln("run", "--detach", "--bundle", bundle_of("sleep 1000"), container, check=True, stdout=null, stderr=null)
    ours, theirs = socket.socketpair()
    client = start_with(kiln, {}, "exec", "--preserve-fds", "1", container, "/bin/sh", "-c",
                        "read line <&3; echo got $line >&3; exit 5", preexec_fn=pass_fds(theirs.fileno()),
                        stdin=subprocess.DEVNULL)
    theirs.close()
    ours.settimeout(60)
    ours.sendall(b"hello\n")
    assert ours.recv(100) == b"got hello\n"
    assert client.wait(60) == 5
    assert ours.recv(100) == b""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    detached = start_with(kiln, {}, "exec", "--detach", "--preserve-fds", "1", container, "service", "serve", "3", "1",
                          preexec_fn=pass_fds(listener.fileno()), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL)
    assert detached.wait(60) == 0
    assert ask(listener.getsockname(), b"to exec") == b"7 bytes: to exec"
    listener.close()
    wait_gone(kiln, container)


def wait_gone(kiln, container):
    deadline = deadline_in(30)
    while "service" in kiln("ps", container, check=True).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["file", "datagram", "unconnected", "device", "closed"])
def test_descriptors_that_cannot_be_carried_are_named(kiln, kind):
    extra = {"file": lambda: open("/etc/passwd", "rb"), "device": lambda: open("/dev/zero", "rb"),
             "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "unconnected": socket.socket,
             "closed": lambda: None}[kind]()
    fds = [extra.fileno()] if extra else []
    client = start_with(kiln, {}, "run", "--preserve-fds", "1", "--bundle", kiln.bundle(), kiln.new_id(),
                        preexec_fn=pass_fds(*fds), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 1 and err.count(b"\n") == 1
    if kind == "closed":
        assert b"unable to stat preserved-fd 0 (of 1): stat /proc/self/fd/3: No such file or directory" in err
    else:
        assert b"descriptor 3 (" in err and b"cannot be passed into a VM" in err
    if kind == "file":
        assert b"/etc/passwd" in err
    if extra:
        extra.close()
    kiln.assert_clean()


def test_more_descriptors_than_there_may_be(kiln):
    for count, text in [("33", "at most 32"), ("-1", "negative")]:
        result = kiln("run", "--preserve-fds", count, "--bundle", kiln.bundle(), kiln.new_id())
        assert result.returncode == 1 and text in result.stderr
        assert result.stderr.count("\n") == 1
