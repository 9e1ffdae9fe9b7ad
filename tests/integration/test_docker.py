# SPDX-License-Identifier: Apache-2.0
"""Docker's ordinary commands, with kiln as the daemon's default runtime."""
import json
import os
import re
import select
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import BOOT_ID, cgroups_named, kiln_only
from engines.docker import DOCKER, DOCKERD, Docker
from engines.engine import eventually, need, settles
from engines.terminal import Terminal
from engines.usage import usage

need(DOCKER, DOCKERD, "/usr/sbin/iptables")


@pytest.fixture(scope="module")
def docker(tmp_path_factory, busybox_rootfs):
    engine = Docker(tmp_path_factory.mktemp("docker"), busybox_rootfs)
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
def service(docker):
    """A running container that answers signals; tests may stop and start it."""
    docker.run("-d", "--name", "service", "--network", "none", "busybox", "sh", "-c", SERVICE, "sh", "argument")
    eventually(lambda: "started" in docker("logs", "service"))
    return "service"


# -- in the foreground

def test_input_goes_in_output_comes_out_and_the_code_is_the_containers(docker):
    done = docker.run("--rm", "-i", "--network", "none", "-e", "WORD=spoken", "-u", "1000:1000", "-w", "/home/user",
                      "--entrypoint", "/bin/sh", "--hostname", "guest", "busybox", "-c",
                      "cat; echo $WORD $(id -u) $(pwd) $(hostname); echo bad >&2; exit 7", check=False, input="typed\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "typed\nspoken 1000 /home/user guest\n", "bad\n")


@pytest.mark.parametrize("command, code, words", [
    ("no-such-program", 127, "executable file not found in $PATH"),
    ("/no/such/program", 127, "no such file or directory"),
    ("/etc/passwd", 126, "permission denied"),
])
def test_a_command_that_cannot_run_ends_as_with_runc(docker, command, code, words):
    done = docker.run("--rm", "--network", "none", "busybox", command, check=False)
    assert done.returncode == code and words in done.stderr, done.stderr


def test_an_engines_own_error_is_125(docker):
    assert docker.run("--rm", "--no-such-flag", "busybox", check=False).returncode == 125


def test_a_terminal_has_its_size_and_takes_what_is_typed(docker):
    terminal = Terminal(docker.enter(*docker.command("run", "--rm", "-it", "--network", "none", "busybox", "sh")),
                        docker.environment)
    terminal.expect("# ")
    terminal.type("tty; read word; echo got:$word; stty size; exit 5\n")
    terminal.expect("/dev/pts/0")
    terminal.type("hello\n")
    terminal.expect("got:hello")
    assert terminal.wait() == 5
    assert "33 77" in terminal.text


# -- a container in the background

def test_logs_have_both_streams(docker, service):
    eventually(lambda: "stderr" in docker("logs", service, check=False).stderr)
    done = docker("logs", service, check=False)
    assert (done.stdout, done.stderr) == ("started with argument\n", "to stderr\n")


def test_exec_has_its_own_user_environment_directory_and_code(docker, service):
    done = docker("exec", "-i", "-e", "A=b c", "-u", "user", "-w", "/home", service, "sh", "-c",
                  'cat; echo "$A" $(id -un) $(pwd); exit 9', check=False, input="in\n")
    assert (done.returncode, done.stdout) == (9, "in\nb c user /home\n"), done.stderr


@pytest.mark.parametrize("command, code", [("/no/such", 126), ("/etc/passwd", 126)])
def test_exec_of_what_cannot_run(docker, service, command, code):
    assert docker("exec", service, command, check=False).returncode == code


def test_exec_detached_and_on_a_terminal(docker, service):
    docker("exec", "-d", service, "sh", "-c", "echo detached > /tmp/mark")
    eventually(lambda: docker("exec", service, "cat", "/tmp/mark", check=False).stdout == "detached\n")
    terminal = Terminal(docker.enter(*docker.command("exec", "-it", service, "sh")), docker.environment)
    terminal.expect("# ")
    terminal.type("tty; exit 6\n")
    terminal.expect("/dev/pts/")
    assert terminal.wait() == 6


def test_attach_shows_what_is_written_from_now_on(docker, service):
    attached = docker.start("attach", "--no-stdin", "--sig-proxy=false", service)
    try:
        def shown():
            docker("kill", "-s", "HUP", service)
            return select.select([attached.stdout], [], [], 0.5)[0]
        eventually(shown)
        assert attached.stdout.readline() == "hangup\n"
    finally:
        attached.kill()
        attached.wait()


def test_a_paused_container_stands_still(docker, service):
    docker("exec", "-d", service, "sh", "-c", "while :; do echo >> /tmp/ticks; sleep 0.02; done")
    docker("pause", service)
    assert docker.inspect(service)["State"]["Status"] == "paused"
    ticks = docker.rootfs(service) / "tmp/ticks"
    time.sleep(1.2)  # what the guest had not written back yet
    size = ticks.stat().st_size
    time.sleep(1)
    assert ticks.stat().st_size == size
    docker("unpause", service)
    eventually(lambda: ticks.stat().st_size > size)
    assert docker.inspect(service)["State"]["Status"] == "running"


def test_inspect_says_what_runs(docker, service):
    found = docker.inspect(service)
    assert found["State"]["Running"] and found["HostConfig"]["Runtime"] == "kiln"
    assert os.path.exists(f"/proc/{found['State']['Pid']}")


def test_cp_both_ways_while_it_runs(docker, service):
    source = docker.directory / "source"
    source.write_text("from the host\n")
    docker("exec", service, "sh", "-c", "mkdir -p /data; echo from the guest > /data/guest")
    docker("cp", f"{service}:/data/guest", docker.directory / "copy")
    assert (docker.directory / "copy").read_text() == "from the guest\n"
    docker("cp", source, f"{service}:/data/{docker.mark}")
    assert eventually(lambda: docker("exec", service, "cat", f"/data/{docker.mark}", check=False).stdout) == \
        "from the host\n"


def test_commit_keeps_what_was_written(docker, service):
    docker("exec", service, "sh", "-c", "echo kept > /kept")
    docker("commit", "--change", "ENV FROM=commit", service, "committed")
    assert docker.run("--rm", "--network", "none", "committed", "sh", "-c", "cat /kept; echo $FROM") == "kept\ncommit"


def test_stop_sends_the_signal_and_start_starts_it_again(docker, service):
    docker("stop", "-t", "20", service)
    state = docker.inspect(service)["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 3)
    assert docker("logs", service).endswith("terminated")
    docker("start", service)
    eventually(lambda: docker("logs", service).count("started") == 2)  # it listens to signals
    first = docker.inspect(service)["State"]["Pid"]
    docker("restart", "-t", "20", service)
    state = docker.inspect(service)["State"]
    assert state["Running"] and state["Pid"] != first
    docker("kill", service)
    assert docker("wait", service) == "137"


def test_a_failing_container_is_restarted_as_often_as_asked(docker):
    docker.run("-d", "--name", "failing", "--network", "none", "--restart", "on-failure:1", "busybox", "sh", "-c",
               "echo run; exit 4")
    # The count goes up before the container runs again.
    eventually(lambda: docker("logs", "failing") == "run\nrun", 60)
    eventually(lambda: docker.inspect("failing")["State"]["Status"] == "exited", 60)
    assert docker.inspect("failing")["RestartCount"] == 1
    assert docker.inspect("failing")["State"]["ExitCode"] == 4
    docker("rm", "failing")


# -- what a container is given

SECCOMP = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
           "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}


@pytest.fixture(scope="module")
def furnished(docker):
    """A running container with one of everything that `docker run` can give it; runs a shell script in it."""
    place = docker.directory
    (place / "shared").mkdir()
    (place / "shared/file").write_text("of the host\n")
    (place / "single").write_text("one file\n")
    (place / "seccomp.json").write_text(json.dumps(SECCOMP))
    docker("volume", "create", "named")
    docker.run(
        "-d", "--name", "furnished", "--read-only", "--init", "-v", f"{place}/shared:/shared",
        "-v", f"{place}/single:/etc/single:ro", "-v", "named:/named", "--tmpfs", "/scratch:size=1m",
        "--cap-drop", "all", "--cap-add", "chown", "--cap-add", "net_raw", "--security-opt", f"seccomp={place}/seccomp.json",
        "--ulimit", "nofile=123:456", "--health-cmd", "test -e /named/healthy", "--health-interval", "2s",
        "--health-retries", "1", "--add-host", "elsewhere:192.0.2.7", "--dns", "192.0.2.53", "busybox", "sleep", "1000")
    return lambda script: docker("exec", "furnished", "sh", "-c", script, check=False)


def test_bind_mounts_of_directories_and_files(docker, furnished):
    done = furnished("cat /shared/file /etc/single; echo back > /shared/answer; echo x > /etc/single")
    assert done.stdout == "of the host\none file\n" and "Read-only" in done.stderr
    assert (docker.directory / "shared/answer").read_text() == "back\n"


def test_a_named_volume_outlives_its_container(docker, furnished):
    assert furnished("echo stays > /named/file").returncode == 0
    assert docker.run("--rm", "--network", "none", "-v", "named:/there:ro", "busybox", "cat", "/there/file") == "stays"


def test_the_root_is_read_only_and_tmpfs_has_its_size(furnished):
    assert "Read-only file system" in furnished("echo > /file").stderr
    done = furnished("dd if=/dev/zero of=/scratch/big bs=64k count=32; du -k /scratch/big | cut -f1; rm /scratch/big")
    assert "No space left" in done.stderr and done.stdout == "1024\n"


def test_capabilities_seccomp_and_ulimits(furnished):
    done = furnished("grep CapEff /proc/self/status; mkdir /scratch/d; ulimit -n; ulimit -Hn")
    assert done.stdout.split() == ["CapEff:", f"{1 << 0 | 1 << 13:016x}", "123", "456"]
    assert "Operation not supported" in done.stderr


def test_an_init_is_the_parent_of_the_process(furnished):
    assert furnished("cat /proc/1/comm").stdout == "docker-init\n"
    assert furnished("grep PPid /proc/$(pidof sleep)/status").stdout.split() == ["PPid:", "1"]


def test_host_names_and_resolver_are_the_engines(furnished):
    assert re.search(r"^192\.0\.2\.7\s+elsewhere$", furnished("cat /etc/hosts").stdout, re.M)
    assert "nameserver 192.0.2.53\n" in furnished("cat /etc/resolv.conf").stdout


def test_a_health_check_runs_inside(docker, furnished):
    def health():
        return docker.inspect("furnished")["State"]["Health"]["Status"]
    furnished("rm -f /named/healthy")
    eventually(lambda: health() == "unhealthy")
    assert furnished("echo > /named/healthy").returncode == 0
    eventually(lambda: health() == "healthy")


# -- images

def test_build_runs_its_steps_in_microvms(docker):
    context = docker.directory / "context"
    context.mkdir()
    (context / "added").write_text("added\n")
    (context / "Dockerfile").write_text("""
FROM busybox
COPY added /srv/added
ARG WORD=unsaid
ENV WHO=builder
RUN cat /proc/sys/kernel/random/boot_id > /srv/boot_id && echo $WHO $WORD > /srv/words && rm /bin/vi
USER 1000
WORKDIR /srv
ENTRYPOINT ["sh", "-c"]
""")
    docker("build", "-q", "--network", "none", "--build-arg", "WORD=said", "-t", "built", context)
    out = docker.run("--rm", "--network", "none", "built", "id -u; pwd; cat added words boot_id; test -e /bin/vi || echo gone")
    uid, pwd, added, words, boot_id, gone = out.split("\n")
    assert (uid, pwd, added, words, gone) == ("1000", "/srv", "added", "builder said", "gone")
    assert boot_id != BOOT_ID
    (context / "Dockerfile").write_text("FROM busybox\nRUN exit 23\n")
    failed = docker("build", "--network", "none", context, check=False)
    assert failed.returncode != 0 and "returned a non-zero code: 23" in failed.stderr


# -- networks

@pytest.fixture(scope="module")
def networks(docker):
    docker("network", "create", "--opt", "com.docker.network.driver.mtu=9000", "--ipv6", "--subnet", "fd00:72::/64",
           "--subnet", "172.31.9.0/24", "front")
    docker("network", "create", "back")
    return ["front", "back"]


@pytest.fixture(scope="module")
def server(docker, networks):
    docker.run("-d", "--name", "server", "--hostname", "server", "--network", "front", "-p", "127.0.0.1:8081:80", "busybox",
               "sh", "-c", "echo of $(hostname) > /index.html; exec httpd -f -p 80 -h /")
    eventually(lambda: fetch(docker, "http://127.0.0.1:8081/"))
    return "server"


@pytest.fixture(scope="module")
def client(docker, networks, server):
    docker.run("-d", "--name", "client", "--network", "front", "--memory", "96m", "--cpus", "0.5", "--pids-limit", "40",
               "busybox", "sleep", "1000")
    return lambda script: docker("exec", "client", "sh", "-c", script, check=False)


def fetch(engine, url):
    script = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
    return engine.inside(sys.executable, "-c", script, url).stdout


def address(engine, container, network, family="IPAddress"):
    return engine.inspect(container)["NetworkSettings"]["Networks"][network][family]


def test_a_published_port_is_reached_over_loopback(docker, server):
    assert fetch(docker, "http://127.0.0.1:8081/") == "of server\n"


def test_containers_talk_by_address_and_both_families(docker, client, server):
    assert client(f"wget -qO- http://{address(docker, server, 'front')}/").stdout == "of server\n"
    there = address(docker, server, "front", "GlobalIPv6Address")
    assert client(f"wget -qO- http://[{there}]/").stdout == "of server\n"


def test_containers_find_each_other_by_name(client):
    assert client("wget -qO- http://server/").stdout == "of server\n"


def test_frames_are_as_large_as_the_network_says(docker, client, server):
    assert client("cat /sys/class/net/eth0/mtu").stdout == "9000\n"
    pinged = client(f"ping -c 1 -w 5 -s 8900 {address(docker, server, 'front')}")
    assert "1 packets received" in pinged.stdout and "8908 bytes from" in pinged.stdout


def test_a_network_comes_and_goes_while_it_runs(docker, client, server):
    for container in (server, "client"):
        docker("network", "connect", "back", container)
    there = address(docker, server, "back")
    assert eventually(lambda: client(f"wget -qO- http://{there}/").stdout) == "of server\n"
    docker("network", "disconnect", "back", server)
    eventually(lambda: there not in docker("exec", server, "ip", "addr"))
    assert client(f"wget -qO- http://{address(docker, server, 'front')}/").stdout == "of server\n"


def test_several_networks_from_the_start(docker, networks, client, server):
    docker("create", "--name", "both", "--network", "front", "busybox", "sleep", "1000")
    docker("network", "connect", "back", "both")
    docker("start", "both")
    seen = docker("exec", "both", "ip", "-4", "addr")
    assert all(f" {address(docker, 'both', network)}/" in seen for network in networks)
    assert docker("exec", "both", "wget", "-qO-", f"http://{address(docker, server, 'front')}/") == "of server"


def test_no_network_is_only_loopback(docker, service):
    docker("start", service)
    assert docker("exec", service, "ls", "/sys/class/net") == "lo"


@kiln_only
def test_the_hosts_network_is_refused(docker):
    done = docker.run("--rm", "--network", "host", "busybox", "true", check=False)
    assert done.returncode == 125
    assert "is the host's own" in done.stderr and "network namespace" in done.stderr, done.stderr
    assert docker("ps", "--all", "--quiet", "--filter", "status=created") == ""


@kiln_only  # runc's figures are those of the host's cgroup version
def test_limits_are_set_and_bite(client):
    assert client("cd /sys/fs/cgroup; cat memory.max cpu.max pids.max").stdout.split() == [
        str(96 << 20), "50000", "100000", "40"]
    assert client("dd if=/dev/zero of=/dev/null bs=120M count=1; echo $?").stdout == "137\n"
    forks = client("for i in $(seq 60); do sleep 2 & done")
    assert "can't fork" in forks.stderr


# -- nothing stays

@kiln_only
def test_containers_come_and_go_and_leave_nothing(docker):
    for container in docker("ps", "--all", "--quiet").split():
        docker("rm", "--force", container)

    def one(number):
        done = docker.run("--rm", "busybox", "sh", "-c", f"echo {number}; exit {number}", check=False)
        return done.returncode, done.stdout

    def present():
        # Files of network namespaces stay until dockerd looks for them, once a minute.
        return {"processes": len(docker.processes()), "interfaces": docker.interfaces(), "mounts": docker.mounts(),
                "cgroups": len(cgroups_named(docker.mark)), "states": os.listdir(docker.directory / "exec/runtime-runc/moby")}

    def descriptors():
        return [usage(pid)[0] for pid in (docker.daemon.pid, docker.containerd_pid())]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, range(1, 3)))  # what there is once and for all
    daemons = [docker.daemon.pid, docker.containerd_pid()]
    settles(lambda: sorted(docker.processes()), sorted(daemons))
    before, descriptors_before = present(), descriptors()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(1, 13))) == [(number, f"{number}\n") for number in range(1, 13)]
    settles(present, before)
    # dockerd keeps idle connections, but not one for each of twelve containers.
    eventually(lambda: all(now < then + 6 for now, then in zip(descriptors(), descriptors_before)))
