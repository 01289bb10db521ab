#define _GNU_SOURCE
#include "CShim.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// Between fork and exec only calls that are safe after a fork in a process with threads.

static void fail(int status) {
  int number = errno;
  ssize_t ignored = write(status, &number, sizeof number);
  (void)ignored;
  _exit(127);
}

static void become(const struct salvor_spawn_request *request, int gate, int status) {
  setsid();
  struct sigaction plain;
  memset(&plain, 0, sizeof plain);
  plain.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; number++) sigaction(number, &plain, NULL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);

  char byte;
  ssize_t got;
  do got = read(gate, &byte, 1);
  while (got < 0 && errno == EINTR);
  if (got != 1) _exit(127);

  int nothing = open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(request->output, 1) < 0 || dup2(request->output, 2) < 0) fail(status);
  // Everything else closes when the program starts, the status pipe among it.
  if (syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    for (int fd = 3; fd < 65536; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  if (request->set_user) {
    // Not by libc: it would tell all threads of the parent, and wait for ever for those that were not forked.
    if (syscall(SYS_setgroups, request->group_count, request->groups) != 0) fail(status);
    if (syscall(SYS_setresgid, request->group, request->group, request->group) != 0) fail(status);
    if (syscall(SYS_setresuid, request->user, request->user, request->user) != 0) fail(status);
  }
  if (request->working_directory && chdir(request->working_directory) != 0) fail(status);
  execve(request->path, request->arguments, request->environment);
  fail(status);
}

static void close_both(int pair[2]) {
  int number = errno;
  if (pair[0] >= 0) close(pair[0]);
  if (pair[1] >= 0) close(pair[1]);
  errno = number;
}

int salvor_spawn(const struct salvor_spawn_request *request, struct salvor_spawned *spawned) {
  int gate[2] = {-1, -1}, status[2] = {-1, -1}, number[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gate) != 0) return -1;
  if (pipe2(status, O_CLOEXEC) != 0 || pipe2(number, O_CLOEXEC) != 0) {
    close_both(gate);
    close_both(status);
    return -1;
  }
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pid_t pid = _Fork();
  if (pid == 0) {
    close(gate[1]);
    close(status[0]);
    if (!request->detach) become(request, gate[0], status[1]);
    pid_t second = _Fork();
    if (second == 0) {
      close(number[0]);
      close(number[1]);
      become(request, gate[0], status[1]);
    }
    ssize_t ignored = write(number[1], &second, sizeof second);
    (void)ignored;
    _exit(second < 0 ? 1 : 0);
  }
  int failure = errno;
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  close(gate[0]);
  close(status[1]);
  close(number[1]);
  gate[0] = status[1] = number[1] = -1;
  if (pid > 0 && request->detach) {
    pid_t second = -1;
    ssize_t got;
    do got = read(number[0], &second, sizeof second);
    while (got < 0 && errno == EINTR);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    failure = EAGAIN;
    pid = got == sizeof second ? second : -1;
  }
  close(number[0]);
  if (pid < 0) {
    close_both(gate);
    close_both(status);
    errno = failure;
    return -1;
  }
  spawned->pid = pid;
  spawned->gate = gate[1];
  spawned->status = status[0];
  return 0;
}
