#pragma once
#include <stdint.h>

/// What the programs of one host are made to believe; a file that they map, named by `SALVOR_RIG_HOST`.
struct rig_told {
  /// Added to the wall clock, not to the one that never steps.
  int64_t clock_offset_nanoseconds;
  /// How long the disk takes to say that something is on it.
  int64_t sync_delay_microseconds;
};
