# SPDX-License-Identifier: Apache-2.0
"""nerdctl's ordinary commands, with kiln's shim: its OCI hooks make the network, and its own program writes the logs."""
import json
import os

import pytest

from conftest import BOOT_ID, kiln_only
from engines import go_programs
from engines.engine import eventually, need, settles
from engines.nerdctl import NEEDED, Nerdctl, Nerdctl2
from engines.terminal import Terminal

need(*NEEDED)
pytestmark = kiln_only

SERVICE = """
trap 'echo hangup' HUP
trap 'echo terminated; exit 3' TERM
echo page > /tmp/index.html
httpd -p 80 -h /tmp
echo started with $1
echo to stderr >&2
while :; do sleep 0.1; done
"""
PORT = 8080


def make(kind, tmp_path_factory, rootfs):
    if reason := go_programs.unavailable():
        pytest.skip(reason)
    return kind(tmp_path_factory.mktemp("nerdctl"), rootfs)


@pytest.fixture(scope="module")
def nerdctl(tmp_path_factory, busybox_rootfs):
    engine = make(Nerdctl2, tmp_path_factory, busybox_rootfs)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def service(nerdctl):
    """A running container on the bridge; tests may stop and start it."""
    nerdctl.run("-d", "--name", "service", "--hostname", "guest", "-p", f"{PORT}:80", "--memory", "96m", "busybox", "sh", "-c",
                SERVICE, "sh", "argument")
    eventually(lambda: "started" in nerdctl("logs", "service"))
    return "service"


def page(engine):
    """What the service's published port answers."""
    return engine.inside("wget", "-qO-", "-T5", "-t1", f"http://127.0.0.1:{PORT}/").stdout


# -- in the foreground

def test_flags_of_run(nerdctl):
    shared = nerdctl.directory / "shared"
    shared.mkdir()
    (shared / "file").write_text("of the host\n")
    nerdctl("volume", "create", "named")
    script = """cat; echo $WORD $(id -u) $(pwd); cat /bound/file; echo back > /bound/answer; echo kept > /named/file
        cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max; ulimit -n
        df /dev/shm /scratch | awk 'NR > 1 {print $2}'; grep -E 'CapEff|NoNewPrivs' /proc/self/status | cut -f 2
        cat /proc/sys/kernel/random/boot_id; echo bad >&2; echo > /file; exit 7"""
    done = nerdctl.run(
        "--rm", "-i", "--net", "none", "-e", "WORD=spoken", "-u", "1000:1000", "-w", "/home/user", "-v", f"{shared}:/bound",
        "-v", "named:/named", "--memory", "96m", "--cpus", "0.5", "--pids-limit", "77", "--ulimit", "nofile=99:99",
        "--shm-size", "8m", "--tmpfs", "/scratch:size=1m", "--cap-drop", "ALL", "--cap-add", "DAC_OVERRIDE",
        "--security-opt", "no-new-privileges", "--read-only", "--user", "0", "busybox", "sh", "-c", script,
        check=False, input="typed\n")
    *lines, boot_id = done.stdout.splitlines()
    assert lines == ["typed", "spoken 0 /home/user", "of the host", str(96 << 20), "50000 100000", "77", "99", "8192", "1024",
                     f"{1 << 1:016x}", "1"], done.stderr
    assert done.returncode == 7 and boot_id != BOOT_ID
    assert "bad\n" in done.stderr and "can't create /file: Read-only file system" in done.stderr
    assert (shared / "answer").read_text() == "back\n"
    volume = json.loads(nerdctl("volume", "inspect", "named"))[0]["Mountpoint"]
    assert open(f"{volume}/file", encoding="ascii").read() == "kept\n"


def test_a_terminal_that_is_left_and_attached_again(nerdctl):
    terminal = Terminal(nerdctl.enter(*nerdctl.command("run", "--runtime", nerdctl.runtime_name, "-it", "--name", "typing",
                                                       "--net", "none", "busybox", "sh")), nerdctl.environment)
    terminal.expect("# ")
    terminal.type("tty; stty size; echo set:$((6 * 7))\n")
    terminal.expect("set:42")
    assert "/dev/pts/0" in terminal.text and "33 77" in terminal.text
    terminal.type("\x10\x11")
    assert terminal.wait() == 0
    terminal = Terminal(nerdctl.enter(*nerdctl.command("attach", "typing")), nerdctl.environment)
    terminal.type("echo again:$((6 * 7)); exit 5\n")
    terminal.expect("again:42")
    assert terminal.wait() == 5
    assert nerdctl("wait", "typing") == "5"
    nerdctl("rm", "typing")


def test_what_cannot_start_has_ended_when_that_is_told(nerdctl):
    script = nerdctl.directory / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = nerdctl.run("--name", "failed", "--net", "none", "-v", f"{script}:/script", "busybox", "/script", check=False)
    # Whatever is created is not removed without force.
    assert "Exited" in nerdctl("ps", "--all", "--format", "{{.Status}}")
    assert done.returncode == 1 and "no such file or directory" in done.stderr
    nerdctl("rm", "failed")


# -- a container in the background

def test_logs_have_both_streams(nerdctl, service):
    eventually(lambda: "stderr" in nerdctl("logs", service, check=False).stderr)
    done = nerdctl("logs", service, check=False)
    assert (done.stdout, done.stderr) == ("started with argument\n", "to stderr\n")


