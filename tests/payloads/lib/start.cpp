// SPDX-License-Identifier: Apache-2.0
// From assembly into the payload.
#include "tests/payloads/lib/arguments.h"
#include "tests/payloads/lib/interrupts.h"
#include "tests/payloads/lib/payload.h"
#include "tests/payloads/lib/report.h"

extern "C" [[noreturn]] void payload_start();

void payload_start() {
  payload::read_arguments();
  payload::start_interrupts();
  payload::run();
  payload::finish();
}
