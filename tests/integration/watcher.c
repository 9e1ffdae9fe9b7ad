// SPDX-License-Identifier: Apache-2.0
// Prints what inotify tells of its arguments: one line for each event, `ready` first.
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

static const struct {
  unsigned mask;
  const char* name;
} kEvents[] = {{IN_CREATE, "CREATE"},     {IN_DELETE, "DELETE"}, {IN_MOVED_FROM, "MOVED_FROM"},
               {IN_MOVED_TO, "MOVED_TO"}, {IN_ATTRIB, "ATTRIB"}, {IN_DELETE_SELF, "DELETE_SELF"},
               {IN_MODIFY, "MODIFY"}};

int main(int argc, char** argv) {
  int fd = inotify_init();
  unsigned wanted = 0;
  for (unsigned i = 0; i < sizeof kEvents / sizeof kEvents[0]; ++i) wanted |= kEvents[i].mask;
  for (int i = 1; i < argc; ++i)
    if (inotify_add_watch(fd, argv[i], wanted) != i) return 1;
  setvbuf(stdout, NULL, _IOLBF, 0);
  puts("ready");
  _Alignas(struct inotify_event) char buffer[4096];
  ssize_t size = 0;
  while ((size = read(fd, buffer, sizeof buffer)) > 0) {
    for (char* at = buffer; at < buffer + size;) {
      const struct inotify_event* event = (const struct inotify_event*)at;
      for (unsigned i = 0; i < sizeof kEvents / sizeof kEvents[0]; ++i)
        if (event->mask & kEvents[i].mask)
          printf("%s %s %s\n", argv[event->wd], kEvents[i].name, event->len ? event->name : "");
      at += sizeof *event + event->len;
    }
  }
  return 1;
}