def test_logs_are_followed(nerdctl, service):
    following = nerdctl.start("logs", "-f", service)
    try:
        assert following.stdout.readline() == "started with argument\n"
        # `nerdctl kill` would take its network away first, whatever the signal is.
        nerdctl("exec", service, "kill", "-HUP", "1")
        assert following.stdout.readline() == "hangup\n"
    finally:
        following.kill()
        following.communicate()


def test_its_published_port_and_its_names(nerdctl, service):
    eventually(lambda: page(nerdctl) == "page\n")
    assert nerdctl("port", service) == f"80/tcp -> 0.0.0.0:{PORT}"
    address = nerdctl.inspect(service)["NetworkSettings"]["IPAddress"]
    assert f"{address}" in nerdctl("exec", service, "cat", "/etc/hosts")
    assert nerdctl("exec", service, "hostname") == "guest"
    # By the name that nerdctl's hook has written, over the bridge.
    assert "1 packets received" in nerdctl.run("--rm", "busybox", "ping", "-c1", service)


def test_exec(nerdctl, service):
    done = nerdctl("exec", "-i", "-e", "A=b c", "-u", "user", "-w", "/home", service, "sh", "-c",
                   'cat; echo "$A" $(id -un) $(pwd); exit 9', check=False, input="in\n")
    assert done.stdout == "in\nb c user /home\n" and "exit code 9" in done.stderr
    nerdctl("exec", "-d", service, "sh", "-c", "echo detached > /tmp/mark")
    eventually(lambda: nerdctl("exec", service, "cat", "/tmp/mark", check=False).stdout == "detached\n")
    terminal = Terminal(nerdctl.enter(*nerdctl.command("exec", "-it", service, "sh")), nerdctl.environment)
    terminal.expect("# ")
    terminal.type("tty; exit 6\n")
    terminal.expect("/dev/pts/")
    terminal.wait()
    assert "exit code 6" in terminal.text


def test_pause(nerdctl, service):
    nerdctl("pause", service)
    assert nerdctl.inspect(service)["State"]["Status"] == "paused"
    nerdctl("unpause", service)
    assert nerdctl.inspect(service)["State"]["Status"] == "running"
    assert nerdctl("exec", service, "echo", "goes on") == "goes on"


def test_stats_and_top(nerdctl, service):
    stats = json.loads(nerdctl("stats", "--no-stream", "--format", "{{json .}}", service).splitlines()[-1])
    assert stats["Name"] == service and stats["MemUsage"].endswith("/ 96MiB") and int(stats["PIDs"]) >= 2
    assert f" {nerdctl.inspect(service)['State']['Pid']} " in nerdctl("top", service)


def test_update_cp_and_rename(nerdctl, service):
    nerdctl("update", "--memory", "128m", "--pids-limit", "88", service)
    assert nerdctl("exec", service, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/pids.max").split() == \
        [str(128 << 20), "88"]
    (nerdctl.directory / "there").write_text("copied\n")
    nerdctl("cp", nerdctl.directory / "there", f"{service}:/tmp/there")
    assert nerdctl("exec", service, "cat", "/tmp/there") == "copied"
    nerdctl("cp", f"{service}:/tmp/there", nerdctl.directory / "back")
    assert (nerdctl.directory / "back").read_text() == "copied\n"
    nerdctl("rename", service, "other")
    nerdctl("rename", "other", service)


def test_a_commit_can_be_run(nerdctl, service):
    nerdctl("commit", service, "committed")
    assert nerdctl.run("--rm", "--net", "none", "committed", "cat", "/tmp/index.html") == "page"


def test_stop_start_and_remove(nerdctl, service):
    nerdctl("stop", service)
    assert nerdctl("wait", service) == "3"
    assert nerdctl("logs", "--tail", "1", service) == "terminated"
    nerdctl("start", service)
    eventually(lambda: page(nerdctl) == "page\n")
    # Its network is made anew, by its hooks.
    assert len([name for name in nerdctl.interfaces() if name.startswith("veth")]) == 1
    nerdctl("rm", "-f", service)
    assert nerdctl.interfaces() == ["nerdctl0"]
    assert "CNI-DN" not in nerdctl.inside("iptables", "-t", "nat", "-S").stdout


def test_a_container_that_is_always_restarted(nerdctl):
    nerdctl.run("-d", "--name", "restarted", "--restart", "always", "--net", "none", "busybox", "sh", "-c",
                "echo run; exit 4")
    eventually(lambda: nerdctl("logs", "restarted").startswith("run\nrun"), 60)
    nerdctl("rm", "-f", "restarted")
    assert nerdctl("ps", "--all", "--quiet") == ""


def test_nothing_is_left(nerdctl):
    settles(lambda: {key: value for key, value in nerdctl.traces().items() if value}, {})
    assert not [place for place, _, files in os.walk(nerdctl.directory / "nerdctl") if "log-config.json" in files]


def test_with_debians_containerd(tmp_path_factory, busybox_rootfs):
    engine = make(Nerdctl, tmp_path_factory, busybox_rootfs)
    try:
        engine.run("-d", "--name", "old", "-p", f"{PORT}:80", "busybox", "sh", "-c", SERVICE, "sh", "argument")
        eventually(lambda: page(engine) == "page\n")
        assert engine("logs", "old") == "started with argument"
        assert "MiB" in engine("stats", "--no-stream", "old")
        engine("rm", "-f", "old")
        settles(lambda: {key: value for key, value in engine.traces().items() if value}, {})
    finally:
        engine.close()
