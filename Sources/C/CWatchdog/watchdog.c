#include "CWatchdog.h"

#include <linux/watchdog.h>
#include <sys/ioctl.h>

int salvor_watchdog_options(int descriptor, unsigned *options) {
  struct watchdog_info info = {0};
  if (ioctl(descriptor, WDIOC_GETSUPPORT, &info) != 0) return -1;
  *options = info.options;
  return 0;
}

int salvor_watchdog_set_timeout(int descriptor, int seconds, int *taken) {
  if (ioctl(descriptor, WDIOC_SETTIMEOUT, &seconds) != 0) return -1;
  *taken = seconds;
  return 0;
}

const unsigned salvor_watchdog_can_set_timeout = WDIOF_SETTIMEOUT;
const unsigned salvor_watchdog_has_magic_close = WDIOF_MAGICCLOSE;
const unsigned salvor_watchdog_get_support = WDIOC_GETSUPPORT;
const unsigned salvor_watchdog_set_timeout_request = WDIOC_SETTIMEOUT;
