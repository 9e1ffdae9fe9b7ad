// SPDX-License-Identifier: Apache-2.0
// Random I/O on one file, checked against a copy in memory after the manner of fsx.
//   fsx FILE SEED OPERATIONS
// What FILE holds at the start is where the copy starts. Prints the size and a checksum of what
// FILE must hold now; exits with 1 and one line at the first difference.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { kMost = 1 << 20, kLongest = 64 << 10 };

static unsigned char model[kMost], buffer[kMost];
static size_t size;
static int fd = -1;
static const char* path;
static uint64_t state;
static unsigned long step;

static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static void fail(const char* what) {
  printf("step %lu: %s: %s (size %zu)\n", step, what, strerror(errno), size);
  exit(1);
}

static void compare(const char* what, size_t offset, size_t length) {
  for (size_t i = 0; i < length; ++i) {
    if (buffer[i] == model[offset + i]) continue;
    printf("step %lu: %s: byte %zu is %02x, must be %02x\n", step, what, offset + i, buffer[i],
           model[offset + i]);
    exit(1);
  }
}

static void reopen(void) {
  if (fd >= 0 && close(fd) != 0) fail("close");
  fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail("open");
}

static void grow(size_t end) {
  if (end <= size) return;
  memset(model + size, 0, end - size);
  size = end;
}

static void do_read(size_t offset, size_t length) {
  const size_t expected = offset >= size ? 0 : (length < size - offset ? length : size - offset);
  size_t have = 0;
  while (have < length) {
    const ssize_t n = pread(fd, buffer + have, length - have, (off_t)(offset + have));
    if (n < 0) fail("pread");
    if (n == 0) break;
    have += (size_t)n;
  }
  if (have != expected) {
    printf("step %lu: pread: %zu bytes at %zu, must be %zu\n", step, have, offset, expected);
    exit(1);
  }
  compare("pread", offset, have);
}

static void do_write(size_t offset, size_t length) {
  for (size_t i = 0; i < length; ++i) buffer[i] = (unsigned char)next_random();
  size_t done = 0;
  while (done < length) {
    const ssize_t n = pwrite(fd, buffer + done, length - done, (off_t)(offset + done));
    if (n <= 0) fail("pwrite");
    done += (size_t)n;
  }
  grow(offset + length);
  memcpy(model + offset, buffer, length);
}

static void do_append(size_t length) {
  if (size + length > kMost) return;
  const int appending = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
  if (appending < 0) fail("open to append");
  for (size_t i = 0; i < length; ++i) buffer[i] = (unsigned char)next_random();
  if (write(appending, buffer, length) != (ssize_t)length) fail("append");
  if (close(appending) != 0) fail("close");
  const size_t begin = size;
  grow(begin + length);
  memcpy(model + begin, buffer, length);
}

static void do_truncate(size_t length) {
  if (ftruncate(fd, (off_t)length) != 0) fail("ftruncate");
  if (length < size) {
    size = length;
  } else {
    grow(length);
  }
}

static void do_map(size_t offset, size_t length, int writing) {
  if (size == 0) return;
  offset %= size;
  if (length > size - offset) length = size - offset;
  const size_t page = offset & ~(size_t)4095;
  unsigned char* at = mmap(NULL, length + offset - page, PROT_READ | (writing ? PROT_WRITE : 0),
                           MAP_SHARED, fd, (off_t)page);
  if (at == MAP_FAILED) {
    // A file system may refuse shared mappings; private ones it must allow.
    if (errno != ENODEV) fail("mmap");
    at = mmap(NULL, length + offset - page, PROT_READ, MAP_PRIVATE, fd, (off_t)page);
    if (at == MAP_FAILED) fail("mmap MAP_PRIVATE");
    writing = 0;
  }
  if (writing) {
    for (size_t i = 0; i < length; ++i)
      model[offset + i] = at[offset - page + i] = (unsigned char)next_random();
    if (msync(at, length + offset - page, MS_SYNC) != 0) fail("msync");
  } else {
    memcpy(buffer, at + (offset - page), length);
    compare("mmap", offset, length);
  }
  if (munmap(at, length + offset - page) != 0) fail("munmap");
}

static void do_punch(size_t offset, size_t length) {
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) !=
      0) {
    if (errno == EOPNOTSUPP) return;
    fail("fallocate PUNCH_HOLE");
  }
  if (offset >= size) return;
  memset(model + offset, 0, length < size - offset ? length : size - offset);
}

static void do_allocate(size_t offset, size_t length) {
  if (fallocate(fd, 0, (off_t)offset, (off_t)length) != 0) {
    if (errno == EOPNOTSUPP) return;
    fail("fallocate");
  }
  grow(offset + length);
}

static void do_copy(size_t from, size_t to, size_t length) {
  if (from >= size) return;
  if (length > size - from) length = size - from;
  if (to + length > kMost || (to < from + length && from < to + length)) return;
  size_t done = 0;
  while (done < length) {
    off_t in = (off_t)(from + done), out = (off_t)(to + done);
    const ssize_t n = copy_file_range(fd, &in, fd, &out, length - done, 0);
    if (n < 0 && (errno == EXDEV || errno == ENOSYS || errno == EOPNOTSUPP) && done == 0) return;
    if (n <= 0) fail("copy_file_range");
    done += (size_t)n;
  }
  grow(to + length);
  memmove(model + to, model + from, length);
}

static void check_size(void) {
  struct stat info;
  if (fstat(fd, &info) != 0) fail("fstat");
  if ((size_t)info.st_size != size) {
    printf("step %lu: fstat: size is %lld, must be %zu\n", step, (long long)info.st_size, size);
    exit(1);
  }
}

static void one_step(void) {
  const size_t length = 1 + next_random() % kLongest;
  const size_t offset = next_random() % (kMost - kLongest);
  switch (next_random() % 16) {
    case 0:
    case 1:
    case 2:
    case 3:
      return do_read(offset, length);
    case 4:
    case 5:
    case 6:
      return do_write(offset, length);
    case 7:
      return do_append(length % 5000 + 1);
    case 8:
      return do_truncate(next_random() % kMost);
    case 9:
      return do_map(offset, length, 0);
    case 10:
      return do_map(offset, length, 1);
    case 11:
      return do_punch(offset, length);
    case 12:
      return do_allocate(offset, length);
    case 13:
      return do_copy(offset, next_random() % (kMost - kLongest), length);
    case 14:
      if (fsync(fd) != 0) fail("fsync");
      return;
    default:
      return reopen();
  }
}

static uint64_t checksum(void) {
  uint64_t hash = 14695981039346656037ULL;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ model[i]) * 1099511628211ULL;
  return hash;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  path = argv[1];
  state = strtoull(argv[2], NULL, 0) * 0x9E3779B97F4A7C15ULL + 1;
  const unsigned long operations = strtoul(argv[3], NULL, 0);
  reopen();
  ssize_t n;
  while ((n = pread(fd, model + size, kMost - size, (off_t)size)) > 0) size += (size_t)n;
  if (n < 0) fail("read what is there");
  for (step = 1; step <= operations; ++step) {
    one_step();
    check_size();
  }
  reopen();
  do_read(0, kMost);
  printf("%zu %016llx\n", size, (unsigned long long)checksum());
  return 0;
}
