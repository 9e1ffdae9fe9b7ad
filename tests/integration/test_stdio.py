# SPDX-License-Identifier: Apache-2.0
"""Pipes and terminals."""
import array
import fcntl
import hashlib
import os
import pty
import re
import select
import socket
import struct
import subprocess
import termios
import threading
import time

from conftest import deadline_in, kiln_only


def test_stdout_and_stderr_stay_apart(kiln):
    result = kiln.run(["/bin/sh", "-c", "echo out; echo err >&2"])
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_standard_input_reaches_the_process_and_ends(kiln):
    assert kiln.run(["/bin/wc", "-c"], input="x" * 12345).stdout.strip() == "12345"


def test_empty_standard_input(kiln):
    assert kiln.run(["/bin/wc", "-c"]).stdout.strip() == "0"


def test_100_mb_each_way_arrive_intact(kiln):
    block = hashlib.sha256(b"seed").digest() * 32768  # 1 MiB
    process = kiln.start_background("run", "--bundle", kiln.bundle(["/bin/cat"]), kiln.new_id(), stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    sent = hashlib.sha256()

    def feed():
        for i in range(100):
            piece = i.to_bytes(4, "little") + block[4:]
            sent.update(piece)
            process.stdin.write(piece)
        process.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    received, size = hashlib.sha256(), 0
    while chunk := process.stdout.read(1 << 20):
        received.update(chunk)
        size += len(chunk)
    feeder.join()
    assert process.wait(timeout=60) == 0
    assert size == 100 << 20
    assert received.hexdigest() == sent.hexdigest()


def test_a_slow_reader_of_one_stream_stalls_only_that_stream(kiln):
    """Standard output is not read at all while standard error goes on."""
    process = kiln.start_background(
        "run", "--bundle", kiln.bundle(["/bin/sh", "-c", "yes | head -c 3000000 & sleep 1; echo alive >&2; wait"]),
        kiln.new_id(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr.readline() == b"alive\n"
    assert len(process.stdout.read()) == 3000000
    assert process.wait(timeout=60) == 0


def test_a_reader_that_goes_away_gives_sigpipe_and_an_end(kiln):
    process = kiln.start_background("run", "--bundle", kiln.bundle(["/bin/yes"]), kiln.new_id(),
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.read(2) == b"y\n"
    process.stdout.close()
    assert process.wait(timeout=60) in (1, 141)
    kiln.assert_clean()


def test_output_written_just_before_exit_is_not_lost(kiln):
    for _ in range(3):
        assert len(kiln.sh("head -c 300000 /dev/zero | tr '\\0' x; echo end")) == 300004


class Terminal:
    """The host's side of a pseudo-terminal, read with a deadline."""

    def __init__(self, master):
        self.master = master
        self.text = ""

    def expect(self, pattern, timeout=60):
        deadline = deadline_in(timeout)
        while not (found := re.search(pattern, self.text)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} in {self.text!r}"
            if select.select([self.master], [], [], left)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:
                    data = b""
                assert data, f"ended without {pattern!r}: {self.text!r}"
                self.text += data.decode(errors="replace")
        self.text = self.text[found.end():]
        return found

    def send(self, text):
        os.write(self.master, text.encode())

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def run_in_terminal(kiln, *arguments):
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe(kiln.command()[0], kiln.command(*arguments), kiln.environment)
    return pid, Terminal(master)


def test_terminal_session_with_resize(kiln):
    bundle = kiln.bundle(["/bin/sh"], terminal=True)
    pid, terminal = run_in_terminal(kiln, "run", "--bundle", bundle, kiln.new_id())
    terminal.resize(33, 77)
    terminal.expect("# ")
    terminal.send("tty; test -t 0 && test -t 1 && echo is'-a-'tty\n")
    terminal.expect("/dev/(pts/0|console)")
    terminal.expect("is-a-tty")
    terminal.resize(40, 120)
    deadline = deadline_in(20)
    while True:
        terminal.send("echo size $(stty size) end\n")
        if terminal.expect(r"size (\d+ \d+) end").group(1) == "40 120":
            break
        assert time.monotonic() < deadline
    terminal.send("sleep 100\n")
    time.sleep(0.5)
    terminal.send("\x03")  # ^C ends sleep, not the shell
    terminal.send("echo code $?\n")
    terminal.expect("code 130")
    terminal.send("exit 9\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    kiln.assert_clean()


def receive_console(listener):
    """What an engine does: accept, and take the pty's master from the message."""
    connection, _ = listener.accept()
    fds = array.array("i")
    message, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_LEN(fds.itemsize))
    fds.frombytes(ancillary[0][2][:fds.itemsize])
    return message, fds[0]


def test_console_socket(kiln):
    path = kiln.directory / "console.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.settimeout(60)
    container = kiln.new_id()
    def patch(spec):
        spec["process"]["consoleSize"] = {"height": 21, "width": 63}
    kiln("create", "--bundle", kiln.bundle(["/bin/sh", "-c", "stty size; read line; echo got $line"], patch,
                                           terminal=True),
         "--console-socket", path, container, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    name, master = receive_console(listener)
    terminal = Terminal(master)
    kiln("start", container, check=True)
    terminal.expect("21 63")
    terminal.send("hello\n")
    terminal.expect("got hello")
    kiln.wait_status(container, "stopped")


def test_terminal_and_console_socket_must_agree(kiln):
    missing = kiln("create", "--bundle", kiln.bundle(["true"], terminal=True), kiln.new_id())
    assert missing.returncode == 1 and "console socket" in missing.stderr
    kiln.assert_clean()


def test_exec_with_a_terminal(kiln):
    container = kiln.start_sleeper()
    pid, terminal = run_in_terminal(kiln, "exec", "--tty", container, "/bin/sh")
    terminal.resize(31, 71)
    terminal.expect("# ")
    terminal.send("tty; echo code $((40+2))\n")
    terminal.expect("/dev/pts/")
    terminal.expect("code 42")
    deadline = deadline_in(20)
    while True:
        terminal.send("echo size $(stty size) end\n")
        if terminal.expect(r"size (\d+ \d+) end").group(1) == "31 71":
            break
        assert time.monotonic() < deadline
    terminal.send("exit 5\n")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


@kiln_only
def test_signals_to_a_foreground_run_reach_the_container(kiln):
    process = kiln.start_background("run", "--bundle", kiln.bundle(
        ["/bin/sh", "-c", "trap 'echo terminated; exit 4' TERM; echo ready; while :; do sleep 0.05; done"]), kiln.new_id(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"ready\n"
    process.terminate()
    assert process.stdout.readline() == b"terminated\n"
    assert process.wait(timeout=60) == 4
    kiln.assert_clean()
