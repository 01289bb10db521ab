#pragma once
#include <stdint.h>

/// renameat2(2) with RENAME_EXCHANGE: both names swap what they stand for, atomically. 0, or -1 with errno.
int salvor_rename_exchange(const char *a, const char *b);
/// renameat2(2) with RENAME_NOREPLACE. 0, or -1 with errno.
int salvor_rename_exclusive(const char *from, const char *to);

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
