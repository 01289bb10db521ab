import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// How much of the processors work gets beside other work, when there is not enough for all.
///
/// At level 0 is what everything else waits for, and whatever has no share at all: claims, journals, holds. Each level
/// down gets about a quarter of what the one above it gets; nobody is starved, and nothing is left idle. The level may
/// change while the work goes on, and counts for the jobs that are begun then.
package final class WorkShare: Sendable {
  /// The share of whatever this task, and tasks below it, have a ``BlockingPool`` do.
  @TaskLocal package static var current: WorkShare?

  package static let levels = 4

  private let stored: Atomic<Int>

  package init(level: Int) { stored = Atomic(Self.clamped(level)) }

  /// From 0 to 3.
  package var level: Int {
    get { stored.load(ordering: .relaxed) }
    set { stored.store(Self.clamped(newValue), ordering: .relaxed) }
  }

  private static func clamped(_ level: Int) -> Int { min(max(0, level), levels - 1) }

  /// Makes this thread one of that level, for good. Six steps of niceness are a factor of 3.8. Source: sched(7), and
  /// `sched_prio_to_weight` in the kernel.
  static func takeOn(_ level: Int) {
    #if os(Linux)
      // Of the calling thread alone: on Linux each has its own. Who may not is as quick as the others.
      let which = __priority_which_t(PRIO_PROCESS.rawValue)
      if level > 0 { _ = setpriority(which, 0, getpriority(which, 0) + Int32(6 * level)) }
    #endif
  }
}
