// SPDX-License-Identifier: Apache-2.0
// What a service does under a service manager: notify SENDS…, barrier, serve FD COUNT.
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void fail(const char* what) {
  perror(what);
  exit(1);
}

// sd_notify(3), with `fd` attached unless it is negative.
static void notify(const char* text, int fd) {
  const char* path = getenv("NOTIFY_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  char control[CMSG_SPACE(sizeof fd)] = {0};
  struct iovec part = {(void*)text, strlen(text)};
  struct msghdr message = {.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &part, .msg_iovlen = 1};
  int sock = socket(AF_UNIX, SOCK_DGRAM, 0);
  if (path == NULL) exit(2);
  strncpy(address.sun_path, path, sizeof address.sun_path - 1);
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    struct cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  if (sendmsg(sock, &message, 0) < 0) fail("sendmsg");
  close(sock);
}

// sd_notify_barrier(3): whoever has read the message closes what came with it.
static void barrier(void) {
  int ends[2];
  char byte;
  if (pipe(ends) != 0) fail("pipe");
  notify("BARRIER=1", ends[1]);
  close(ends[1]);
  if (read(ends[0], &byte, 1) != 0) fail("read");
  puts("barrier");
}

// Answers `count` connections, each once its peer has said everything.
static void serve(int listener, int count) {
  for (int i = 0; i < count; ++i) {
    char buffer[65536];
    size_t size = 0;
    ssize_t got;
    int peer = accept(listener, NULL, NULL);
    if (peer < 0) fail("accept");
    while ((got = read(peer, buffer + size, sizeof buffer - size)) > 0) size += (size_t)got;
    dprintf(peer, "%zu bytes: %.*s", size, (int)size, buffer);
    close(peer);
  }
}

int main(int argc, char** argv) {
  if (argc > 2 && strcmp(argv[1], "notify") == 0) {
    char text[8192] = "";
    for (int i = 2; i < argc; ++i) {
      strncat(text, argv[i], sizeof text - strlen(text) - 2);
      if (i + 1 < argc) strcat(text, "\n");
    }
    notify(text, -1);
    return 0;
  }
  if (argc == 2 && strcmp(argv[1], "barrier") == 0) return barrier(), 0;
  if (argc == 4 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]), atoi(argv[3])), 0;
  fputs("service: bad arguments\n", stderr);
  return 2;
}
