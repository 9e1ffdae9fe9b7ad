# SPDX-License-Identifier: Apache-2.0
"""Network namespaces that a test makes, and what is in them."""
import json
import pathlib
import subprocess
import uuid


def ip(*args, namespace=None):
    own = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *own, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, f"ip {args}: {done.stderr}"
    return done.stdout


class Namespace:
    """One with a name; gone with close(), whoever is in it."""

    def __init__(self):
        self.name = "kt" + uuid.uuid4().hex[:10]
        self.path = f"/run/netns/{self.name}"
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        self.servers = []

    def ip(self, *args):
        return ip(*args, namespace=self.name)

    def json(self, *args):
        return json.loads(ip("-j", *args, namespace=self.name))

    def links(self):
        return {link["ifname"] for link in self.json("link")}

    def queues(self):
        """Interfaces with an ingress queue: what kiln wires."""
        out = subprocess.run(["tc", "-n", self.name, "qdisc", "show"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, text=True, check=True).stdout
        return {line.split(" dev ")[1].split()[0] for line in out.splitlines() if "ingress" in line}

    def popen(self, *command, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)
        self.servers.append(process)
        return process

    def run(self, *command, check=True, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("timeout", 60)
        return subprocess.run(["ip", "netns", "exec", self.name, *command], text=True, check=check, **options)

    def serve(self, directory, port=80):
        """busybox httpd in it."""
        pathlib.Path(directory, "index.html").write_text(f"from {self.name}\n")
        return self.popen("/bin/busybox", "httpd", "-f", "-p", str(port), "-h", str(directory))

    def close(self):
        for process in self.servers:
            process.kill()
            process.wait()
        ip("netns", "del", self.name)


def connect(one, one_name, other, other_name):
    """A veth pair between two namespaces; both ends up."""
    ip("link", "add", one_name, "netns", one.name, "type", "veth", "peer", "name", other_name, "netns", other.name)
    one.ip("link", "set", one_name, "up")
    other.ip("link", "set", other_name, "up")


def use_namespace(path):
    """A patch of a spec: the container's network namespace is the one at `path`."""
    def patch(spec):
        for entry in spec["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = path
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind] += ["CAP_NET_RAW", "CAP_NET_ADMIN"]
    return patch
