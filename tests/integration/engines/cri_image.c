// SPDX-License-Identifier: Apache-2.0
// What the images of cri-tools' tests have beside busybox, one program under the names of theirs: nginx and httpd
// (PATH "master process" PORT), nonewprivs, pause, and the two applets that Debian's busybox lacks: pgrep NAME, ipcs.
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static void end(int number) { _exit(number == SIGTERM || number == SIGQUIT ? 0 : 1); }

// As PID 1 it has no default action for any signal.
static void end_on_signals(void) {
  signal(SIGTERM, end);
  signal(SIGQUIT, end);
  signal(SIGINT, end);
  signal(SIGPIPE, SIG_IGN);
}

static int serve(const char* name, int port) {
  static const char answer[] = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\nWelcome\n";
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int one = 1;
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  end_on_signals();
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 64) != 0) {
    perror(name);
    return 1;
  }
  char path[64];
  snprintf(path, sizeof path, "/var/run/%s.pid", name);
  FILE* file = fopen(path, "w");
  if (file != NULL) {
    fprintf(file, "%d\n", getpid());
    fclose(file);
  }
  printf("%s serves port %d\n", name, port);
  fflush(stdout);
  for (;;) {
    int client = accept(listener, NULL, NULL);
    char request[4096];
    if (client < 0) continue;
    if (read(client, request, sizeof request) > 0) {
      ssize_t written = write(client, answer, sizeof answer - 1);
      (void)written;
    }
    shutdown(client, SHUT_WR);
    while (read(client, request, sizeof request) > 0) {
    }
    close(client);
  }
}

static int pgrep(const char* name) {
  int status = 1;
  DIR* proc = opendir("/proc");
  for (struct dirent* entry; proc != NULL && (entry = readdir(proc)) != NULL;) {
    char path[300];
    char comm[64] = "";
    if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == getpid()) continue;
    snprintf(path, sizeof path, "/proc/%s/comm", entry->d_name);
    FILE* file = fopen(path, "r");
    if (file == NULL) continue;
    if (fgets(comm, sizeof comm, file) != NULL && strstr(comm, name) != NULL) {
      puts(entry->d_name);
      status = 0;
    }
    fclose(file);
  }
  return status;
}

// The identifiers of the shared memory segments, the second column.
static int ipcs(void) {
  char line[512];
  int id;
  FILE* file = fopen("/proc/sysvipc/shm", "r");
  puts("shmid");
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "%*d %d", &id) == 1) printf("%d\n", id);
  }
  return 0;
}

int main(int count, char** arguments) {
  const char* slash = strrchr(arguments[0], '/');
  const char* name = slash != NULL ? slash + 1 : arguments[0];
  if (count == 3 && (strcmp(name, "nginx") == 0 || strcmp(name, "httpd") == 0)) return serve(name, atoi(arguments[2]));
  if (count == 2 && strcmp(name, "pgrep") == 0) return pgrep(arguments[1]);
  if (strcmp(name, "ipcs") == 0) return ipcs();
  if (strcmp(name, "nonewprivs") == 0) return printf("Effective uid: %d\n", geteuid()) < 0;
  if (strcmp(name, "pause") != 0) return 2;
  end_on_signals();
  for (;;) pause();
}
