#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a command as root on a KVM host of its own: a machine that QEMU emulates, AMD-V included.

The command sees this host's files, and writes to memory only. Exit status: the command's; 124 when it took too long;
125 when the lab itself failed.
"""
import argparse
import os
import pathlib
import sys

import lab_image
import lab_kernel
import lab_machine

TOP = pathlib.Path(__file__).resolve().parents[2]
TIMED_OUT, LAB_FAILED = 124, 125
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TERM", "PYTHONDONTWRITEBYTECODE")
HIDDEN = ("/tmp", "/run", "/dev", "/proc", "/sys")  # the lab's own
CONSOLE_LINES = 40


def say(text):
    print(f"lab: {text}", file=sys.stderr, flush=True)


def default_vmm():
    build = os.environ.get("KILN_TEST_BUILD", TOP / "build")
    return os.environ.get("KILN_LAB_VMM", str(pathlib.Path(build).resolve() / "kiln-vmm"))


def passed_on():
    """What of this process's environment the command gets."""
    return {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("KILN_")}


def hidden(path):
    """Whether the lab's own file systems would hide `path`."""
    return any(pathlib.PurePath(path).is_relative_to(top) for top in HIDDEN)


class Lab:
    """What is to run, and on which machine; `run` boots it as often as it takes."""

    def __init__(self, command, *, kernel="auto", settings=None, environment=None, directory=None, files=(),
                 share=True, binds=(), vmm=None):
        self.settings = settings or lab_machine.Settings()
        self.kernel = lab_kernel.find(kernel)
        self.vmm = (vmm or default_vmm()) if share else None
        if share and not os.access(self.vmm, os.X_OK):
            raise lab_machine.LabError(f"no program `{self.vmm}` to share this host's files with (--vmm)")
        directory = directory or (os.getcwd() if share else "/")
        binds = [*binds, *([directory] if share and hidden(directory) else [])]
        modules = self.kernel.module_files(lab_kernel.SHARE_MODULES if share else lab_kernel.ALONE_MODULES)
        ports = self.kernel.module_files(lab_kernel.PORT_MODULES)
        if not self.settings.icount:
            modules, ports = [*ports, *(module for module in modules if module not in ports)], []
        self.archive = lab_image.build(
            command, environment=passed_on() if environment is None else environment, directory=directory,
            modules=modules, late=[module for module in ports if module not in modules],
            settings={"share": "yes" if share else "", "quiet": "yes" if self.settings.icount else "",
                      "binds": " ".join(dict.fromkeys(map(str, binds))),
                      "modules": self.kernel.modules if share and self.kernel.modules else ""},
            files=files)

    def boot(self, sinks):
        return lab_machine.Machine(self.kernel, self.archive, self.settings, self.vmm, sinks).run()

    def run(self, sinks, retries=1):
        """(Outcome, how often a lab froze or died before that). A command that panicked its host is not repeated."""
        for failed in range(retries + 1):
            outcome = self.boot(sinks)
            if outcome.what not in ("froze", "died") or failed == retries:
                return outcome, failed
            say(f"{outcome.what}, trying again ({failed + 1})")
        raise AssertionError("not reached")


def last_lines(text, count=CONSOLE_LINES):
    return "\n".join(text.rstrip().splitlines()[-count:])


def parse(arguments):
    parser = argparse.ArgumentParser(prog="lab.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="vCPUs (default: 1)")
    parser.add_argument("--memory", default="4G", metavar="SIZE", help="(default: 4G)")
    parser.add_argument("--timeout", type=float, metavar="S", help="of one boot with the command (default: none)")
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="after a freeze (default: 1)")
    parser.add_argument("--kernel", default="auto", metavar="cloud|tuned|PATH",
                        help="default: tuned where one was built, else cloud")
    parser.add_argument("--icount", action="store_true",
                        help="one virtual nanosecond an instruction: the same figures in each run; without this host's "
                        "files, and output comes when the command has ended")
    parser.add_argument("--no-share", action="store_true", help="without this host's files: in the initramfs alone")
    parser.add_argument("--initramfs-file", action="append", default=[], metavar="PATH[:NAME]",
                        help="put this file there, as NAME; may be repeated")
    parser.add_argument("--bind", action="append", default=[], metavar="DIRECTORY",
                        help=f"show this one below {', '.join(HIDDEN[:3])}, which are the lab's own; may be repeated")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the command")
    parser.add_argument("--vmm", metavar="PATH", help="kiln-vmm, to share files with (default: of the build)")
    parser.add_argument("--console", metavar="FILE", help="write the lab's console there")
    parser.add_argument("--dmesg", metavar="FILE", help="write the lab's kernel log there when the command fails")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND…")
    parsed = parser.parse_args(arguments)
    if parsed.command[:1] == ["--"]:
        del parsed.command[0]
    if not parsed.command:
        parser.error("no command")
    return parsed


def split_file(text):
    path, _, name = text.partition(":")
    return os.path.abspath(path), name or os.path.abspath(path)


def writer(file):
    def write(data):
        file.buffer.write(data)
        file.buffer.flush()
    return write


def report(outcome, options):
    """The exit status, after whatever has to be said."""
    for path, text in ((options.console, outcome.console), (options.dmesg, outcome.dmesg)):
        if path:
            pathlib.Path(path).write_text(text)
    if outcome.what == "exited":
        return outcome.status
    if outcome.what == "timeout":
        say(f"not done after {options.timeout:g} s")
        return TIMED_OUT
    say(f"{outcome.what}; its console's last lines:\n{last_lines(outcome.console)}")
    return LAB_FAILED


def main(arguments):
    options = parse(arguments)
    settings = lab_machine.Settings(options.smp, options.memory, options.icount, options.timeout)
    share = not (options.icount or options.no_share)
    environment = passed_on() if share else {"PATH": "/bin", "HOME": "/"}
    environment.update(pair.split("=", 1) for pair in options.env)
    try:
        lab = Lab(options.command, kernel=options.kernel, settings=settings, environment=environment,
                  files=[split_file(text) for text in options.initramfs_file], share=share,
                  binds=[os.path.abspath(path) for path in options.bind], vmm=options.vmm)
        outcome, _ = lab.run({"out": writer(sys.stdout), "err": writer(sys.stderr)}, options.retries)
    except (lab_machine.LabError, lab_kernel.KernelError, OSError) as error:
        say(error)
        return LAB_FAILED
    except KeyboardInterrupt:
        return 130
    return report(outcome, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
