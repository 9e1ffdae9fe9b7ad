// SPDX-License-Identifier: Apache-2.0
// Init of the guest that fs_bench.py boots: mounts the share `bench`, times each row on it, most of
// them several times, prints `row NAME SECONDS` lines and powers off. Works in the directory that `bench.dir=` on the kernel's
// command line names.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { kFileBytes = 128 << 20, kBlock = 1 << 20, kFiles = 10000, kRounds = 4 };
static char block[kBlock];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void fail(const char* what) {
  printf("FAILED %s: %s\n", what, strerror(errno));
  reboot(RB_POWER_OFF);
  for (;;) pause();
}

static void load_modules(void) {
  FILE* list = fopen("/lib/modules/load", "r");
  char path[256];
  while (list && fgets(path, sizeof path, list)) {
    path[strcspn(path, "\n")] = 0;
    const int fd = open(path, O_RDONLY);
    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) != 0 && errno != EEXIST)) fail(path);
    close(fd);
  }
}

static void drop_caches(void) {
  sync();
  const int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
  if (fd < 0 || write(fd, "3", 1) != 1) fail("drop_caches");
  close(fd);
}

static void write_file(void) {
  const int fd = open("big", O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) fail("create big");
  for (int done = 0; done < kFileBytes; done += kBlock)
    if (write(fd, block, kBlock) != kBlock) fail("write");
  if (fsync(fd) != 0) fail("fsync");
  close(fd);
}

static void read_file(void) {
  const int fd = open("big", O_RDONLY);
  if (fd < 0) fail("open big");
  long total = 0;
  for (ssize_t got; (got = read(fd, block, kBlock)) > 0;) total += got;
  if (total != kFileBytes) fail("read");
  close(fd);
}

// What find(1) does, with and without a stat of every file.
static long walk(int directory, int with_stat) {
  DIR* list = fdopendir(directory);
  if (!list) fail("fdopendir");
  long count = 0;
  for (struct dirent* entry; (entry = readdir(list));) {
    if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
    ++count;
    struct stat info;
    if (with_stat && fstatat(dirfd(list), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
      fail("stat");
    if (entry->d_type == DT_DIR) {
      const int below = openat(dirfd(list), entry->d_name, O_RDONLY | O_DIRECTORY);
      if (below < 0) fail("open directory");
      count += walk(below, with_stat);
    }
  }
  closedir(list);
  return count;
}

static void find_all(int with_stat) {
  const int tree = open("tree", O_RDONLY | O_DIRECTORY);
  if (tree < 0) fail("open tree");
  if (walk(tree, with_stat) != kFiles + 100) fail("find: wrong count");
}

static void find_names(void) { find_all(0); }
static void find_and_stat(void) { find_all(1); }

static void create_and_delete(void) {
  char name[32];
  if (mkdir("small", 0755) != 0) fail("mkdir");
  for (int i = 0; i < kFiles; ++i) {
    snprintf(name, sizeof name, "small/%d", i);
    const int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0 || write(fd, name, sizeof name) != sizeof name) fail("create");
    close(fd);
  }
  for (int i = 0; i < kFiles; ++i) {
    snprintf(name, sizeof name, "small/%d", i);
    if (unlink(name) != 0) fail("unlink");
  }
  if (rmdir("small") != 0) fail("rmdir");
}

static void measure(const char* name, void (*work)(void)) {
  drop_caches();
  const double began = now();
  work();
  printf("row %s %.6f\n", name, now() - began);
  fflush(stdout);
}

int main(void) {
  mkdir("/proc", 0755);
  mkdir("/mnt", 0755);
  if (mount("proc", "/proc", "proc", 0, NULL) != 0) fail("mount proc");
  char line[4096] = "", directory[256] = "/mnt/";
  const int fd = open("/proc/cmdline", O_RDONLY);
  if (fd < 0 || read(fd, line, sizeof line - 1) < 0) fail("read the command line");
  const char* asked = strstr(line, "bench.dir=");
  if (asked) strncat(directory, asked + 10, strcspn(asked + 10, " \n"));
  load_modules();
  if (mount("bench", "/mnt", "virtiofs", 0, NULL) != 0) fail("mount");
  if (chdir(directory) != 0) fail(directory);
  // The last row takes as long as all the others together.
  for (int round = 0; round < kRounds; ++round) {
    measure("write", write_file);
    measure("read", read_file);
    measure("find", find_names);
    measure("find+stat", find_and_stat);
  }
  measure("create+delete", create_and_delete);
  printf("done\n");
  fflush(stdout);
  reboot(RB_POWER_OFF);
  for (;;) pause();
}
