#pragma once

/// Calls of the kernel's watchdog interface that Swift can't make: ioctl(2) takes a variable number of arguments.
/// Source: Linux, Documentation/watchdog/watchdog-api.rst.

/// What the device can do: bits of `struct watchdog_info.options`. 0, or -1 with errno.
int salvor_watchdog_options(int descriptor, unsigned *options);
/// Asks for a time until the machine is reset, in seconds; tells what the device made of it. 0, or -1 with errno.
int salvor_watchdog_set_timeout(int descriptor, int seconds, int *taken);

/// Bits of the options.
extern const unsigned salvor_watchdog_can_set_timeout;
extern const unsigned salvor_watchdog_has_magic_close;
/// Requests, as a device sees them.
extern const unsigned salvor_watchdog_get_support;
extern const unsigned salvor_watchdog_set_timeout_request;
