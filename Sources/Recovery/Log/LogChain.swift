import Core
import DriverKit

/// Stretches of log that go on from one another without a hole.
package struct LogChain: Sendable, Equatable {
  package var spans: [StoredSpan]
  /// What is missing between this chain and the one before it; `nil` for the first.
  package var gap: LogGap?

  /// A chain is never empty.
  package var first: LogSpan { spans[0].span }
  package var last: LogSpan { spans[spans.count - 1].span }
  package var stream: String { first.stream }
  package var from: LogPosition { first.from }
  package var to: LogPosition { last.to }
  /// The last word on it, not the latest time: a clock that was ahead may have been put right.
  package var completeUntil: Timestamp? { spans.last { $0.span.completeUntil != nil }?.span.completeUntil }
  package var lastCommit: Timestamp? { spans.compactMap(\.span.lastCommit).max() }
  package var end: LogEnd { LogEnd(stream: stream, cursor: last.end, position: to) }
  package var extents: [LogExtent] {
    var result: [LogExtent] = []
    for stored in spans { for extent in stored.span.extents { result.add(extent) } }
    return result
  }

  /// Where `cursor` is in the chain; comparable with another's place in the same chain.
  package func place(of cursor: LogCursor) -> LogPlace? {
    if cursor == first.after { return LogPlace(extent: -1, offset: cursor.offset) }
    // The newest of that name: a file is never gone back to.
    let extents = extents
    guard
      let index = extents.lastIndex(where: {
        $0.file == cursor.file && $0.from <= cursor.offset && cursor.offset <= $0.to
      })
    else { return nil }
    return LogPlace(extent: index, offset: cursor.offset)
  }
}

package struct LogPlace: Comparable, Sendable {
  var extent: Int
  var offset: Int64

  package static func < (a: Self, b: Self) -> Bool { (a.extent, a.offset) < (b.extent, b.offset) }
}

/// A stretch of log that nobody has.
package struct LogGap: Sendable, Equatable, Codable {
  package var after: LogPosition
  package var before: LogPosition
  /// The moments between which nothing but copies can be come back to; by the server's clock where it is known.
  package var afterTime: Timestamp?
  package var beforeTime: Timestamp?
  package var why: String
}

/// Orders stretches into chains. Pure. O(*n* log *n*).
///
/// What was joined and not yet removed is passed over; where numbers or places don't fit, a gap says so.
package func chains(of spans: [StoredSpan]) -> [LogChain] {
  let ordered = spans.sorted { a, b in
    let (x, y) = (a.span.numbers, b.span.numbers)
    if x.lowerBound != y.lowerBound { return x.lowerBound < y.lowerBound }
    return x.upperBound != y.upperBound ? x.upperBound > y.upperBound : a.snapshot < b.snapshot
  }
  let chosen = chosen(among: ordered)
  var chains: [LogChain] = []
  var known: Int64 = 0
  for stored in chosen where stored.span.numbers.upperBound > known {
    defer { known = stored.span.numbers.upperBound }
    guard let last = chains.last?.last else {
      chains.append(LogChain(spans: [stored], gap: nil))
      continue
    }
    if last.isFollowed(by: stored.span) {
      chains[chains.count - 1].spans.append(stored)
    } else {
      chains.append(LogChain(spans: [stored], gap: gap(between: last, and: stored.span)))
    }
  }
  return chains
}

/// One stretch for each number: whoever stopped may have written its last ones after another had taken over from the same
/// place. Newest first, so that the one is chosen that the log goes on from.
private func chosen(among ordered: [StoredSpan]) -> [StoredSpan] {
  var result: [StoredSpan] = []
  /// What was chosen, by its first number.
  var next: [Int64: [StoredSpan]] = [:]
  var index = ordered.count
  while index > 0 {
    var first = index - 1
    while first > 0, ordered[first - 1].span.numbers == ordered[index - 1].span.numbers { first -= 1 }
    let same = ordered[first..<index]
    let after = next[same[first].span.numbers.upperBound + 1] ?? []
    let stored = same.first { one in after.contains { one.span.isFollowed(by: $0.span) } } ?? same[first]
    result.append(stored)
    next[stored.span.numbers.lowerBound, default: []].append(stored)
    index = first
  }
  return result.reversed()
}

private func gap(between last: LogSpan, and next: LogSpan) -> LogGap {
  let why: String
  if let said = next.beginning?.why {
    why = said
  } else if next.beginning != nil {
    why = "the log began anew"
  } else if next.numbers.lowerBound > last.numbers.upperBound + 1 {
    let missing = (last.numbers.upperBound + 1)...(next.numbers.lowerBound - 1)
    why = "stretches \(missing.lowerBound) to \(missing.upperBound) of the log are not in the repository"
  } else {
    why = "stretch \(next.numbers.lowerBound) goes on at \(next.after), and the one before it ended at \(last.end)"
  }
  return LogGap(
    after: last.to, before: next.from, afterTime: last.completeUntil ?? last.lastCommit,
    beforeTime: next.firstCommit ?? next.completeUntil, why: why)
}
