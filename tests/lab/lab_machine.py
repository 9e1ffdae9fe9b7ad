# SPDX-License-Identifier: Apache-2.0
"""One boot of a lab host: QEMU, the server of the host's files, and the channels to the command that runs inside.

Nothing of it has a name on the host: sockets come in pairs, files are memfds, and every process dies with this one.
"""
import ctypes
import dataclasses
import json
import os
import pathlib
import selectors
import signal
import socket
import subprocess
import time

QEMU = "qemu-system-x86_64"
CONSOLE_BYTES = 1 << 20  # the last ones are kept
BOOT_SILENCE = 120  # s until the first word; a loaded machine emulates slowly
SILENCE = 90  # s without the word that comes each second
CHANNELS = ("out", "err", "control", "events", "dmesg")
PR_SET_PDEATHSIG = 1  # prctl(2)


class LabError(Exception):
    """The lab could not be started at all."""


@dataclasses.dataclass
class Settings:
    smp: int = 1
    memory: str = "4G"
    icount: bool = False
    timeout: float | None = None  # s, of one boot with all that runs in it


@dataclasses.dataclass
class Outcome:
    """How a boot ended. `what`: exited, panicked, froze, timeout, or died (QEMU ended by itself)."""
    what: str
    status: int | None = None  # the command's, when it exited
    console: str = ""
    dmesg: str = ""  # of a command that failed
    seconds: float = 0.0


def _die_with_parent():
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _tsc_khz():
    """This host's time stamp counter, as its kernel measured it; None if that is not to be seen."""
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return round(float(line.split(":")[1]) * 1000)
    return None


class _Share:
    """`kiln-vmm fs` with `/` as its one entry (vmm/api/fs_control.h)."""

    def __init__(self, vmm):
        control, control_there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.vhost_user, vhost_there = socket.socketpair()
        # In the child, 3 and 4 may be taken by the very descriptors that are to become 4 and 3.
        moved = [os.dup(end.fileno()) for end in (control_there, vhost_there)]

        def arrange():
            _die_with_parent()
            high = [os.dup2(fd, 100 + i) for i, fd in enumerate(moved)]
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)

        self.process = subprocess.Popen([vmm, "fs"], env={}, cwd="/", stdin=subprocess.DEVNULL,
                                        preexec_fn=arrange, pass_fds=(3, 4))
        for fd in moved:
            os.close(fd)
        control_there.close()
        vhost_there.close()
        self.control = control
        control.settimeout(10)
        root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        try:
            # The lab lives shorter than what it runs: what is cached stays true.
            request = {"add": "root", "read_only": True, "cache": "always"}
            socket.send_fds(control, [json.dumps(request).encode()], [root])
            answer = json.loads(control.recv(8192) or b'{"error": {"message": "it has ended"}}')
        finally:
            os.close(root)
        if "error" in answer:
            raise LabError(f"kiln-vmm fs: {answer['error']['message']}")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.control.close()
        self.vhost_user.close()


