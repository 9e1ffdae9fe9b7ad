# SPDX-License-Identifier: Apache-2.0
"""config.json /linux/seccomp: actions, argument operators, architectures."""
import pytest

from conftest import kiln_only


def seccomp(*rules, default="SCMP_ACT_ALLOW", **more):
    def patch(spec):
        spec["linux"]["seccomp"] = {"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"],
                                    "syscalls": list(rules), **more}
    return patch


def rule(action, *names, args=None, errno=None):
    made = {"names": list(names), "action": action}
    if args is not None:
        made["args"] = args
    if errno is not None:
        made["errnoRet"] = errno
    return made


def arg(index, value, op, two=0):
    return {"index": index, "value": value, "valueTwo": two, "op": op}


def test_errno_default_and_chosen(kiln):
    out = kiln.sh("mkdir /tmp/d 2>&1; chmod 700 /tmp 2>&1; true", seccomp(
        rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat"), rule("SCMP_ACT_ERRNO", "chmod", "fchmodat", errno=38)))
    assert "Operation not permitted" in out and "Function not implemented" in out


@pytest.mark.parametrize("action, code", [("SCMP_ACT_KILL", 159), ("SCMP_ACT_KILL_THREAD", 159),
                                          ("SCMP_ACT_KILL_PROCESS", 159), ("SCMP_ACT_TRAP", 159)])
def test_actions_that_end_the_process(kiln, action, code):
    result = kiln.run(["/bin/sh", "-c", "mkdir /tmp/d; echo $?"], seccomp(rule(action, "mkdir", "mkdirat")))
    assert result.stdout == f"{code}\n"


@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"])
def test_actions_that_let_it_through(kiln, action):
    assert kiln.sh("mkdir /tmp/d; echo $?", seccomp(rule(action, "mkdir", "mkdirat"))) == "0\n"


def test_trace_without_a_tracer_is_enosys(kiln):
    assert "Function not implemented" in kiln.sh("mkdir /tmp/d 2>&1; true",
                                                 seccomp(rule("SCMP_ACT_TRACE", "mkdir", "mkdirat", errno=1)))


def test_default_action_denies_the_rest(kiln):
    """An allow-list that was traced for `echo` of this busybox, without mkdir."""
    names = ["execve", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlinkat", "readlink",
             "getrandom", "brk", "mprotect", "getuid", "geteuid", "getgid", "getegid", "getpid", "getppid", "write",
             "writev", "exit_group", "exit", "prctl", "setuid", "setgid", "setgroups", "setresuid", "setresgid", "capset",
             "capget", "fstat", "newfstatat", "close", "close_range", "read", "fcntl", "futex", "rt_sigaction",
             "rt_sigprocmask", "rt_sigreturn", "fork", "vfork", "clone", "clone3", "wait4", "getcwd", "stat", "lstat",
             "uname", "openat", "open", "ioctl", "mmap", "munmap", "dup2", "sendto", "sendmsg", "recvfrom", "chdir",
             "umask", "epoll_pwait", "nanosleep", "tgkill", "gettid", "sched_yield", "mremap", "madvise", "lseek",
             "getdents64", "epoll_ctl", "epoll_create1", "pipe2", "eventfd2", "sigaltstack", "statx", "faccessat2",
             "access", "faccessat", "fchdir", "fstatfs", "statfs", "setsid", "dup3", "dup"]
    out = kiln.sh("echo works; mkdir /tmp/d 2>/dev/null || echo denied",
                  seccomp(rule("SCMP_ACT_ALLOW", *names), default="SCMP_ACT_ERRNO"))
    assert out == "works\ndenied\n"


@pytest.mark.parametrize("operator, value, two, denied", [
    ("SCMP_CMP_EQ", 5, 0, [5]),
    ("SCMP_CMP_NE", 5, 0, [4, 6]),
    ("SCMP_CMP_LT", 5, 0, [4]),
    ("SCMP_CMP_LE", 5, 0, [4, 5]),
    ("SCMP_CMP_GT", 5, 0, [6]),
    ("SCMP_CMP_GE", 5, 0, [5, 6]),
    ("SCMP_CMP_MASKED_EQ", 4, 4, [4, 5, 6]),
])
def test_argument_operators(kiln, operator, value, two, denied):
    """kill(2)'s second argument: signal numbers 4, 5 and 6 to a process that does not exist."""
    out = kiln.sh("for n in 4 5 6; do kill -$n 99999 2>&1; done; true",
                  seccomp(rule("SCMP_ACT_ERRNO", "kill", args=[arg(1, value, operator, two)], errno=13)))
    lines = out.splitlines()
    assert len(lines) == 3
    for number, line in zip([4, 5, 6], lines):
        assert ("Permission denied" in line) == (number in denied), (number, line)


def test_all_arguments_must_match(kiln):
    out = kiln.sh("kill -5 99999 2>&1; kill -5 99998 2>&1; true", seccomp(
        rule("SCMP_ACT_ERRNO", "kill", args=[arg(0, 99999, "SCMP_CMP_EQ"), arg(1, 5, "SCMP_CMP_EQ")], errno=13)))
    first, second = out.splitlines()
    assert "Permission denied" in first and "Permission denied" not in second


def test_unknown_names_are_skipped(kiln):
    assert kiln.sh("echo fine", seccomp(rule("SCMP_ACT_ERRNO", "no_such_syscall", "mkdir"))) == "fine\n"


def test_filter_is_on_for_exec_too(kiln):
    container = kiln.start_sleeper(seccomp(rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat")))
    assert kiln("exec", container, "mkdir", "/tmp/d").returncode == 1


@kiln_only  # older runc does not know the flag
def test_several_architectures_and_flags(kiln):
    def patch(spec):
        seccomp(rule("SCMP_ACT_ERRNO", "mkdir", "mkdirat"), flags=["SECCOMP_FILTER_FLAG_LOG"])(spec)
        spec["linux"]["seccomp"]["architectures"] = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert kiln.sh("mkdir /tmp/d 2>/dev/null || echo denied; grep Seccomp: /proc/self/status",
                   patch).split() == ["denied", "Seccomp:", "2"]


@kiln_only
@pytest.mark.parametrize("change, message", [
    ({"listenerPath": "/run/x.sock"}, "listenerPath"),
    ({"defaultAction": "SCMP_ACT_NOTIFY"}, "SCMP_ACT_NOTIFY"),
])
def test_notify_is_refused_by_name(kiln, change, message):
    def patch(spec):
        seccomp(rule("SCMP_ACT_ERRNO", "mkdir"))(spec)
        spec["linux"]["seccomp"].update(change)
    result = kiln.run(["true"], patch)
    assert result.returncode == 1 and message in result.stderr
    kiln.assert_clean()
