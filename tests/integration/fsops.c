// SPDX-License-Identifier: Apache-2.0
// One file-system call for each sub-command, for what busybox has no applet for. Prints the result;
// an error is its name in errno(3)'s terms, with exit code 1.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static int failed(void) {
  printf("%s\n", strerrorname_np(errno));
  return 1;
}

static int done(int result) {
  if (result < 0) return failed();
  puts("ok");
  return 0;
}

static int set_xattr(char** a) { return done(setxattr(a[0], a[1], a[2], strlen(a[2]), 0)); }

static int get_xattr(char** a) {
  char value[4096];
  const ssize_t n = getxattr(a[0], a[1], value, sizeof value);
  if (n < 0) return failed();
  printf("%.*s\n", (int)n, value);
  return 0;
}

static int list_xattrs(char** a) {
  char names[4096];
  const ssize_t n = listxattr(a[0], names, sizeof names);
  if (n < 0) return failed();
  for (ssize_t at = 0; at < n; at += (ssize_t)strlen(names + at) + 1) puts(names + at);
  return 0;
}

static int remove_xattr(char** a) { return done(removexattr(a[0], a[1])); }

static int rename_flags(char** a) {
  const char* kind = a[2];
  const unsigned flags = strcmp(kind, "exchange") == 0    ? RENAME_EXCHANGE
                         : strcmp(kind, "noreplace") == 0 ? RENAME_NOREPLACE
                                                          : 0;
  return done(renameat2(AT_FDCWD, a[0], AT_FDCWD, a[1], flags));
}

// Takes a lock without waiting, says so, and holds it until standard input ends.
static int hold(int result) {
  if (done(result) != 0) return 1;
  fflush(stdout);
  char byte;
  while (read(0, &byte, 1) > 0) {
  }
  return 0;
}

static int lock_flock(char** a) {
  const int fd = open(a[0], O_RDWR);
  return fd < 0 ? failed() : hold(flock(fd, LOCK_EX | LOCK_NB));
}

static int lock_posix(char** a) {
  const int fd = open(a[0], O_RDWR);
  struct flock lock = {
      .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = atol(a[1]), .l_len = atol(a[2])};
  return fd < 0 ? failed() : hold(fcntl(fd, F_SETLK, &lock));
}

static int tmpfile_and_link(char** a) {
  const int fd = open(a[0], O_TMPFILE | O_RDWR, 0600);
  if (fd < 0) return failed();
  if (write(fd, "x", 1) != 1) return failed();
  char self[64];
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  return done(linkat(AT_FDCWD, self, AT_FDCWD, a[1], AT_SYMLINK_FOLLOW));
}

static int seek_data(char** a) {
  const int fd = open(a[0], O_RDONLY);
  if (fd < 0) return failed();
  const off_t data = lseek(fd, atol(a[1]), SEEK_DATA);
  if (data < 0) return failed();
  const off_t hole = lseek(fd, data, SEEK_HOLE);
  if (hole < 0) return failed();
  printf("%lld %lld\n", (long long)data, (long long)hole);
  return 0;
}

static int copy_range(char** a) {
  const int from = open(a[0], O_RDONLY), to = open(a[1], O_WRONLY | O_CREAT, 0644);
  if (from < 0 || to < 0) return failed();
  for (;;) {
    const ssize_t n = copy_file_range(from, NULL, to, NULL, 1 << 30, 0);
    if (n < 0) return failed();
    if (n == 0) return done(0);
  }
}

static int allocate(char** a) {
  const int fd = open(a[0], O_RDWR | O_CREAT, 0644);
  return fd < 0 ? failed() : done(fallocate(fd, atoi(a[2]), 0, atol(a[1])));
}

static int open_flags(char** a) {
  const int flags = strcmp(a[1], "excl") == 0        ? O_WRONLY | O_CREAT | O_EXCL
                    : strcmp(a[1], "nofollow") == 0  ? O_RDONLY | O_NOFOLLOW
                    : strcmp(a[1], "directory") == 0 ? O_RDONLY | O_DIRECTORY
                    : strcmp(a[1], "direct") == 0    ? O_RDONLY | O_DIRECT
                    : strcmp(a[1], "write") == 0     ? O_WRONLY
                    : strcmp(a[1], "nonblock") == 0  ? O_RDONLY | O_NONBLOCK
                                                     : O_RDONLY;
  return done(open(a[0], flags, 0644));
}

static int bind_socket(char** a) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, a[0], sizeof address.sun_path - 1);
  return done(bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr*)&address, sizeof address));
}

// What is unlinked goes on for whoever has it open.
static int unlinked(char** a) {
  const int fd = open(a[0], O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0 || write(fd, "before ", 7) != 7 || unlink(a[0]) != 0 || write(fd, "after", 5) != 5)
    return failed();
  char text[32] = "";
  if (pread(fd, text, sizeof text - 1, 0) < 0) return failed();
  struct stat info;
  if (fstat(fd, &info) != 0) return failed();
  printf("%s %d\n", text, (int)info.st_nlink);
  return 0;
}

static int write_at(char** a) {
  const int fd = open(a[0], O_RDWR | O_CREAT, 0644);
  if (fd < 0) return failed();
  return done(pwrite(fd, a[2], strlen(a[2]), atoll(a[1])) < 0 ? -1 : 0);
}

static int set_times(char** a) {
  const struct timespec times[2] = {{atol(a[1]), 123456789}, {atol(a[2]), 987654321}};
  return done(utimensat(AT_FDCWD, a[0], times, AT_SYMLINK_NOFOLLOW));
}

static const struct {
  const char* name;
  int arguments;
  int (*run)(char**);
} kCommands[] = {
    {"setxattr", 3, set_xattr},    {"getxattr", 2, get_xattr},
    {"listxattr", 1, list_xattrs}, {"removexattr", 2, remove_xattr},
    {"rename", 3, rename_flags},   {"flock", 1, lock_flock},
    {"posixlock", 3, lock_posix},  {"tmpfile", 2, tmpfile_and_link},
    {"seekdata", 2, seek_data},    {"copyrange", 2, copy_range},
    {"fallocate", 3, allocate},    {"open", 2, open_flags},
    {"socket", 1, bind_socket},    {"unlinked", 1, unlinked},
    {"writeat", 3, write_at},      {"times", 3, set_times},
};

int main(int argc, char** argv) {
  for (size_t i = 0; argc > 1 && i < sizeof kCommands / sizeof *kCommands; ++i) {
    if (strcmp(argv[1], kCommands[i].name) == 0 && argc == kCommands[i].arguments + 2)
      return kCommands[i].run(argv + 2);
  }
  fprintf(stderr, "fsops: unknown command or wrong number of arguments\n");
  return 2;
}
