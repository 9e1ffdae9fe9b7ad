# SPDX-License-Identifier: Apache-2.0
"""podman's networks (netavark, aardvark-dns) with kiln as its runtime, and a web server under load."""
import json
import subprocess
import sys

import pytest

from conftest import kiln_only
from debian import debian_rootfs
from engines import load
from engines.engine import eventually, need, settles
from engines.podman import AARDVARK, NETAVARK, PODMAN, Podman

need(PODMAN, NETAVARK, AARDVARK)

SERVER = """
echo of $(hostname) > /index.html
exec httpd -f -p 80 -h /
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory, busybox_rootfs):
    engine = Podman(tmp_path_factory.mktemp("podman"), busybox_rootfs)
    engine("network", "create", "--subnet", "10.71.1.0/24", "--subnet", "fd00:71::/64", "--ipv6",
           "--opt", "mtu=9000", "front")
    engine("network", "create", "--subnet", "10.71.2.0/24", "back")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def server(podman):
    podman.run("-d", "--name", "server", "--hostname", "server", "--network", "front", "-p", "127.0.0.1:8080:80",
               "busybox", "sh", "-c", SERVER)
    eventually(lambda: fetch(podman, "http://127.0.0.1:8080/"))
    return "server"


@pytest.fixture(scope="module")
def client(podman, server):
    """On both networks from the start; runs a shell script in it, and returns what it prints."""
    podman.run("-d", "--name", "client", "--network", "front", "--network", "back", "busybox", "sleep", "1000")
    return lambda script: podman("exec", "client", "sh", "-c", script, check=False)


def fetch(engine, url):
    script = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"
    return engine.inside(sys.executable, "-c", script, url).stdout


def address(engine, container, network, family="IPAddress"):
    return engine.inspect(container)["NetworkSettings"]["Networks"][network][family]


def test_a_published_port_is_reached_over_loopback(podman, server):
    assert fetch(podman, "http://127.0.0.1:8080/") == "of server\n"


def test_its_own_address_is_reached_from_the_host_by_both_families(podman, server):
    assert fetch(podman, f"http://{address(podman, server, 'front')}/") == "of server\n"
    assert fetch(podman, f"http://[{address(podman, server, 'front', 'GlobalIPv6Address')}]/") == "of server\n"


def test_containers_find_each_other_by_name(client):
    assert client("wget -qO- http://server/").stdout == "of server\n"
    # Of the front network's resolver: which one is the first in resolv.conf is podman's whim.
    assert "fd00:71::" in client("nslookup -type=aaaa server 10.71.1.1").stdout


def test_frames_are_as_large_as_the_network_says(podman, client, server):
    assert client("cat /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu").stdout == "9000\n1500\n"
    pinged = client(f"ping -c 1 -w 5 -s 8900 {address(podman, server, 'front')}")
    assert "1 packets received" in pinged.stdout and "8908 bytes from" in pinged.stdout


def test_several_networks_at_once(podman, client):
    found = client("ip -4 -o addr show | awk '{print $4}'").stdout.split()
    assert found[0] == "127.0.0.1/8"
    assert sorted(found[1:]) == sorted(f"{address(podman, 'client', name)}/24" for name in ("front", "back"))


def test_a_network_comes_and_goes_while_it_runs(podman, client, server):
    podman("network", "connect", "back", server)
    there = address(podman, server, "back")
    assert eventually(lambda: client(f"wget -qO- http://{there}/").stdout) == "of server\n"
    podman("network", "disconnect", "back", server)
    eventually(lambda: there not in podman("exec", server, "ip", "addr"))
    assert client("wget -qO- http://server/").stdout == "of server\n"


def test_no_network_is_only_loopback(podman):
    out = podman.run("--rm", "--network", "none", "busybox", "sh", "-c", "ls /sys/class/net; ping -c 1 -w 5 127.0.0.1")
    assert out.startswith("lo\n") and "1 packets received" in out


@kiln_only
def test_the_hosts_network_is_refused(podman):
    done = podman.run("--rm", "--network", "host", "busybox", "true", check=False)
    assert done.returncode == 126
    last = done.stderr.strip().splitlines()[-1]
    assert "network" in last and "namespace" in last, done.stderr
    assert podman("ps", "--all", "--quiet", "--filter", "status=created") == ""


ECHO = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("", 5300))
while True:
    data, peer = server.recvfrom(2000)
    server.sendto(data[::-1], peer)
"""

ASK = """
import socket, sys
client = socket.socket(type=socket.SOCK_DGRAM)
client.settimeout(5)
client.sendto(b"abc", (sys.argv[1], int(sys.argv[2])))
sys.stdout.write(client.recv(100).decode())
"""


@pytest.fixture(scope="module")
def nginx(podman):
    """The address of a container with Debian's nginx and python3."""
    rootfs = podman.directory / "nginx"
    subprocess.run(["cp", "--archive", debian_rootfs(["python3-minimal", "nginx-light"]), rootfs], check=True)
    (rootfs / "var/www/html/index.html").write_text("a page\n")
    (rootfs / "etc/nginx/conf.d/test.conf").write_text("keepalive_requests 1000000;\n")
    podman.run("-d", "--name", "nginx", "--network", "front", "-p", "5353:5300/udp", "--rootfs", rootfs, "nginx", "-g",
               "daemon off;")
    yield address(podman, "nginx", "front")
    podman("rm", "--force", "--time", "0", "nginx")


def test_udp_goes_in_and_comes_back(podman, nginx):
    podman("exec", "-d", "nginx", "python3", "-c", ECHO)
    for place in ((nginx, 5300), ("127.0.0.1", 5353)):
        eventually(lambda place=place: podman.inside(sys.executable, "-c", ASK, *place).stdout == "cba")


def test_nginx_answers_ten_thousand_requests(podman, nginx):
    eventually(lambda: fetch(podman, f"http://{nginx}/"), 60)
    done = podman.inside(sys.executable, load.__file__, nginx, "80", "10000", "4", timeout=240)
    assert (done.returncode, done.stdout) == (0, "10000 answered, 4 connections\n"), done.stderr


def test_nothing_of_the_networks_is_left(podman, server, client):
    podman("rm", "--all", "--force", "--time", "0")
    podman("network", "rm", "front", "back")
    assert podman.interfaces() == []
    assert json.loads(podman.inside("ip", "-json", "rule", check=True).stdout)
    rules = podman.inside("iptables-save", check=True).stdout + podman.inside("ip6tables-save", check=True).stdout
    assert "10.71." not in rules and "fd00:71" not in rules
    settles(podman.processes, {})
