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
/// listxattrat(2) of an entry, which isn't followed. -1 with ENOSYS before Linux 6.13.
ssize_t salvor_listxattrat(int directory, const char *name, char *list, size_t size);
ssize_t salvor_lgetxattr(const char *path, const char *name, void *value, size_t size);
int salvor_lsetxattr(const char *path, const char *name, const void *value, size_t size);
int salvor_fsetxattr(int descriptor, const char *name, const void *value, size_t size);
/// flistxattr(2), fremovexattr(2).
ssize_t salvor_flistxattr(int descriptor, char *list, size_t size);
int salvor_fremovexattr(int descriptor, const char *name);
/// sync_file_range(2) with SYNC_FILE_RANGE_WRITE. 0, or -1 with errno.
int salvor_begin_writing(int descriptor, int64_t offset, int64_t bytes);
/// The magic number of the file system that a descriptor is on (fstatfs(2)). 0, or -1 with errno.
int salvor_file_system(int descriptor, uint64_t *type);
/// When the file of a descriptor was made (statx(2)), in nanoseconds since 1970; 0 where its file system doesn't know. 0, or -1
/// with errno.
int salvor_birth(int descriptor, int64_t *nanoseconds);
/// memmem(3), which needs _GNU_SOURCE. Where it begins, or -1.
ssize_t salvor_find(const void *bytes, size_t count, const void *wanted, size_t length);
/// syncfs(2). 0, or -1 with errno.
int salvor_syncfs(int descriptor);
/// fchownat(2) of the descriptor itself, which may be an O_PATH one.
int salvor_chown_descriptor(int descriptor, uid_t user, gid_t group);
/// O_NOATIME and O_PATH, which need _GNU_SOURCE.
extern const int salvor_o_noatime;
extern const int salvor_o_path;
/// O_DIRECT.
extern const int salvor_o_direct;
#include <sys/types.h>

/// What salvor_spawn starts. All pointers belong to the caller.
struct salvor_spawn_request {
  const char *path;
  char *const *arguments;
  char *const *environment;
  /// Or NULL: the caller's.
  const char *working_directory;
  /// Standard output and error; standard input is /dev/null.
  int output;
  /// Not 0: become this user, with these groups, before the program starts.
  int set_user;
  uid_t user;
  gid_t group;
  const gid_t *groups;
  size_t group_count;
  /// Not 0: the process becomes a child of init, and the caller cannot wait for it.
  int detach;
};

struct salvor_spawned {
  pid_t pid;
  /// Write one byte to let the program start. If it is closed first, also by the caller's death, nothing starts.
  int gate;
  /// Ends when the program has started, or gives an int: the errno of what failed.
  int status;
};

/// Forks a process in a session of its own, which waits at its gate. 0, or -1 with errno.
int salvor_spawn(const struct salvor_spawn_request *request, struct salvor_spawned *spawned);

/// A SHA-256 under way.
struct salvor_sha256 {
  uint32_t state[8];
  uint64_t bytes;
  uint8_t pending[64];
};

void salvor_sha256_begin(struct salvor_sha256 *hash);
void salvor_sha256_add(struct salvor_sha256 *hash, const void *input, size_t size);
/// Whether this processor has the instructions that `in_pairs` needs.
int salvor_sha256_pairs(void);
/// The same as adding to each; with `in_pairs`, as far as both inputs reach, in little more than the time of one.
void salvor_sha256_add_two(struct salvor_sha256 *a, const void *a_input, size_t a_size, struct salvor_sha256 *b,
                           const void *b_input, size_t b_size, int in_pairs);
/// Writes 32 bytes; `hash` is used up.
void salvor_sha256_end(struct salvor_sha256 *hash, uint8_t *digest);

/// What a program took.
struct salvor_measured {
  /// As a shell says it.
  int status;
  /// Microseconds of user and system time.
  int64_t processor_us;
  int64_t peak_kib;
};

/// Runs a program, found along PATH, to its end; its output is dropped. 0, or -1 with errno.
int salvor_measure(const char *path, char *const *arguments, char *const *environment, int error_output,
                   struct salvor_measured *measured);

/// From now on, free(3) gives everything of 1 MiB and more back to the system at once, and threads share two arenas.
/// glibc's own way keeps what was as large as the largest block ever freed, for each thread anew.
void salvor_return_large_memory(void);
/// Gives every page that holds only what was freed back to the system: malloc_trim(3).
void salvor_return_unused_memory(void);

/// scrypt's ROMix (RFC 7914) of `lanes` lanes, 1 to 4, of 128 * r bytes each, one behind the other, in place, in little more
/// than the time of one. Of every `stride` states one is kept, and those behind it computed again when they are wanted.
/// `memory`: 128 * r * (lanes * ceil(n / stride) + 12) bytes at a multiple of 64. `n`: a power of two, 2 to 2^31.
/// `vector_bits`: no wider instructions than these, of those that the processor has: 128, 256 or 512.
void salvor_scrypt_mix(uint8_t *bytes, size_t lanes, size_t n, size_t r, size_t stride, void *memory,
                       int vector_bits);
/// Memory fresh from the system in pages as large as there are, or NULL; goes back with salvor_free_pages.
void *salvor_allocate_pages(size_t bytes);
/// Memory of whole pages that grows and shrinks where it lies, or moves without being copied: mremap(2). NULL if there is
/// none. `memory` is NULL at first.
void *salvor_resize_pages(void *memory, size_t old_bytes, size_t bytes);
void salvor_free_pages(void *memory, size_t bytes);

/// A file without a name, in memory, closed at exec: memfd_create(2). -1 with errno.
int salvor_unnamed_file(void);

/// Makes every thread of a process stand still, by ptrace(2): it runs nothing until it is let go, or until the thread that
/// called this ends, however that happens. Gives up after `limit_nanoseconds`.
///
/// Call from the thread that will call salvor_thaw. NULL with errno: EPERM without the right, ESRCH, ETIMEDOUT; nothing
/// stands still then.
struct salvor_frozen;
struct salvor_frozen *salvor_freeze(pid_t pid, int64_t limit_nanoseconds);
/// Lets it go on, with the signals it was about to get, and frees the value.
void salvor_thaw(struct salvor_frozen *frozen);
