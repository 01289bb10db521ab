#pragma once
#include <stdint.h>

/// A machine of its own as the network sees it.
struct rig_host {
  /// Packets it sends are read here, and those it shall get are written; non-blocking, no header before IP's.
  int packets;
  /// Its network namespace, which lives as long as this or a process in it.
  int space;
  /// What `/proc/<pid>/ns/net` of its processes says.
  uint64_t number;
};

/// Makes a network namespace with loopback and one interface `eth0` of `address` (host order) in a /24. 0, or errno.
int rig_open_host(uint32_t address, struct rig_host *host);
/// From here on, what the calling thread opens belongs to the namespace. 0, or errno.
int rig_enter(int space);
