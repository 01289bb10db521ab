import Core
import DriverKit

/// A stretch of a store's log that became durable at once, or several that were joined.
///
/// Written into the vault as `log.json` of an ordinary snapshot, beside the bytes themselves. `docs/formats/log.md` has the
/// layout.
package struct LogSpan: Sendable, Equatable, Codable {
  package static let format = "salvor.dev/log/v1"

  package var format = LogSpan.format
  package var store: StoreName
  package var driver: DriverName
  package var host: String
  /// Stretches are numbered as they are written, from 1; a joined one has the numbers of all it was joined from.
  package var numbers: ClosedRange<Int64>
  /// Set where the log does not go on from the stretch before.
  package var beginning: LogBeginning?
  package var stream: String
  /// Where this goes on from, and where it ends.
  package var after: LogCursor
  package var end: LogCursor
  package var from: LogPosition
  package var to: LogPosition
  /// Empty for a stretch that only says that nothing happened.
  package var extents: [LogExtent]
  package var attachments: [String]
  /// By the server's clock; `nil` if there was none, or nobody can tell.
  package var firstCommit: Timestamp?
  package var lastCommit: Timestamp?
  /// All that the server acknowledged before this moment of its clock is in the log up to here.
  package var completeUntil: Timestamp?
  /// When the first and the last of it came, by the follower's clock.
  package var receivedFrom: Timestamp
  package var receivedTo: Timestamp

  private enum CodingKeys: String, CodingKey {
    case format, store, driver, host, first, last, beginning, stream, after, end, from, to, extents, attachments
    case firstCommit, lastCommit, completeUntil, receivedFrom, receivedTo
  }
}

extension LogSpan {
  package init(from decoder: any Decoder) throws {
    let values = try decoder.container(keyedBy: CodingKeys.self)
    format = try values.decode(String.self, forKey: .format)
    store = try values.decode(StoreName.self, forKey: .store)
    driver = try values.decode(DriverName.self, forKey: .driver)
    host = try values.decode(String.self, forKey: .host)
    let (first, last) = (
      try values.decode(Int64.self, forKey: .first), try values.decode(Int64.self, forKey: .last)
    )
    guard format == Self.format, first >= 1, last >= first, last < .max else {
      throw DecodingError.dataCorruptedError(
        forKey: .format, in: values, debugDescription: "not a stretch of log, or of a later version")
    }
    numbers = first...last
    beginning = try values.decodeIfPresent(LogBeginning.self, forKey: .beginning)
    stream = try values.decode(String.self, forKey: .stream)
    after = try values.decode(LogCursor.self, forKey: .after)
    end = try values.decode(LogCursor.self, forKey: .end)
    from = try values.decode(LogPosition.self, forKey: .from)
    to = try values.decode(LogPosition.self, forKey: .to)
    extents = try values.decode([LogExtent].self, forKey: .extents)
    attachments = try values.decode([String].self, forKey: .attachments)
    firstCommit = try values.decodeIfPresent(Timestamp.self, forKey: .firstCommit)
    lastCommit = try values.decodeIfPresent(Timestamp.self, forKey: .lastCommit)
    completeUntil = try values.decodeIfPresent(Timestamp.self, forKey: .completeUntil)
    receivedFrom = try values.decode(Timestamp.self, forKey: .receivedFrom)
    receivedTo = try values.decode(Timestamp.self, forKey: .receivedTo)
    guard isWhole else {
      throw DecodingError.dataCorruptedError(
        forKey: .extents, in: values, debugDescription: "its files do not go on from one another")
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var values = encoder.container(keyedBy: CodingKeys.self)
    try values.encode(format, forKey: .format)
    try values.encode(store, forKey: .store)
    try values.encode(driver, forKey: .driver)
    try values.encode(host, forKey: .host)
    try values.encode(numbers.lowerBound, forKey: .first)
    try values.encode(numbers.upperBound, forKey: .last)
    try values.encodeIfPresent(beginning, forKey: .beginning)
    try values.encode(stream, forKey: .stream)
    try values.encode(after, forKey: .after)
    try values.encode(end, forKey: .end)
    try values.encode(from, forKey: .from)
    try values.encode(to, forKey: .to)
    try values.encode(extents, forKey: .extents)
    try values.encode(attachments, forKey: .attachments)
    try values.encodeIfPresent(firstCommit, forKey: .firstCommit)
    try values.encodeIfPresent(lastCommit, forKey: .lastCommit)
    try values.encodeIfPresent(completeUntil, forKey: .completeUntil)
    try values.encode(receivedFrom, forKey: .receivedFrom)
    try values.encode(receivedTo, forKey: .receivedTo)
  }

  /// In bytes; more is no file of any log.
  private static let longestFile: Int64 = 1 << 50

  /// Whether its extents lead from ``after`` to ``end`` without a hole.
  var isWhole: Bool {
    var cursor = after
    for extent in extents {
      guard extent.from >= 0, extent.to > extent.from, extent.to <= Self.longestFile, extent.goesOn(from: cursor) else {
        return false
      }
      cursor = extent.end
    }
    return cursor == end
  }

  /// Whether `next` goes on exactly where this ends.
  func isFollowed(by next: LogSpan) -> Bool {
    next.beginning == nil && next.stream == stream && numbers.upperBound + 1 == next.numbers.lowerBound
      && next.after == end
  }

  /// Whether every byte of `other` is in this too.
  func holds(_ other: LogSpan) -> Bool {
    stream == other.stream && Set(other.attachments).isSubset(of: attachments)
      && other.extents.allSatisfy { theirs in
        extents.contains { $0.file == theirs.file && $0.from <= theirs.from && theirs.to <= $0.to }
      }
  }

  /// This and what follows it, as one.
  func joined(with next: LogSpan) -> LogSpan {
    var result = self
    result.numbers = numbers.lowerBound...next.numbers.upperBound
    (result.end, result.to) = (next.end, next.to)
    for extent in next.extents { result.extents.add(extent) }
    result.attachments = Set(attachments).union(next.attachments).sorted()
    result.firstCommit = [firstCommit, next.firstCommit].compactMap(\.self).min()
    result.lastCommit = [lastCommit, next.lastCommit].compactMap(\.self).max()
    result.completeUntil = next.completeUntil ?? completeUntil
    result.receivedTo = next.receivedTo
    return result
  }
}

extension LogExtent {
  func goesOn(from cursor: LogCursor) -> Bool {
    if let follows { return follows == cursor && from == 0 && file != cursor.file }
    return LogCursor(file, from) == cursor
  }
}

extension [LogExtent] {
  /// Puts an extent at the end, in one with the last if it goes on in the same file.
  mutating func add(_ extent: LogExtent) {
    if extent.follows == nil, let last = indices.last, self[last].file == extent.file, self[last].to == extent.from {
      self[last].to = extent.to
    } else {
      append(extent)
    }
  }
}

/// A stretch, and the snapshot it is in.
package struct StoredSpan: Sendable, Equatable {
  package var snapshot: Digest
  package var tree: Digest
  package var span: LogSpan
}
