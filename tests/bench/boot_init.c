// SPDX-License-Identifier: Apache-2.0
// The first program of a guest whose boot is measured: asks for a reset, which the kernel announces
// on its console (`reboot: Restarting system`), whatever its log level.
#include <sys/reboot.h>
#include <unistd.h>

int main(void) {
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}
