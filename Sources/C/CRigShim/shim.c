// Loaded before the C library into programs of the rig's hosts: a wall clock that steps, and a disk that is slow. Never part
// of Salvor.
#define _GNU_SOURCE
#include "CRigShim.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const struct rig_told *told;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SALVOR_RIG_HOST");
  if (!path) return;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void *memory = mmap(NULL, sizeof *told, PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (memory != MAP_FAILED) told = memory;
}

int clock_gettime(clockid_t clock, struct timespec *value) {
  if (syscall(SYS_clock_gettime, clock, value) != 0) return -1;
  if (told && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    int64_t now = value->tv_sec * 1000000000LL + value->tv_nsec + told->clock_offset_nanoseconds;
    value->tv_sec = now / 1000000000LL;
    value->tv_nsec = now % 1000000000LL;
  }
  return 0;
}

int gettimeofday(struct timeval *restrict value, void *restrict zone) {
  struct timespec now;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &now);
  value->tv_sec = now.tv_sec;
  value->tv_usec = now.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *value) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (value) *value = now.tv_sec;
  return now.tv_sec;
}

static void wait_for_disk(void) {
  if (!told || told->sync_delay_microseconds <= 0) return;
  struct timespec delay = {told->sync_delay_microseconds / 1000000, told->sync_delay_microseconds % 1000000 * 1000};
  syscall(SYS_nanosleep, &delay, NULL);
}

int fsync(int file) {
  wait_for_disk();
  return (int)syscall(SYS_fsync, file);
}

int fdatasync(int file) {
  wait_for_disk();
  return (int)syscall(SYS_fdatasync, file);
}
