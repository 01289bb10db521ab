#define _GNU_SOURCE
#include "CRig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct opening {
  uint32_t address;
  struct rig_host *host;
  int failure;
};

static void name(struct ifreq *request, const char *interface) {
  memset(request, 0, sizeof *request);
  strncpy(request->ifr_name, interface, IFNAMSIZ - 1);
}

static int set_address(int control, unsigned long what, uint32_t value) {
  struct ifreq request;
  name(&request, "eth0");
  struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
  address->sin_family = AF_INET;
  address->sin_addr.s_addr = htonl(value);
  return ioctl(control, what, &request);
}

static int bring_up(int control, const char *interface) {
  struct ifreq request;
  name(&request, interface);
  if (ioctl(control, SIOCGIFFLAGS, &request) != 0) return -1;
  request.ifr_flags |= IFF_UP | IFF_RUNNING;
  return ioctl(control, SIOCSIFFLAGS, &request);
}

static int configure(int control, uint32_t address) {
  if (bring_up(control, "lo") != 0) return -1;
  if (set_address(control, SIOCSIFADDR, address) != 0) return -1;
  if (set_address(control, SIOCSIFNETMASK, 0xffffff00) != 0) return -1;
  struct ifreq request;
  name(&request, "eth0");
  request.ifr_mtu = 1500;
  if (ioctl(control, SIOCSIFMTU, &request) != 0) return -1;
  name(&request, "eth0");
  request.ifr_qlen = 2000;
  if (ioctl(control, SIOCSIFTXQLEN, &request) != 0) return -1;
  return bring_up(control, "eth0");
}

// Neighbour discovery would only be noise: packets of IPv6 are dropped anyway.
static void without_ipv6(void) {
  int file = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
  if (file < 0) return;
  ssize_t ignored = write(file, "1", 1);
  (void)ignored;
  close(file);
}

static int open_here(struct opening *opening) {
  struct rig_host *host = opening->host;
  if (unshare(CLONE_NEWNET) != 0) return -1;
  without_ipv6();
  host->space = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (host->space < 0 || fstat(host->space, &status) != 0) return -1;
  host->number = status.st_ino;
  host->packets = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (host->packets < 0) return -1;
  struct ifreq request;
  name(&request, "eth0");
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  if (ioctl(host->packets, TUNSETIFF, &request) != 0) return -1;
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) return -1;
  int result = configure(control, opening->address);
  int number = errno;
  close(control);
  errno = number;
  return result;
}

static void *run(void *argument) {
  struct opening *opening = argument;
  opening->failure = open_here(opening) == 0 ? 0 : errno;
  return NULL;
}

int rig_open_host(uint32_t address, struct rig_host *host) {
  host->packets = host->space = -1;
  host->number = 0;
  struct opening opening = {.address = address, .host = host, .failure = 0};
  // A thread of its own: who called stays where it is.
  pthread_t thread;
  int failure = pthread_create(&thread, NULL, run, &opening);
  if (failure != 0) return failure;
  pthread_join(thread, NULL);
  if (opening.failure != 0) {
    if (host->packets >= 0) close(host->packets);
    if (host->space >= 0) close(host->space);
  }
  return opening.failure;
}

int rig_enter(int space) { return setns(space, CLONE_NEWNET) == 0 ? 0 : errno; }
