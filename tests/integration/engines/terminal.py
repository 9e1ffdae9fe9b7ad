# SPDX-License-Identifier: Apache-2.0
"""A program on a pseudo-terminal, as a user has it."""
import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from conftest import deadline_in


class Terminal:
    def __init__(self, command, environment, rows=33, columns=77):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.text = ""

        def take_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        # pylint: disable-next=subprocess-popen-preexec-fn
        self.process = subprocess.Popen(command, env={**environment, "TERM": "xterm"}, stdin=slave, stdout=slave,
                                        stderr=slave, preexec_fn=take_terminal)
        os.close(slave)

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, wanted, seconds=60):
        """Reads until `wanted` has come; everything that was read so far."""
        deadline = deadline_in(seconds)
        while wanted not in self.text:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            try:
                piece = os.read(self.master, 65536).decode(errors="replace") if ready else ""
            except OSError:  # EIO: the other side is closed
                piece = ""
            if not piece:
                raise AssertionError(f"no {wanted!r} in {self.text!r}")
            self.text += piece
        return self.text

    def wait(self, seconds=60):
        """The program's exit code; what it still writes is kept."""
        try:
            while piece := os.read(self.master, 65536):
                self.text += piece.decode(errors="replace")
        except OSError:
            pass
        code = self.process.wait(timeout=seconds)
        os.close(self.master)
        return code
