# SPDX-License-Identifier: Apache-2.0
"""podman's ordinary commands, with kiln as its runtime.

Networks are in test_podman_network.py.
"""
import json
import os
import re
import select
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BOOT_ID, cgroups_named, kiln_only
from engines.engine import eventually, need, settles
from engines.podman import NETAVARK, PODMAN, Podman
from engines.terminal import Terminal

need(PODMAN, NETAVARK)


@pytest.fixture(scope="module")
def podman(tmp_path_factory, busybox_rootfs):
    engine = Podman(tmp_path_factory.mktemp("podman"), busybox_rootfs)
    yield engine
    engine.close()


SERVICE = """
trap 'echo hangup' HUP
trap 'echo terminated; exit 3' TERM
echo started with $1
echo to stderr >&2
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def service(podman):
    """A running container that answers signals; tests may stop and start it."""
    podman.run("-d", "--name", "service", "--network", "none", "busybox", "sh", "-c", SERVICE, "sh", "argument")
    eventually(lambda: "started" in podman("logs", "service"))
    return "service"


# -- in the foreground

def test_input_goes_in_output_comes_out_and_the_code_is_the_containers(podman):
    podman("secret", "create", "whisper", "-", input="hush")
    done = podman.run("--rm", "-i", "--network", "none", "-e", "WORD=spoken", "-u", "1000:1000", "-w", "/home/user",
                      "--entrypoint", "/bin/sh", "--hostname", "guest", "--secret", "whisper,uid=1000", "busybox", "-c",
                      "cat; echo $WORD $(id -u) $(pwd) $(hostname) $(cat /run/secrets/whisper); echo bad >&2; exit 7",
                      check=False, input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\nspoken 1000 /home/user guest hush\n", "bad\n")


@pytest.mark.parametrize("command, code, words", [
    (["/no/such/program"], 127, "no such file or directory"),
    (["/etc/passwd"], 126, "permission denied"),
])
def test_a_command_that_cannot_run_ends_as_with_runc(podman, command, code, words):
    done = podman.run("--rm", "--network", "none", "busybox", *command, check=False)
    assert done.returncode == code and words in done.stderr.lower(), done.stderr


def test_an_engines_own_error_is_125(podman):
    assert podman.run("--rm", "--no-such-flag", "busybox", check=False).returncode == 125


def test_a_terminal_has_its_size_and_takes_what_is_typed(podman):
    terminal = Terminal(podman.enter(*podman.command("run", "--rm", "-it", "--network", "none", "busybox", "sh")),
                        podman.environment)
    terminal.expect("# ")
    terminal.type("stty size; tty; read word; echo got:$word; exit 5\n")
    assert "/dev/pts/0" in terminal.expect("/dev/pts/0")
    terminal.type("hello\n")
    terminal.expect("got:hello")
    assert terminal.wait() == 5
    assert "33 77" in terminal.text


# -- a container in the background

def test_logs_have_both_streams(podman, service):
    eventually(lambda: "stderr" in podman("logs", service, check=False).stderr)
    done = podman("logs", service, check=False)
    assert (done.stdout, done.stderr) == ("started with argument\n", "to stderr\n")


def test_exec_has_its_own_user_environment_directory_and_code(podman, service):
    done = podman("exec", "-i", "-e", "A=b c", "-u", "user", "-w", "/home", service, "sh", "-c",
                  'cat; echo "$A" $(id -un) $(pwd); exit 9', check=False, input="in\n")
    assert (done.returncode, done.stdout) == (9, "in\nb c user /home\n"), done.stderr


@pytest.mark.parametrize("command, code", [(["/no/such"], 127), (["/etc/passwd"], 126)])
def test_exec_of_what_cannot_run(podman, service, command, code):
    assert podman("exec", service, *command, check=False).returncode == code


def test_exec_detached(podman, service):
    podman("exec", "-d", service, "sh", "-c", "echo detached > /tmp/mark")
    eventually(lambda: podman("exec", service, "cat", "/tmp/mark", check=False).stdout == "detached\n")


def test_exec_on_a_terminal(podman, service):
    terminal = Terminal(podman.enter(*podman.command("exec", "-it", service, "sh")), podman.environment)
    terminal.expect("# ")
    terminal.type("tty; exit 6\n")
    terminal.expect("/dev/pts/")
    assert terminal.wait() == 6


def test_attach_shows_what_is_written_from_now_on(podman, service):
    attached = podman.start("attach", "--sig-proxy=false", service)
    try:
        def shown():
            podman("kill", "-s", "HUP", service)
            return select.select([attached.stdout], [], [], 0.5)[0]
        eventually(shown)
        assert attached.stdout.readline() == "hangup\n"
    finally:
        attached.kill()
        attached.wait()


def test_a_paused_container_stands_still(podman, service):
    podman("exec", "-d", service, "sh", "-c", "while :; do echo >> /tmp/ticks; sleep 0.02; done")
    podman("pause", service)
    assert podman.inspect(service)["State"]["Status"] == "paused"
    ticks = podman.rootfs(service) / "tmp/ticks"
    time.sleep(1.2)  # what the guest had not written back yet
    size = ticks.stat().st_size
    time.sleep(1)
    assert ticks.stat().st_size == size
    podman("unpause", service)
    eventually(lambda: ticks.stat().st_size > size)
    assert podman.inspect(service)["State"]["Status"] == "running"


def test_stats_name_the_container_and_its_memory(podman, service):
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", service))[0]
    assert stats["name"] == service
    assert re.match(r"[1-9][0-9.]*[kMG]?B / ", stats["mem_usage"]), stats


def test_top_with_ps_flags_shows_the_containers_processes(podman, service):
    shown = podman("top", service, "-o", "pid,args").splitlines()
    assert shown[0].split() == ["PID", "COMMAND"]
    assert any(line.split()[0] == "1" and "started with" in line for line in shown[1:]), shown
    assert not any("kiln" in line or "kthreadd" in line for line in shown)


def test_inspect_says_what_runs(podman, service):
    found = podman.inspect(service)
    assert found["State"]["Running"] and found["OCIRuntime"] == str(podman.runtime)
    assert os.path.exists(f"/proc/{found['State']['Pid']}")


def test_cp_both_ways_while_it_runs(podman, service):
    source = podman.directory / "source"
    source.write_text("from the host\n")
    podman("exec", service, "sh", "-c", "mkdir -p /data; echo from the guest > /data/guest")
    podman("cp", f"{service}:/data/guest", podman.directory / "copy")
    assert (podman.directory / "copy").read_text() == "from the guest\n"
    podman("cp", source, f"{service}:/data/{podman.mark}")
    assert eventually(lambda: podman("exec", service, "cat", f"/data/{podman.mark}", check=False).stdout) == \
        "from the host\n"


def test_commit_keeps_what_was_written(podman, service):
    podman("exec", service, "sh", "-c", "echo kept > /kept")
    podman("commit", "-q", "--pause=false", "--change", "ENV FROM=commit", service, "committed")
    assert podman.run("--rm", "--network", "none", "committed", "sh", "-c", "cat /kept; echo $FROM") == "kept\ncommit"


def test_stop_sends_the_signal_and_start_starts_it_again(podman, service):
    podman("stop", "-t", "20", service)
    state = podman.inspect(service)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 3)
    assert podman("logs", service).endswith("terminated")
    podman("start", service)
    eventually(lambda: podman("logs", service).count("started") == 2)  # it listens to signals
    first = podman.inspect(service)["State"]["Pid"]
    podman("restart", "-t", "20", service)
    state = podman.inspect(service)["State"]
    assert state["Running"] and state["Pid"] != first
    podman("kill", service)
    assert podman("wait", service) == "137"


def test_stop_kills_who_does_not_listen(podman):
    podman.run("-d", "--name", "deaf", "--network", "none", "busybox", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    begin = time.monotonic()
    podman("stop", "-t", "1", "deaf")
    assert time.monotonic() - begin > 1
    assert podman.inspect("deaf")["State"]["ExitCode"] == 137
    podman("rm", "deaf")


def test_a_failing_container_is_restarted_as_often_as_asked(podman):
    podman.run("-d", "--name", "failing", "--network", "none", "--restart", "on-failure:1", "busybox", "sh", "-c",
               "echo run; exit 4")
    eventually(lambda: podman.inspect("failing")["State"]["Status"] == "exited" and
               podman.inspect("failing")["RestartCount"] == 1, 60)
    assert podman("logs", "failing") == "run\nrun"
    assert podman.inspect("failing")["State"]["ExitCode"] == 4
    podman("rm", "failing")


# -- what a container is given

SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
           "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}


@pytest.fixture(scope="module")
def furnished(podman):
    """A running container with one of everything that `podman run` can give it."""
    place = podman.directory
    (place / "shared").mkdir()
    (place / "shared/file").write_text("of the host\n")
    (place / "single").write_text("one file\n")
    (place / "seccomp.json").write_text(json.dumps(SECCOMP))
    podman("volume", "create", "named")
    podman.run(
        "-d", "--name", "furnished", "--read-only", "--init", "--init-path", "/usr/bin/tini-static",
        "-v", f"{place}/shared:/shared", "-v", f"{place}/single:/etc/single:ro", "-v", "named:/named",
        "--tmpfs", "/scratch:size=1m", "--cap-drop", "all", "--cap-add", "chown,net_raw",
        "--security-opt", f"seccomp={place}/seccomp.json", "--ulimit", "nofile=123:456", "--memory", "96m",
        "--cpus", "0.5", "--pids-limit", "40", "--health-cmd", "test -e /named/healthy", "--health-interval", "disable",
        "--health-retries", "1", "--add-host", "elsewhere:192.0.2.7", "--dns", "192.0.2.53", "busybox", "sleep", "1000")
    return lambda script: podman("exec", "furnished", "sh", "-c", script, check=False)


def test_bind_mounts_of_directories_and_files(podman, furnished):
    done = furnished("cat /shared/file /etc/single; echo back > /shared/answer; echo x > /etc/single")
    assert done.stdout == "of the host\none file\n" and "Read-only" in done.stderr
    assert (podman.directory / "shared/answer").read_text() == "back\n"


def test_a_named_volume_outlives_its_container(podman, furnished):
    assert furnished("echo stays > /named/file").returncode == 0
    assert podman.run("--rm", "--network", "none", "-v", "named:/there:ro", "busybox", "cat", "/there/file") == "stays"


def test_the_root_is_read_only_and_tmpfs_has_its_size(furnished):
    assert "Read-only file system" in furnished("echo > /file").stderr
    done = furnished("dd if=/dev/zero of=/scratch/big bs=64k count=32; du -k /scratch/big | cut -f1; rm /scratch/big")
    assert "No space left" in done.stderr and done.stdout == "1024\n"


def test_capabilities_seccomp_and_ulimits(furnished):
    done = furnished("grep CapEff /proc/self/status; mkdir /scratch/d; ulimit -n; ulimit -Hn")
    assert done.stdout.split() == ["CapEff:", f"{1 << 0 | 1 << 13:016x}", "123", "456"]
    assert "Operation not supported" in done.stderr


def test_an_init_reaps_and_the_process_is_its_child(furnished):
    assert furnished("cat /proc/1/comm").stdout == "podman-init\n"
    assert furnished("grep PPid /proc/$(pidof sleep)/status").stdout.split() == ["PPid:", "1"]


def test_host_names_and_resolver_are_the_engines(furnished):
    assert re.search(r"^192\.0\.2\.7\s+elsewhere$", furnished("cat /etc/hosts").stdout, re.M)
    assert furnished("cat /etc/resolv.conf").stdout == "nameserver 192.0.2.53\n"


def test_a_health_check_runs_inside(podman, furnished):
    assert podman("healthcheck", "run", "furnished", check=False).returncode == 1
    assert furnished("echo > /named/healthy").returncode == 0
    assert podman("healthcheck", "run", "furnished", check=False).returncode == 0
    assert podman.inspect("furnished")["State"]["Health"]["Status"] == "healthy"


@kiln_only  # runc's figures are those of the host's cgroup version
def test_limits_are_set_and_bite(furnished):
    assert furnished("cd /sys/fs/cgroup; cat memory.max cpu.max pids.max").stdout.split() == [
        str(96 << 20), "50000", "100000", "40"]
    assert furnished("dd if=/dev/zero of=/dev/null bs=120M count=1; echo $?").stdout == "137\n"
    forks = furnished("for i in $(seq 60); do sleep 2 & done")
    assert "can't fork" in forks.stderr


# -- images

def test_build_runs_its_steps_in_microvms(podman):
    context = podman.directory / "context"
    context.mkdir()
    (context / "added").write_text("added\n")
    (context / "Containerfile").write_text("""
