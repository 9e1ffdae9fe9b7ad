// SPDX-License-Identifier: Apache-2.0
// Where the descriptors of the spec's structs are.
#pragma once

#include "oci/field.h"
#include "oci/spec.h"

namespace kiln::oci {

#define KILN_OCI_STRUCT(name) \
  template <>                 \
  struct TypeOf<name> {       \
    static const Type kType;  \
  }

// tables_process.cpp
KILN_OCI_STRUCT(ConsoleSize);
KILN_OCI_STRUCT(User);
KILN_OCI_STRUCT(Capabilities);
KILN_OCI_STRUCT(Rlimit);
KILN_OCI_STRUCT(Scheduler);
KILN_OCI_STRUCT(IoPriority);
KILN_OCI_STRUCT(ExecCpuAffinity);
KILN_OCI_STRUCT(Process);

// tables_spec.cpp
KILN_OCI_STRUCT(Root);
KILN_OCI_STRUCT(Mount);
KILN_OCI_STRUCT(Hook);
KILN_OCI_STRUCT(Hooks);
KILN_OCI_STRUCT(Spec);

// tables_linux.cpp
KILN_OCI_STRUCT(IdMapping);
KILN_OCI_STRUCT(Namespace);
KILN_OCI_STRUCT(Device);
KILN_OCI_STRUCT(NetDevice);
KILN_OCI_STRUCT(Personality);
KILN_OCI_STRUCT(IntelRdt);
KILN_OCI_STRUCT(TimeOffset);
KILN_OCI_STRUCT(Linux);

// tables_seccomp.cpp
KILN_OCI_STRUCT(SyscallArg);
KILN_OCI_STRUCT(SyscallRule);
KILN_OCI_STRUCT(Seccomp);

// tables_resources.cpp
KILN_OCI_STRUCT(DeviceRule);
KILN_OCI_STRUCT(MemoryResources);
KILN_OCI_STRUCT(CpuResources);
KILN_OCI_STRUCT(PidsResources);
KILN_OCI_STRUCT(WeightDevice);
KILN_OCI_STRUCT(ThrottleDevice);
KILN_OCI_STRUCT(BlockIoResources);
KILN_OCI_STRUCT(HugepageLimit);
KILN_OCI_STRUCT(InterfacePriority);
KILN_OCI_STRUCT(NetworkResources);
KILN_OCI_STRUCT(RdmaLimit);
KILN_OCI_STRUCT(Resources);

#undef KILN_OCI_STRUCT

}  // namespace kiln::oci
