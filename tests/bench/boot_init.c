// SPDX-License-Identifier: Apache-2.0
// The first program of a guest whose boot is measured: a byte to the serial port, past every
// driver, and a reset, which ends every monitor that is told not to go on.
#include <sys/io.h>
#include <sys/reboot.h>
#include <unistd.h>

#define SERIAL_PORT 0x3f8

int main(void) {
  if (ioperm(SERIAL_PORT, 1, 1) == 0) outb('!', SERIAL_PORT);
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}