class Machine:
    """A lab host from power-on to its end. `sinks`: {channel: function of bytes}, for out, err and events."""

    def __init__(self, kernel, archive, settings, vmm=None, sinks=None):
        self.settings = settings
        self.sinks = sinks or {}
        self.kept = {"console": bytearray(), "control": bytearray(), "dmesg": bytearray(),
                     "qemu": bytearray()}
        self.share = _Share(vmm) if vmm else None
        self.channels = {}
        far = {}
        for name in (*CHANNELS, "console", "qemu"):
            self.channels[name], far[name] = socket.socketpair()
            self.channels[name].setblocking(False)
        if self.share:
            far["fs"] = self.share.vhost_user
        initrd = os.memfd_create("initramfs")
        with open(initrd, "wb", closefd=False) as file:
            file.write(archive)
        fds = {name: end.fileno() for name, end in far.items()}
        try:
            self.process = subprocess.Popen(self._command(kernel, initrd, fds), stdin=subprocess.DEVNULL,
                                            stdout=far["qemu"], stderr=far["qemu"], preexec_fn=_die_with_parent, pass_fds=(initrd, *fds.values()))
        except OSError as error:
            self._close_channels()
            raise LabError(f"start {QEMU}: {error.strerror}") from error
        finally:
            os.close(initrd)
            for end in far.values():
                end.close()

    def _command(self, kernel, initrd, fds):
        settings = self.settings
        # A timer check fails where the emulation gets no CPU for a while. Ciphers' self-tests take a tenth of a boot.
        line = ["console=ttyS0", "quiet", "panic=-1", "no_timer_check", "cryptomgr.notests", "random.trust_cpu=on",
                "mitigations=off"]
        # Without it a kernel may find the emulated counter unstable. Under icount it counts virtual nanoseconds.
        khz = 1_000_000 if settings.icount else _tsc_khz()
        if khz:
            line.append(f"tsc_early_khz={khz}")
        command = [
            QEMU, "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none",
            "-M", "q35,memory-backend=mem,usb=off,sata=off,vmport=off,smm=off,hpet=off",
            # One thread for all vCPUs, and no newer CPU: with several threads QEMU 7.2 has crashed, with `max` frozen.
            "-accel", "tcg,thread=single", "-cpu", "EPYC,+svm,+npt", "-smp", str(settings.smp), "-m", settings.memory,
            "-object", f"memory-backend-memfd,id=mem,size={settings.memory},share=on",
            "-kernel", str(kernel.image), "-initrd", f"/proc/self/fd/{initrd}", "-append", " ".join(line),
            "-chardev", f"socket,id=console,fd={fds['console']}", "-serial", "chardev:console",
            "-device", "virtio-serial-pci,id=ports",
        ]
        if settings.icount:
            command += ["-icount", "shift=0,sleep=off", "-rtc", "base=2024-01-01,clock=vm", "-seed", "1"]
        for number, name in enumerate(CHANNELS, 1):
            command += ["-chardev", f"socket,id={name},fd={fds[name]}",
                        "-device", f"virtserialport,bus=ports.0,nr={number},chardev={name},name=lab.{name}"]
        if "fs" in fds:
            command += ["-chardev", f"socket,id=fs,fd={fds['fs']}",
                        "-device", "vhost-user-fs-pci,chardev=fs,tag=host,queue-size=1024"]
        return command

    def run(self):
        """Until the command has exited, or cannot any more."""
        begin = self.heard = time.monotonic()
        try:
            what = self._watch(begin)
            if what == "exited":  # what was written before the last word is in the sockets by now
                self._drain_all()
        finally:
            self.close()
        text = {name: kept.decode(errors="replace") for name, kept in self.kept.items()}
        status = next((int(line.split()[1]) for line in text["control"].split("\n") if line.startswith("exit ")), None)
        console = text["console"] + (text["qemu"] if what == "died" else "")
        return Outcome(what, status, console, text["dmesg"], time.monotonic() - begin)

    def _watch(self, begin):
        with selectors.DefaultSelector() as selector:
            for name, channel in self.channels.items():
                selector.register(channel, selectors.EVENT_READ, name)
            while True:
                for key, _ in selector.select(1.0):
                    if not self._receive(key.data):
                        selector.unregister(key.fileobj)
                if b"\nexit " in self.kept["control"] and self.kept["control"].endswith(b"\n"):
                    return "exited"
                if b"Kernel panic - not syncing" in self.kept["console"]:
                    self._drain_all()
                    # Before the command there was nothing but the emulation to bring the kernel down.
                    return "panicked" if self.kept["control"] or self.settings.icount else "died"
                if self.process.poll() is not None:
                    self._drain_all()
                    return "exited" if b"\nexit " in self.kept["control"] else "died"
                now = time.monotonic()
                if self.settings.timeout is not None and now - begin > self.settings.timeout:
                    return "timeout"
                if not self.settings.icount and now - self.heard > (SILENCE if self.kept["control"] else BOOT_SILENCE):
                    return "froze"

    def _receive(self, name):
        """False at the channel's end."""
        try:
            data = self.channels[name].recv(1 << 16)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if name == "control":
            self.heard = time.monotonic()
        if name in self.kept:
            kept = self.kept[name]
            kept += data
            del kept[:-CONSOLE_BYTES]
        elif name in self.sinks:
            self.sinks[name](data)
        return bool(data)

    def _drain_all(self):
        for name, channel in self.channels.items():
            while True:
                try:
                    ready = channel.recv(1, socket.MSG_PEEK)
                except OSError:
                    break
                if not ready or not self._receive(name):
                    break

    def _close_channels(self):
        for channel in self.channels.values():
            channel.close()
        if self.share:
            self.share.close()

    def close(self):
        self.process.kill()
        self.process.wait()
        self._close_channels()