FROM busybox
COPY added /srv/added
ARG WORD=unsaid
ENV WHO=builder
RUN cat /proc/sys/kernel/random/boot_id > /srv/boot_id && echo $WHO $WORD > /srv/words && rm /bin/vi
USER 1000
WORKDIR /srv
ENTRYPOINT ["sh", "-c"]
""")
    podman("build", "-q", "--network", "none", "--build-arg", "WORD=said", "-t", "built", context)
    out = podman.run("--rm", "--network", "none", "built", "id -u; pwd; cat added words boot_id; test -e /bin/vi || echo gone")
    uid, pwd, added, words, boot_id, gone = out.split("\n")
    assert (uid, pwd, added, words, gone) == ("1000", "/srv", "added", "builder said", "gone")
    assert boot_id != BOOT_ID
    (context / "Containerfile").write_text("FROM busybox\nRUN exit 23\n")
    failed = podman("build", "--network", "none", context, check=False)
    assert failed.returncode != 0 and "exit status 23" in failed.stderr
    podman("rmi", "built")


# -- nothing stays

def usage(pid):
    """(open descriptors, PSS in KiB) of a process."""
    pss = re.search(r"^Pss:\s+(\d+) kB", open(f"/proc/{pid}/smaps_rollup", encoding="ascii").read(), re.M)
    return len(os.listdir(f"/proc/{pid}/fd")), int(pss[1])


@kiln_only
def test_fifty_containers_come_and_go_and_leave_nothing(podman):
    podman("rm", "--all", "--force", "--time", "0")
    podman.run("-d", "--name", "bystander", "busybox", "sleep", "1000")
    pid = podman.inspect("bystander")["State"]["Pid"]

    def one(number):
        done = podman.run("--rm", "--name", f"n{number}", "busybox", "sh", "-c", f"echo {number}; exit {number}", check=False)
        assert done.returncode == number, f"{number}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def present():
        return {"processes": sorted(command.split(" ")[0] for command in podman.processes().values()),
                "interfaces": podman.interfaces(), "mounts": len(podman.mounts()), "cgroups": len(cgroups_named(podman.mark)),
                "namespaces": sorted(os.listdir(podman.path("/run/netns"))),
                "states": sorted(os.listdir(podman.path("/run/kiln"))), "shm": sorted(os.listdir(podman.path("/dev/shm")))}

    podman.run("--rm", "busybox", "true")  # what there is once and for all
    before, usage_before = present(), usage(pid)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(1, 51))) == [f"{number}\n" for number in range(1, 51)]
    settles(present, before)
    descriptors, memory = usage(pid)
    assert descriptors <= usage_before[0] and memory <= usage_before[1] + 512
    podman("rm", "--force", "--time", "0", "bystander")
    settles(podman.processes, {})
    assert podman.interfaces() == [] and podman.mounts() == []
    assert os.listdir(podman.path("/run/kiln")) == []


# -- pods

def test_a_pod_is_one_machine_and_its_containers_live_for_themselves(podman):
    podman("pod", "create", "--cgroup-parent", f"/{podman.mark}", "--name", "pod", "--network", "none")
    serve = "mkdir -p /www; echo from the pod > /www/index.html; exec httpd -f -p 80 -h /www"
    podman("run", "-d", "--pod", "pod", "--name", "server", "busybox", "sh", "-c", serve)
    podman("run", "-d", "--pod", "pod", "--name", "watcher", "busybox", "sleep", "1000")
    ask = "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://127.0.0.1/ && break; sleep 0.3; done; cat /proc/sys/kernel/random/boot_id; exit 9"
    done = podman("run", "--rm", "--pod", "pod", "busybox", "sh", "-c", ask, check=False)
    assert done.returncode == 9
    text, boot_id = done.stdout.splitlines()
    assert text == "from the pod" and boot_id != BOOT_ID
    look = ("cat", "/proc/sys/kernel/random/boot_id")
    assert podman("exec", "watcher", *look).strip() == boot_id
    podman("restart", "-t", "0", "server")
    again = eventually(lambda: podman("exec", "watcher", "wget", "-qO-", "http://127.0.0.1/", check=False).stdout)
    assert again == "from the pod\n"
    assert podman("exec", "watcher", *look).strip() == boot_id
    podman("pod", "rm", "--force", "--time", "0", "pod")
