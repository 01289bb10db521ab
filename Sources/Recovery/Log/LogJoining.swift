import Core

/// Which stretches become one, as they age: those of a minute, of an hour, of a day.
package enum LogJoining {
  /// The lengths of what is joined, in seconds.
  static let seconds: [Int64] = [60, 3600, 86_400]

  /// Runs of stretches to be joined now, each within one chain and one stretch of the clock that has passed. Pure.
  ///
  /// Longer ones first: a minute that lies in an hour that has passed is joined once, not twice.
  package static func due(in chain: LogChain, now: Timestamp) -> [[StoredSpan]] {
    var due: [[StoredSpan]] = []
    var rest = chain.spans
    for length in seconds.reversed() {
      var left: [StoredSpan] = []
      var run: [StoredSpan] = []
      func close() {
        if run.count > 1 { due.append(run) } else { left += run }
        run = []
      }
      for stored in rest {
        let bucket = bucket(stored.span, length)
        // What reaches over a boundary stays as it is: it has its size already.
        guard let bucket, bucket < now.nanoseconds / (length * 1_000_000_000) else {
          close()
          left.append(stored)
          continue
        }
        if let last = run.last, Self.bucket(last.span, length) != bucket || !last.span.isFollowed(by: stored.span) {
          close()
        }
        run.append(stored)
      }
      close()
      rest = left
    }
    return due
  }

  private static func bucket(_ span: LogSpan, _ length: Int64) -> Int64? {
    let nanoseconds = length * 1_000_000_000
    let (from, to) = (span.receivedFrom.nanoseconds / nanoseconds, span.receivedTo.nanoseconds / nanoseconds)
    // A stretch of seconds that begins in one minute and ends in the next belongs to where it ends.
    if to - from == 1, span.receivedTo.nanoseconds - span.receivedFrom.nanoseconds <= nanoseconds / 2 { return to }
    return from == to ? to : nil
  }
}
