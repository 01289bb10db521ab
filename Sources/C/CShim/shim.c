#define _GNU_SOURCE
#include "CShim.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

int salvor_rename_exchange(const char *a, const char *b) {
  return renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
}

int salvor_rename_exclusive(const char *from, const char *to) {
  return renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
}

#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

const int salvor_o_noatime = O_NOATIME;
const int salvor_o_path = O_PATH;
const int salvor_o_direct = O_DIRECT;

int salvor_open_beneath(int root, const char *path, int flags, mode_t mode) {
  struct open_how how;
  memset(&how, 0, sizeof how);
  how.flags = (unsigned)flags | O_CLOEXEC;
  how.mode = (flags & O_CREAT) ? mode : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

ssize_t salvor_llistxattr(const char *path, char *list, size_t size) { return llistxattr(path, list, size); }

ssize_t salvor_listxattrat(int directory, const char *name, char *list, size_t size) {
#ifndef SYS_listxattrat
#define SYS_listxattrat 465
#endif
  return syscall(SYS_listxattrat, directory, name, AT_SYMLINK_NOFOLLOW, list, size);
}

ssize_t salvor_lgetxattr(const char *path, const char *name, void *value, size_t size) {
  return lgetxattr(path, name, value, size);
}

int salvor_lsetxattr(const char *path, const char *name, const void *value, size_t size) {
  return lsetxattr(path, name, value, size, 0);
}

int salvor_fsetxattr(int descriptor, const char *name, const void *value, size_t size) {
  return fsetxattr(descriptor, name, value, size, 0);
}

ssize_t salvor_flistxattr(int descriptor, char *list, size_t size) { return flistxattr(descriptor, list, size); }

int salvor_fremovexattr(int descriptor, const char *name) { return fremovexattr(descriptor, name); }

int salvor_begin_writing(int descriptor, int64_t offset, int64_t bytes) {
  return sync_file_range(descriptor, offset, bytes, SYNC_FILE_RANGE_WRITE);
}

int salvor_birth(int descriptor, int64_t *nanoseconds) {
    struct statx status;
    if (statx(descriptor, "", AT_EMPTY_PATH, STATX_BTIME, &status) != 0) return -1;
    *nanoseconds = (status.stx_mask & STATX_BTIME) != 0
        ? status.stx_btime.tv_sec * 1000000000 + status.stx_btime.tv_nsec : 0;
    return 0;
}

int salvor_file_system(int descriptor, uint64_t *type) {
  struct statfs found;
  if (fstatfs(descriptor, &found) != 0) return -1;
  *type = (uint64_t)found.f_type;
  return 0;
}

ssize_t salvor_find(const void *bytes, size_t count, const void *wanted, size_t length) {
  const char *found = memmem(bytes, count, wanted, length);
  return found == NULL ? -1 : found - (const char *)bytes;
}

int salvor_syncfs(int descriptor) { return syncfs(descriptor); }

int salvor_chown_descriptor(int descriptor, uid_t user, gid_t group) {
  return fchownat(descriptor, "", user, group, AT_EMPTY_PATH);
}

void salvor_return_large_memory(void) {
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  mallopt(M_ARENA_MAX, 2);
}

void salvor_return_unused_memory(void) { malloc_trim(0); }

void *salvor_allocate_pages(size_t bytes) {
  void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return NULL;
  madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

void *salvor_resize_pages(void *memory, size_t old_bytes, size_t bytes) {
  void *result = memory ? mremap(memory, old_bytes, bytes, MREMAP_MAYMOVE)
                        : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return result == MAP_FAILED ? NULL : result;
}

void salvor_free_pages(void *memory, size_t bytes) { munmap(memory, bytes); }

int salvor_unnamed_file(void) { return memfd_create("salvor-input", MFD_CLOEXEC); }
