// SPDX-License-Identifier: Apache-2.0
// vtime [-o FILE] COMMAND…: runs it and writes when it started and ended by CLOCK_MONOTONIC to FILE
// (default: stderr). In a lab under -icount a nanosecond of that clock is one instruction, so the
// figures are exact.
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int main(int argc, char** argv) {
  int output = STDERR_FILENO;
  int first = 1;
  if (argc > 2 && strcmp(argv[1], "-o") == 0) {
    output = open(argv[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    first = 3;
  }
  if (output < 0 || first >= argc) {
    // Without a command: the time, for scripts that bracket more than one.
    if (output < 0 || argc > 1) return 125;
    printf("%" PRId64 "\n", now_ns());
    return 0;
  }
  const int64_t start = now_ns();
  const pid_t child = fork();
  if (child == 0) {
    execvp(argv[first], argv + first);
    perror(argv[first]);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 125;
  const int64_t end = now_ns();
  dprintf(output, "vtime start %" PRId64 " end %" PRId64 " took %" PRId64 " ns\n", start, end,
          end - start);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
