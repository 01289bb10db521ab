import Core

/// Follows the log of one store's changes while the store writes it.
///
/// The log is seen as files that only grow, one after the other: WAL segments, binlogs, append-only files. A follower
/// mirrors them into a ``LogSink`` byte by byte and invents nothing: where bytes are missing it says so with
/// ``LogSink/begin(_:)``, and the record has a gap with a name.
package protocol LogFollower: Sendable {
  /// Follows until it is cancelled or can't go on.
  ///
  /// - Parameters:
  ///   - end: Where the sink's log ends; `nil` if it has none.
  ///   - hint: The newest copy's position, from where a log that begins should be had, if it still can be.
  /// - Throws: ``DriverError``; the caller decides when to come again. Nothing in the sink is lost by it.
  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError)

  /// The place of a position in the log's files.
  ///
  /// - Parameters:
  ///   - position: A capture's mark, or what an operator wrote; then details may be missing.
  ///   - capture: A copy of the store, for what the position does not say.
  ///   - files: Names of the files it is looked for in, in their order.
  /// - Returns: `nil` for a position that isn't the store's.
  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor?

  /// The moment that a position is, for a store whose positions are moments and not places in its log's files: it is come
  /// back to as a time is. Its ``cursor(of:in:among:)`` is a place at or before which nothing is later.
  func moment(of position: LogPosition) -> Timestamp?

  /// What a stretch of the log tells, one by one: each changes the store as a whole or not at all.
  ///
  /// - Parameters:
  ///   - start: A place between two of them, such as a copy's mark; what is before it is passed over.
  ///   - scratch: A file of the caller's that the log's bytes may be put into.
  ///   - limit: The most that are wanted.
  /// - Returns: `nil` for a log whose events nobody has taught us to tell apart.
  func events(
    in log: any LogSource, from start: LogCursor, scratch: String, limit: Int
  ) async throws(DriverError) -> [LogEvent]?
}

extension LogFollower {
  package func moment(of position: LogPosition) -> Timestamp? { nil }

  package func events(
    in log: any LogSource, from start: LogCursor, scratch: String, limit: Int
  ) async throws(DriverError) -> [LogEvent]? { nil }
}

/// One thing that a log tells.
package struct LogEvent: Hashable, Sendable, Codable {
  /// The first byte that is no more of it.
  package var end: LogCursor
  /// For people, cut where it is long.
  package var what: String
  /// For programs.
  package var payload: JSONValue

  package init(end: LogCursor, what: String, payload: JSONValue) {
    (self.end, self.what, self.payload) = (end, what, payload)
  }
}

/// A place in a log's files: so many bytes into that file.
package struct LogCursor: Hashable, Sendable, Codable, CustomStringConvertible {
  package var file: String
  package var offset: Int64

  package init(_ file: String, _ offset: Int64) { (self.file, self.offset) = (file, offset) }

  package var description: String { "\(file)+\(offset)" }
}

/// Where a log ends, for whoever goes on with it.
package struct LogEnd: Hashable, Sendable {
  package var stream: String
  package var cursor: LogCursor
  package var position: LogPosition
  /// The last bytes of it, as far as they are in the cursor's file: to be compared with what the store says lies there. A
  /// store that was brought back to an earlier state may have gone on past the end with something else.
  package var tail: [UInt8]

  /// How much of it is kept.
  package static let tailBytes = 8192

  package init(stream: String, cursor: LogCursor, position: LogPosition, tail: [UInt8] = []) {
    (self.stream, self.cursor, self.position, self.tail) = (stream, cursor, position, tail)
  }
}

/// The start of an unbroken stretch of log.
package struct LogBeginning: Hashable, Sendable, Codable {
  /// Whose log it is, such as a cluster's system identifier. Becomes a directory's name.
  package var stream: String
  package var cursor: LogCursor
  package var position: LogPosition
  /// Why it doesn't go on from what was there; `nil` if nothing was.
  package var why: String?

  package init(stream: String, cursor: LogCursor, position: LogPosition, why: String?) {
    (self.stream, self.cursor, self.position, self.why) = (stream, cursor, position, why)
  }
}

