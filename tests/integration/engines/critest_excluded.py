# SPDX-License-Identifier: Apache-2.0
"""Specs of cri-tools' critest that are not asked, each with its reason.

(regular expression on the spec's name, where, why); `where` is a runtime handler, `containerd 1` or `containerd 2`, or
None for everywhere. Specs that skip themselves, for AppArmor, SELinux, NRI or what a containerd is too old for, need no line.
"""

HOST = "a container of a microVM shares no namespace with the host: docs/limitations.md"
PROPAGATION = "mounts of a running container and the host's do not reach each other: docs/limitations.md"

EXCLUDED = (
    ("public image with digest", None, "asks for the bytes of an image that is in a public registry alone"),
    ("runtime should support MaskedPaths", None,
     "the shell of Debian's static busybox runs its applets without looking at the masked /bin/ls"),
    ("Idempotence Stop(PodSandbox|Container) should not return an error if not found", "containerd 1",
     "containerd 1.6 answers NotFound for what it does not know"),
    ("should terminate with exitCode 137 and reason OOMKilled", "runc",
     "under cgroup v1 runc's shim at times reports the end before it has heard of the reason"),
    ("NRI plugin synchronization .*(during the Synchronize call|without the race condition)", None,
     "critest calls this a discrepancy of containerd's, after a minute"),
    ("runtime should support HostPID", "kiln", HOST),
    ("runtime should support HostIpc is true", "kiln", HOST),
    ("runtime should support HostNetwork is true", "kiln", HOST),
    ("portforward in host network", "kiln", HOST),
    ("mount with 'rshared' should support propagation", "kiln", PROPAGATION),
    ("mount with 'rslave' should support propagation", "kiln", PROPAGATION),
)
