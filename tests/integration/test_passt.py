# SPDX-License-Identifier: Apache-2.0
"""The network mode passt. The host is a network namespace of the test's, and what it reaches another one."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
import uuid

import pytest

from conftest import BUSYBOX, deadline_in, descendants, kiln_only, read_command

pytestmark = [kiln_only, pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces take root"),
              pytest.mark.skipif(shutil.which("pasta") is None, reason="pasta is not installed")]

OUTSIDE = "10.66.0.1"
NAME_SERVER = pathlib.Path(__file__).with_name("name_server.py")


def ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True)


@pytest.fixture
def world(kiln, tmp_path):
    """Has kiln run in a host whose default route leads to another one, which has a web server."""
    mark = uuid.uuid4().hex[:6]
    host, outside = "kth-" + mark, "kto-" + mark
    servers = []
    for name in (host, outside):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", host, "link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns", outside)
    for name, link, address in ((host, "up0", "10.66.0.2/24"), (outside, "down0", OUTSIDE + "/24")):
        ip("-n", name, "addr", "add", address, "dev", link)
        ip("-n", name, "link", "set", link, "up")
    ip("-n", host, "route", "add", "default", "via", OUTSIDE)
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {OUTSIDE}\n")

    def serve(namespace, *command, **options):
        servers.append(subprocess.Popen(["ip", "netns", "exec", namespace, *map(str, command)], **options))
        return servers[-1]

    def serve_names(namespace, address):
        server = serve(namespace, sys.executable, NAME_SERVER, address, stdout=subprocess.PIPE, text=True)
        assert server.stdout.readline() == "ready\n"

    (tmp_path / "www").mkdir()
    (tmp_path / "www/hello").write_text("hello from outside\n")
    (tmp_path / "www/large").write_bytes(os.urandom(1 << 20) * 8)
    serve(outside, BUSYBOX, "httpd", "-f", "-p", f"{OUTSIDE}:8080", "-h", tmp_path / "www")
    plain = kiln.command
    script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
    kiln.command = lambda *args: ["nsenter", f"--net=/run/netns/{host}", "unshare", "--mount", "sh", "-c", script,
                                  str(resolv_conf), *plain(*args)]
    yield types.SimpleNamespace(host=host, outside=outside, serve=serve, serve_names=serve_names,
                                resolv_conf=resolv_conf, www=tmp_path / "www")
    kiln.close()
    for server in servers:
        server.kill()
        server.wait()
    for name in (host, outside):
        ip("netns", "del", name)


def box(kiln, script, *flags, **options):
    return kiln("box", "--net", *flags, "--", "sh", "-c", script, **options)


def fetch(address, port):
    """A script. Not by wget, which crashes on errors where busybox is static.

    The server ends the connection: Debian 12's pasta repeats what came last, for ever, to a client that half-closes.
    """
    return f"{{ printf 'GET /hello HTTP/1.0\\r\\n\\r\\n'; sleep 2; }} | busybox nc -w 3 {address} {port}"


def allow(kiln):
    kiln.write_config(kiln.config.read_text() + "annotations:\n  allow: [network]\n")


def wants_passt(spec):
    spec["annotations"] = {"io.kiln.network": "passt"}


def host_network(spec):
    """As engines have it for `--network=host`."""
    wants_passt(spec)
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "network"]


def pasta_of(pid):
    return next(child for child in descendants(pid) if read_command(child).startswith("pasta "))


def assert_gone(pid, timeout=10):
    deadline = deadline_in(timeout)
    while read_command(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read_command(pid) == ""


def test_a_box_reaches_what_the_host_reaches(kiln, world):
    result = box(kiln, f"busybox wget -q -O - http://{OUTSIDE}:8080/hello; ip -br -4 addr show eth0", check=True)
    assert result.stdout.startswith("hello from outside\n"), result.stderr
    assert "10.66.0.2/24" in result.stdout
    kiln.assert_clean()


def test_a_box_without_the_flag_reaches_nothing(kiln, world):
    result = kiln("box", "--", "sh", "-c", fetch(OUTSIDE, 8080))
    assert result.returncode != 0 and "hello" not in result.stdout
    assert "unreachable" in result.stderr, result.stderr


def test_megabytes_come_through_whole(kiln, world):
    result = box(kiln, f"busybox wget -q -O - http://{OUTSIDE}:8080/large | sha256sum", check=True)
    whole = subprocess.check_output(["sha256sum", world.www / "large"], text=True)
    assert result.stdout.split()[0] == whole.split()[0]


def test_names_are_looked_up_where_the_host_does(kiln, world):
    world.serve_names(world.outside, OUTSIDE)
    result = box(kiln, "cat /etc/resolv.conf; getent hosts web-10-9-8-7.test", check=True)
    assert result.stdout == f"nameserver {OUTSIDE}\n10.9.8.7        web-10-9-8-7.test\n"


def test_a_name_server_on_the_hosts_loopback_is_reached_too(kiln, world):
    world.serve_names(world.host, "127.0.0.53")
    world.resolv_conf.write_text("nameserver 127.0.0.53\noptions timeout:3\n")
    result = box(kiln, "cat /etc/resolv.conf; getent hosts web-10-9-8-7.test", check=True)
    assert result.stdout == "nameserver 127.0.0.11\noptions timeout:3\n10.9.8.7        web-10-9-8-7.test\n"


def test_the_hosts_loopback_and_its_ports_are_out_of_reach(kiln, world):
    world.serve(world.host, BUSYBOX, "httpd", "-f", "-p", "127.0.0.1:8081", "-h", world.www)
    script = "; ".join(fetch(address, 8081) for address in ("127.0.0.1", "10.66.0.2", OUTSIDE))
    result = box(kiln, f"{script}; {fetch(OUTSIDE, 8080)}", check=True)
    assert result.stdout.count("hello") == 1, result.stdout + result.stderr


def test_nobody_reaches_the_container_from_outside(kiln, world):
    allow(kiln)
    container = kiln.start_sleeper(wants_passt, args=("/bin/sh", "-c", "nc -l -p 7777 & sleep 1000"))
    time.sleep(2.5)  # pasta looks for new ports each second where it forwards them
    listening = subprocess.check_output(["ip", "netns", "exec", world.host, "ss", "-Htln"], text=True)
    assert "777" not in listening
    assert kiln("exec", container, "netstat", "-tln", check=True).stdout.count(":7777") == 1


@pytest.mark.parametrize("patch", [wants_passt, host_network])
def test_a_container_gets_it_by_annotation(kiln, world, patch):
    allow(kiln)
    assert kiln.sh(f"wget -q -O - http://{OUTSIDE}:8080/hello", patch) == "hello from outside\n"
    kiln.assert_clean()


def test_a_container_that_names_the_hosts_namespace_gets_it_by_annotation(kiln, world):
    def patch(spec):
        wants_passt(spec)
        next(e for e in spec["linux"]["namespaces"] if e["type"] == "network")["path"] = f"/run/netns/{world.host}"
    result = kiln.run(["true"], lambda spec: (patch(spec), spec.pop("annotations")))
    assert result.returncode == 1 and "`io.kiln.network: passt`" in result.stderr, result.stderr
    allow(kiln)
    assert kiln.sh(f"wget -q -O - http://{OUTSIDE}:8080/hello", patch) == "hello from outside\n"


def test_an_engines_file_of_a_loopback_name_server_is_corrected(kiln, world, tmp_path):
    """Docker gives a container with the host's network a copy of the host's file."""
    world.serve_names(world.host, "127.0.0.53")
    world.resolv_conf.write_text("nameserver 127.0.0.53\n")
    (tmp_path / "copy").write_text("# of the host\nnameserver 127.0.0.53\n")
    def patch(spec):
        host_network(spec)
        spec["mounts"].append({"destination": "/etc/resolv.conf", "type": "bind", "source": str(tmp_path / "copy"),
                               "options": ["rbind"]})
    allow(kiln)
    out = kiln.sh("cat /etc/resolv.conf; nslookup -type=a web-10-9-8-7.test", patch)
    assert out.startswith("# of the host\nnameserver 127.0.0.11\n") and "Address: 10.9.8.7" in out, out


def test_the_annotation_takes_the_administrators_consent(kiln, world):
    result = kiln.run(["true"], wants_passt)
    assert result.returncode == 1
    assert "annotation `io.kiln.network`: the configuration file does not allow it" in result.stderr
    result = kiln.run(["true"], lambda spec: (host_network(spec), spec.pop("annotations")))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "`io.kiln.network: passt`" in result.stderr, result.stderr
    kiln.assert_clean()


def test_without_pasta_the_error_names_the_package(kiln, world):
    kiln.write_config(kiln.config.read_text() + "network:\n  pasta: /usr/bin/not-there\n")
    result = box(kiln, "true")
    assert result.returncode == 125
    assert "find `/usr/bin/not-there`" in result.stderr and "package passt" in result.stderr
    kiln.assert_clean()


def test_a_host_without_a_network_is_a_clear_error(kiln, world):
    ip("-n", world.host, "link", "set", "up0", "down")
    result = box(kiln, "true")
    assert result.returncode == 125
    assert "pasta" in result.stderr and "it ended with code 1" in result.stderr, result.stderr
    kiln.assert_clean()


@pytest.mark.parametrize("victim", ["monitor", "vm", "fs"])
def test_pasta_ends_with_the_machine(kiln, world, victim):
    allow(kiln)
    container = kiln.start_sleeper(wants_passt)
    monitor = kiln.state(container)["pid"]
    pasta = pasta_of(monitor)
    os.kill(monitor if victim == "monitor" else kiln.helpers(monitor)[victim], signal.SIGKILL)
    assert_gone(pasta)
    assert_gone(monitor)
    kiln("delete", "--force", container, check=True)
    kiln.assert_clean()


def test_the_end_of_pasta_is_said_and_the_container_goes_on(kiln, world):
    allow(kiln)
    container = kiln.start_sleeper(wants_passt)
    monitor = kiln.state(container)["pid"]
    os.kill(pasta_of(monitor), signal.SIGKILL)
    log = kiln.root / container / "log"
    deadline = deadline_in(10)
    while "pasta" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "level=error msg=\"the container's network has ended with pasta: it was killed by signal 9\"" in log.read_text()
    assert kiln("exec", container, "echo", "alive", check=True).stdout == "alive\n"
    kiln("kill", container, "KILL", check=True)
    assert_gone(monitor)
    kiln("delete", container, check=True)
    kiln.assert_clean()