/// Where and when a log stood.
package struct LogMark: Hashable, Sendable {
  package var position: LogPosition
  /// When the first and the last transaction was committed of what came with the mark, by the server's clock; `nil` if
  /// there was none, or nobody can tell.
  package var firstCommit: Timestamp?
  package var lastCommit: Timestamp?
  /// All that the server acknowledged before this moment of its clock lies before the position; `nil` if more is known to
  /// be on its way.
  package var completeUntil: Timestamp?

  package init(
    position: LogPosition, firstCommit: Timestamp? = nil, lastCommit: Timestamp? = nil, completeUntil: Timestamp? = nil
  ) {
    (self.position, self.firstCommit, self.lastCommit) = (position, firstCommit, lastCommit)
    self.completeUntil = completeUntil
  }
}

/// Bytes at the end of a log.
package struct LogChunk: Sendable {
  package var file: String
  package var offset: Int64
  package var bytes: [UInt8]
  /// The place, in the file before, that a new file goes on from; `nil` if this goes on in the same file.
  package var follows: LogCursor?
  package var mark: LogMark

  package init(file: String, offset: Int64, bytes: [UInt8], follows: LogCursor? = nil, mark: LogMark) {
    (self.file, self.offset, self.bytes, self.follows, self.mark) = (file, offset, bytes, follows, mark)
  }
}

extension LogSink {
  /// Whether what comes next may be left for a while, after so many bytes were all that was there.
  ///
  /// A server that finds a socket's buffer full waits; one of small packets is full with far less than its size.
  package func mayGather(after bytes: Int) -> Bool { (1..<(16 << 10)).contains(bytes) }
}

/// Takes a log as it grows. Calls never wait; who finds no room comes again later.
package protocol LogSink: Sendable {
  /// Whether more may be appended now. While it may not, the follower goes on telling its server that it lives.
  var hasRoom: Bool { get }

  /// How long what comes may be left with its server, so that much is read at once: a look for each transaction would keep a
  /// processor busy.
  var gathering: Duration { get }

  /// The newest position that survives the loss of this machine; nothing may be acknowledged beyond it.
  var durable: LogPosition? { get }

  /// A new stretch begins; what lies between it and the end of the last one is not in the log.
  func begin(_ beginning: LogBeginning)

  /// - Throws: ``DriverError/logGap(_:)`` for bytes that don't go on where the log ends; nothing is taken then.
  func append(_ chunk: LogChunk) throws(DriverError)

  /// A small file that belongs to the log and isn't part of the stream, such as a timeline's history. Whole; again is fine.
  func attach(_ name: String, _ bytes: [UInt8])

  /// Nothing came, and the server says that there is nothing.
  func note(_ mark: LogMark)
}

// MARK: Going forward from a copy

/// Where a restore is to end, beyond its copy's mark.
package enum LogTarget: Hashable, Sendable, Codable {
  /// The end of the log, or of what is lent of it.
  case newest
  /// The last transaction committed at or before this moment of the server's clock.
  case time(Timestamp)
  /// A name that was given to a moment in the log.
  case name(String)
  /// That transaction, and what was committed before it.
  case transaction(String)
}

/// A stretch of one file of a log.
package struct LogExtent: Hashable, Sendable, Codable {
  package var file: String
  /// In bytes; `to` is the first that is not in it.
  package var from: Int64
  package var to: Int64
  package var follows: LogCursor?

  package init(_ file: String, from: Int64, to: Int64, follows: LogCursor? = nil) {
    (self.file, self.from, self.to, self.follows) = (file, from, to, follows)
  }

  package var end: LogCursor { LogCursor(file, to) }
}

/// A log that a restore may read.
package protocol LogSource: Sendable {
  /// In the order of the log, from the copy's mark or earlier to the end of what is lent, without a hole.
  func extents() async throws(AnyFailure) -> [LogExtent]

  /// Names of files that were attached.
  func attachments() async throws(AnyFailure) -> [String]

  /// Hands out an extent's bytes: pieces of any size, in any order.
  func read(
    _ extent: LogExtent, _ each: @escaping @Sendable (_ offset: Int64, _ bytes: [UInt8]) async throws -> Void
  ) async throws(AnyFailure)

  func attachment(_ name: String, limitBytes: Int) async throws(AnyFailure) -> [UInt8]
}

/// How a restore goes on from its copy.
package struct LogReplay: Sendable {
  package var source: any LogSource
  package var target: LogTarget

  package init(source: any LogSource, target: LogTarget) { (self.source, self.target) = (source, target) }
}
