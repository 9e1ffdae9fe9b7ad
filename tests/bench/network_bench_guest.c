// SPDX-License-Identifier: Apache-2.0
// One end of network_bench.py's connections, for a container that has nothing but this program.
//   serve PORT                 answers any number of clients, one after the other
//   rate HOST PORT SECONDS in|out   bytes a second towards us, or from us
//   trip HOST PORT COUNT       microseconds of one byte there and back, the median
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 17];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static int fail(const char* what) {
  perror(what);
  exit(1);
}

static int no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

// The client's first byte says what it wants: 'i' data, 'o' to send data, 't' every byte back.
static void answer(int fd) {
  char what = 0;
  if (read(fd, &what, 1) != 1) return;
  if (what == 'i') {
    while (send(fd, buffer, sizeof buffer, MSG_NOSIGNAL) > 0) {
    }
  } else if (what == 'o') {
    while (read(fd, buffer, sizeof buffer) > 0) {
    }
  } else {
    while (read(fd, buffer, 1) == 1 && send(fd, buffer, 1, MSG_NOSIGNAL) == 1) {
    }
  }
}

static int serve(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int one = 1;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 16) != 0)
    return fail("listen");
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return fail("accept");
    answer(no_delay(fd));
    close(fd);
  }
}

static int dial(const char* host, int port, char what) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1 ||
      connect(fd, (struct sockaddr*)&address, sizeof address) != 0)
    fail("connect");
  if (write(no_delay(fd), &what, 1) != 1) fail("write");
  return fd;
}

static int rate(const char* host, int port, double seconds, int in) {
  int fd = dial(host, port, in ? 'i' : 'o');
  double begin = now(), end = begin;
  long long bytes = 0;
  while (end - begin < seconds) {
    ssize_t moved = in ? read(fd, buffer, sizeof buffer) : write(fd, buffer, sizeof buffer);
    if (moved <= 0) return fail("move");
    bytes += moved;
    end = now();
  }
  printf("%.0f\n", (double)bytes / (end - begin));
  return 0;
}

static int compare(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return x < y ? -1 : x > y;
}

static int trip(const char* host, int port, int count) {
  double* times = calloc((size_t)count, sizeof *times);
  int fd = dial(host, port, 't');
  char byte = 'x';
  for (int i = 0; i < count; i++) {
    double begin = now();
    if (write(fd, &byte, 1) != 1 || read(fd, &byte, 1) != 1) return fail("trip");
    times[i] = (now() - begin) * 1e6;
  }
  qsort(times, (size_t)count, sizeof *times, compare);
  printf("%.1f\n", times[count / 2]);
  return 0;
}

int main(int argc, char** argv) {
  if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]));
  if (argc == 6 && strcmp(argv[1], "rate") == 0)
    return rate(argv[2], atoi(argv[3]), atof(argv[4]), strcmp(argv[5], "in") == 0);
  if (argc == 5 && strcmp(argv[1], "trip") == 0) return trip(argv[2], atoi(argv[3]), atoi(argv[4]));
  fputs("network_bench_guest: bad arguments\n", stderr);
  return 2;
}
