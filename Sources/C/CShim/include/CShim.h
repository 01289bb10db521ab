#pragma once
#include <stdint.h>
// Extended attributes: Glibc's module leaves them out.
#include <sys/xattr.h>

/// renameat2(2) with RENAME_EXCHANGE: both names swap what they stand for, atomically. 0, or -1 with errno.
int salvor_rename_exchange(const char *a, const char *b);
/// renameat2(2) with RENAME_NOREPLACE. 0, or -1 with errno.
int salvor_rename_exclusive(const char *from, const char *to);
