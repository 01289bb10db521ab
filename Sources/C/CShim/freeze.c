#define _GNU_SOURCE
#include "include/CShim.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

struct salvor_frozen {
  size_t count, capacity;
  struct thread {
    pid_t id;
    // What it was about to be told when it stopped; 0 for nothing.
    int signal;
  } *threads;
};

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static int is_known(const struct salvor_frozen *frozen, pid_t id) {
  for (size_t i = 0; i < frozen->count; i++)
    if (frozen->threads[i].id == id) return 1;
  return 0;
}

// Waits until one thread stands still. 1, 0 if it has ended instead, -1 with errno.
static int wait_for(struct thread *thread, int64_t deadline) {
  for (;;) {
    int status = 0;
    pid_t got = waitpid(thread->id, &status, __WALL | WNOHANG);
    if (got == thread->id) {
      if (!WIFSTOPPED(status)) return 0;
      // A stop of ptrace's own carries its event above the signal.
      thread->signal = (status >> 16) ? 0 : WSTOPSIG(status);
      return 1;
    }
    if (got < 0 && errno != EINTR) return errno == ECHILD ? 0 : -1;
    if (now() >= deadline) {
      errno = ETIMEDOUT;
      return -1;
    }
    struct timespec pause = {0, 50000};
    nanosleep(&pause, NULL);
  }
}

void salvor_thaw(struct salvor_frozen *frozen) {
  if (!frozen) return;
  for (size_t i = 0; i < frozen->count; i++)
    ptrace(PTRACE_DETACH, frozen->threads[i].id, NULL, (void *)(long)frozen->threads[i].signal);
  free(frozen->threads);
  free(frozen);
}

struct salvor_frozen *salvor_freeze(pid_t pid, int64_t limit_nanoseconds) {
  int64_t deadline = now() + limit_nanoseconds;
  struct salvor_frozen *frozen = calloc(1, sizeof *frozen);
  if (!frozen) return NULL;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
  // A thread that still runs may make another: look until a look finds none.
  for (int found = 1; found;) {
    found = 0;
    DIR *directory = opendir(path);
    if (!directory) {
      if (errno == ENOENT) errno = ESRCH;
      goto failed;
    }
    struct dirent *entry;
    while ((entry = readdir(directory))) {
      pid_t id = (pid_t)atoi(entry->d_name);
      if (id <= 0 || is_known(frozen, id)) continue;
      if (frozen->count == frozen->capacity) {
        size_t capacity = frozen->capacity ? frozen->capacity * 2 : 64;
        struct thread *more = realloc(frozen->threads, capacity * sizeof *more);
        if (!more) {
          closedir(directory);
          goto failed;
        }
        frozen->threads = more;
        frozen->capacity = capacity;
      }
      if (ptrace(PTRACE_SEIZE, id, NULL, NULL) != 0) {
        if (errno == ESRCH) continue;
        int error = errno;
        closedir(directory);
        errno = error;
        goto failed;
      }
      struct thread *thread = &frozen->threads[frozen->count++];
      *thread = (struct thread){.id = id};
      found = 1;
      int stands = ptrace(PTRACE_INTERRUPT, id, NULL, NULL) == 0 ? wait_for(thread, deadline) : 0;
      if (stands == 0) frozen->count--;
      if (stands < 0) {
        int error = errno;
        closedir(directory);
        errno = error;
        goto failed;
      }
    }
    closedir(directory);
  }
  if (frozen->count) return frozen;
  errno = ESRCH;
failed:;
  int error = errno;
  salvor_thaw(frozen);
  errno = error;
  return NULL;
}
