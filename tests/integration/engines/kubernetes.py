# SPDX-License-Identifier: Apache-2.0
"""A cluster of one node, of Kubernetes' own programs: etcd, kube-apiserver, kube-controller-manager, kube-scheduler and a
kubelet over the containerd of engines/cri.py, in that one's namespaces.

It has a runtime handler `kiln`, RuntimeClass and node label as docs/kubernetes.md says, one account that may do
everything, and no DNS. Services reach as far as the API's own address.
"""
import json
import os
import pathlib
import signal
import subprocess

import yaml

from conftest import TOP
from engines import go_programs
from engines.cri import Cri
from engines.cri_images import IMAGE
from engines.engine import eventually

NODE = "node-1"
ADDRESS = "10.99.0.1"
API_PORT = 6443
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
TOKEN = "everything"
MANIFESTS = TOP / "packaging/kubernetes"
# What docs/kubernetes.md says for QEMU's emulation.
OVERHEAD_EMULATED = "640Mi"

# A kubelet sets these for the whole machine; what it then finds is what it would have written.
TUNABLES = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1"}

SETUP = f"""set -e
mount -t tmpfs tmpfs /var/log
mkdir -p /run/containerd  # where the kubelet's cAdvisor looks for it
ln -s "$PWD/containerd.sock" /run/containerd/containerd.sock
for name in {' '.join(TUNABLES)}; do mount --bind "$PWD/sysctl/$name" /proc/sys/$name; done
ip link add node0 type bridge
ip address add {ADDRESS}/24 dev node0
ip link set node0 up
for chain in PREROUTING OUTPUT; do
  iptables -t nat -A $chain -d {API_SERVICE} -p tcp --dport 443 -j DNAT --to-destination {ADDRESS}:{API_PORT}
done
"""

CERTIFICATES = f"""set -e
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt
openssl req -newkey rsa:2048 -nodes -subj /CN=apiserver -keyout api.key -out api.csr
printf 'subjectAltName=IP:127.0.0.1,IP:{ADDRESS},IP:{API_SERVICE},DNS:kubernetes.default.svc\\n' > api.ext
openssl x509 -req -in api.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile api.ext -out api.crt
openssl genrsa -out accounts.key 2048
openssl rsa -in accounts.key -pubout -out accounts.pub
"""

KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}", certificate-authority: {place}/pki/ca.crt}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: x, context: {{cluster: c, user: u}}}}]
current-context: x
"""


def kubelet_configuration(place, root, feature_gates):
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs", "cgroupRoot": root, "failCgroupV1": False, "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{place}/containerd.sock",
        "podLogsDir": f"{place}/pod-logs", "volumePluginDir": f"{place}/volume-plugins", "resolvConf": "",
        "makeIPTablesUtilChains": False, "oomScoreAdj": 0, "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "syncFrequency": "5s", "configMapAndSecretChangeDetectionStrategy": "Watch",
        "volumeStatsAggPeriod": "5s", "featureGates": feature_gates,
    }


class Kubernetes(Cri):
    """`kubectl(...)` is its command line; `self(...)` is crictl, as of Cri."""

    def __init__(self, directory, feature_gates=None):
        self.feature_gates = feature_gates or {}
        self.cgroup_root = None
        super().__init__(directory, "2")
        try:
            self._start_cluster()
        except BaseException:
            self.close()
            raise

    def _start_cluster(self):
        self._prepare()
        place = self.directory
        connect = f"--kubeconfig={place}/kubeconfig"
        self._serve("etcd", "--data-dir", place / "etcd", "--listen-client-urls", "http://127.0.0.1:2379",
                    "--advertise-client-urls", "http://127.0.0.1:2379", "--listen-peer-urls", "http://127.0.0.1:2380",
                    "--unsafe-no-fsync")
        pki = place / "pki"
        self._serve("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--secure-port={API_PORT}",
                    f"--advertise-address={ADDRESS}", f"--service-cluster-ip-range={SERVICES}",
                    f"--tls-cert-file={pki}/api.crt", f"--tls-private-key-file={pki}/api.key", f"--cert-dir={pki}",
                    f"--token-auth-file={pki}/tokens", "--authorization-mode=RBAC", "--allow-privileged=true",
                    "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={pki}/accounts.pub",
                    f"--service-account-signing-key-file={pki}/accounts.key",
                    "--kubelet-preferred-address-types=InternalIP")
        eventually(lambda: self.kubectl("get", "--raw=/readyz", check=False).returncode == 0, 120, 0.5)
        self._serve("kube-controller-manager", connect, f"--root-ca-file={pki}/ca.crt", "--leader-elect=false",
                    f"--service-account-private-key-file={pki}/accounts.key", "--use-service-account-credentials=false")
        self._serve("kube-scheduler", connect, "--leader-elect=false")
        self.kubelet = self.start_kubelet()
        eventually(self.node_is_ready, 120, 0.5)
        self.kubectl("label", "node", NODE, "kiln.io/runtime=true")
        self.apply(self.runtime_class())
        eventually(lambda: self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0, 60, 0.5)

    def _prepare(self):
        for name, value in TUNABLES.items():
            path = self.directory / "sysctl" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{value}\n")
        (self.directory / "pki").mkdir()
        subprocess.run(["sh", "-c", CERTIFICATES], cwd=self.directory / "pki", check=True, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        (self.directory / "pki/tokens").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        (self.directory / "kubeconfig").write_text(KUBECONFIG.format(port=API_PORT, place=self.directory, token=TOKEN))
        self.cgroup_root = f"/{self.mark}"
        for path in self._cgroups():
            path.mkdir()
        self.write_kubelet_configuration()
        self.inside("sh", "-c", SETUP, check=True)
        self.first_mounts |= set(self.mounts())

    def write_kubelet_configuration(self):
        (self.directory / "kubelet.yaml").write_text(
            json.dumps(kubelet_configuration(self.directory, self.cgroup_root, self.feature_gates)))

    def _cgroups(self):
        """The node's own cgroup in each hierarchy."""
        return [path / self.mark for path in pathlib.Path("/sys/fs/cgroup").iterdir()
                if path.is_dir() and not path.is_symlink() and (path / "cgroup.procs").exists()]

    def _serve(self, name, *args):
        daemon = self._daemon(name, go_programs.program(name), *args)
        self.daemons.append(daemon)
        return daemon

    def start_kubelet(self):
        place = self.directory
        return self._serve("kubelet", f"--config={place}/kubelet.yaml", f"--kubeconfig={place}/kubeconfig",
                           f"--root-dir={place}/kubelet", f"--cert-dir={place}/kubelet-pki", f"--hostname-override={NODE}",
                           f"--node-ip={ADDRESS}")

    def restart_kubelet(self, sent=signal.SIGKILL):
        self.kubelet.send_signal(sent)
        self.kubelet.wait(timeout=30)
        self.daemons.remove(self.kubelet)
        self.kubelet = self.start_kubelet()

    def restart_containerd(self, sent=signal.SIGKILL):
        self.daemons[1].send_signal(sent)
        self.daemons[1].wait(timeout=30)
        self.daemons[1] = self._daemon("containerd", self.containerd, "--config", self.directory / "config.toml")
        eventually(self.is_ready)

    def runtime_class(self):
        found, = [part for part in yaml.safe_load_all((MANIFESTS / "kiln.yaml").read_text())
                  if part and part["kind"] == "RuntimeClass"]
        found["overhead"]["podFixed"]["memory"] = OVERHEAD_EMULATED
        return found

    def node_is_ready(self):
        done = self.kubectl("get", "node", NODE, "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}', check=False)
        return done.returncode == 0 and done.stdout == "True"

    # -- as an administrator

    def kubectl_command(self, *args):
        return [str(go_programs.program("kubectl")), f"--kubeconfig={self.directory}/kubeconfig",
                f"--cache-dir={self.directory}/kubectl", *map(str, args)]

    def kubectl(self, *args, check=True, **options):
        """Its output, or the finished process (check=False)."""
        done = self.inside(*self.kubectl_command(*args), check=check, **options)
        return done.stdout.rstrip("\n") if check else done

    def start_kubectl(self, *args, **options):
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        return subprocess.Popen(self.enter(*self.kubectl_command(*args)), env=self.environment, text=True, **options)

    def apply(self, *objects):
        self.kubectl("apply", "-f", "-", input="---\n".join(json.dumps(one) + "\n" for one in objects))

    def get(self, kind, name):
        return json.loads(self.kubectl("get", kind, name, "-o", "json"))

    def exec(self, pod, *args, container=None, check=True, **options):
        own = ["-c", container] if container else []
        return self.kubectl("exec", pod, *own, "--", *args, check=check, **options)

    def pod(self, name, *containers, **spec):
        """A pod's object; `containers` are changes of a container that sleeps."""
        made = [{"name": f"c{number}", "image": IMAGE, "command": ["sleep", "100000"],
                 "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "50m"}}, **change}
                for number, change in enumerate(containers or ({},))]
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {"runtimeClassName": "kiln", "terminationGracePeriodSeconds": 2, "containers": made, **spec}}

    def run(self, *args, **kwargs):
        """Applies `pod(...)`; its name once it is ready."""
        made = self.pod(*args, **kwargs)
        self.apply(made)
        return self.wait_ready(made["metadata"]["name"])

    def wait_ready(self, name, seconds=90):
        done = self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={seconds}s", check=False)
        assert done.returncode == 0, done.stderr + self.kubectl("describe", "pod", name)
        return name

    def present(self):
        """What is there of pods, and of what serves them."""
        cgroups = [below for path in self._cgroups() for below, _, _ in os.walk(path)]
        return {"processes": sorted(self.processes().values()), "mounts": self.mounts(), "cgroups": sorted(cgroups),
                "sandboxes": self("pods", "--quiet"), "volumes": sorted(os.listdir(self.directory / "kubelet/pods")),
                "interfaces": self.interfaces()}

    def has_pods(self):
        """Whether the kubelet has not cleaned up yet."""
        found = self.present()
        return found["sandboxes"] or found["volumes"] or any("/pod" in path for path in found["cgroups"])

    def close(self):
        # Without a kubelet that would start them again; Cri ends the pods.
        for daemon in self.daemons[2:]:
            daemon.kill()
            daemon.wait()
        del self.daemons[2:]
        super().close()
        for path in self._cgroups() if self.cgroup_root else []:
            for below, _, _ in os.walk(path, topdown=False):
                os.rmdir(below)
