#pragma once
#include <stdint.h>

/// renameat2(2) with RENAME_EXCHANGE: both names swap what they stand for, atomically. 0, or -1 with errno.
int salvor_rename_exchange(const char *a, const char *b);
/// renameat2(2) with RENAME_NOREPLACE. 0, or -1 with errno.
int salvor_rename_exclusive(const char *from, const char *to);

#include <stddef.h>
#include <sys/types.h>

/// openat2(2): opens `path` below `root`; no component may be a symbolic link, none may lead above `root`.
/// A descriptor, or -1 with errno (ENOSYS before Linux 5.6).
int salvor_open_beneath(int root, const char *path, int flags, mode_t mode);
/// llistxattr(2), lgetxattr(2), lsetxattr(2), lremovexattr(2).
ssize_t salvor_llistxattr(const char *path, char *list, size_t size);
ssize_t salvor_lgetxattr(const char *path, const char *name, void *value, size_t size);
int salvor_lsetxattr(const char *path, const char *name, const void *value, size_t size);
int salvor_fsetxattr(int descriptor, const char *name, const void *value, size_t size);
/// syncfs(2). 0, or -1 with errno.
int salvor_syncfs(int descriptor);
/// fchownat(2) of the descriptor itself, which may be an O_PATH one.
int salvor_chown_descriptor(int descriptor, uid_t user, gid_t group);
/// O_NOATIME and O_PATH, which need _GNU_SOURCE.
extern const int salvor_o_noatime;
extern const int salvor_o_path;
