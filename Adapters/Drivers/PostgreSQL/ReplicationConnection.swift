import CPQ
import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A connection that streams a server's log, as a standby's does.
///
/// One caller at a time; calls block on the pool, and wait at most as long as they are told.
///
/// Source: PostgreSQL 15, "Streaming Replication Protocol".
final class ReplicationConnection: Sendable {
  enum Message: Sendable {
    /// Log from `start` on; the server's own log ended at `end` when it sent this, at `clock`.
    case data(start: LogSequenceNumber, end: LogSequenceNumber, clock: Timestamp, bytes: [UInt8])
    case alive(end: LogSequenceNumber, clock: Timestamp, wantsReply: Bool)
    /// The timeline came to its end; there is one that goes on from it.
    case timelineEnded(next: UInt32, start: LogSequenceNumber)

    /// How much log is in it.
    var byteCount: Int { if case .data(_, _, _, let bytes) = self { bytes.count } else { 0 } }
  }

  struct Identity: Sendable {
    var systemIdentifier: String
    var timeline: UInt32
    /// How far the server has its log on disk.
    var flushed: LogSequenceNumber
  }

  struct Slot: Sendable {
    /// `nil` if the server no longer keeps its log for the slot.
    var restart: LogSequenceNumber?
    var isPhysical: Bool
  }

  private struct Handle { var pointer: OpaquePointer? }

  private let handle: Mutex<Handle>
  private let pool: BlockingPool

  private init(adopting pointer: sending OpaquePointer, pool: BlockingPool) {
    handle = Mutex(Handle(pointer: pointer))
    self.pool = pool
  }

  deinit { handle.withLock { if let pointer = $0.pointer { PQfinish(pointer) } } }

  static func open(_ address: ServerAddress, password: Secret?, pool: BlockingPool) async throws(DriverError)
    -> ReplicationConnection
  {
    var address = address
    address.isReplication = true
    let place = address
    return try await pool.run { () throws(DriverError) -> ReplicationConnection in
      guard let pointer = place.connect(password: password) else { throw .unreachable("\(place): out of memory") }
      if PQstatus(pointer) == CONNECTION_OK {
        PQsetNoticeProcessor(pointer, { _, _ in }, nil)
        nonisolated(unsafe) let adopted = pointer
        return ReplicationConnection(adopting: adopted, pool: pool)
      }
      let message = oneLine(PQerrorMessage(pointer))
      let needsPassword = PQconnectionNeedsPassword(pointer) != 0
      PQfinish(pointer)
      // Which right is missing, the server says in words only.
      if message.contains("must be superuser or replication role") || message.contains("permission denied") {
        throw .permissionDenied(message, needs: "the role attribute REPLICATION, as docs/operating/continuous.md says")
      }
      if needsPassword || refusesUs(message) {
        throw .authenticationFailed("\(place), for replication: \(message)")
      }
      throw .unreachable("PostgreSQL at \(place): \(message)")
    }
  }

  // MARK: Commands

  var serverVersion: Int { handle.withLock { handle in handle.pointer.map { Int(PQserverVersion($0)) } ?? 0 } }

  func identify() async throws(StatementFailure) -> Identity {
    let row = try await row("IDENTIFY_SYSTEM")
    guard row.count >= 3, let identifier = row[0], let timeline = row[1].flatMap({ UInt32($0) }),
      let flushed = row[2].flatMap({ LogSequenceNumber($0) })
    else { throw StatementFailure(code: "XX000", message: "the server did not say who it is") }
    return Identity(systemIdentifier: identifier, timeline: timeline, flushed: flushed)
  }

  func geometry() async throws(StatementFailure) -> LogGeometry {
    let text = try await row("SHOW wal_segment_size").first ?? nil
    let units: [(String, UInt64)] = [("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30)]
    for (unit, bytes) in units {
      guard let text, text.hasSuffix(unit), let count = UInt64(text.dropLast(unit.count)), count <= 1 << 30 else {
        continue
      }
      if let geometry = LogGeometry(segmentBytes: count * bytes) { return geometry }
    }
    throw StatementFailure(code: "XX000", message: "the server did not say how long its segments are")
  }

  /// - Returns: `nil` if there is no such slot.
  func slot(_ name: String) async throws(StatementFailure) -> Slot? {
    let row = try await row("READ_REPLICATION_SLOT \(Self.quoted(name))")
    guard let type = row.first ?? nil else { return nil }
    return Slot(restart: row.count > 1 ? row[1].flatMap { LogSequenceNumber($0) } : nil, isPhysical: type == "physical")
  }

  func createSlot(_ name: String) async throws(StatementFailure) {
    _ = try await row("CREATE_REPLICATION_SLOT \(Self.quoted(name)) PHYSICAL (RESERVE_WAL true)")
  }

  func dropSlot(_ name: String) async throws(StatementFailure) {
    _ = try await row("DROP_REPLICATION_SLOT \(Self.quoted(name))")
  }

  /// The file that says where timelines branch off.
  func history(of timeline: UInt32) async throws(StatementFailure) -> (name: String, bytes: [UInt8]) {
    let fields = try await raw("TIMELINE_HISTORY \(timeline)")
    guard fields.count == 2, let name = fields[0], let bytes = fields[1], bytes.count <= 1 << 20 else {
      throw StatementFailure(code: "XX000", message: "the server has no history of timeline \(timeline)")
    }
    return (String(decoding: name, as: UTF8.self), bytes)
  }

  /// - Returns: `nil` if the log streams; else where the timeline ended, which it did right there.
  func start(
    slot: String, at position: LogSequenceNumber, timeline: UInt32
  ) async throws(StatementFailure) -> Message? {
    let command = "START_REPLICATION SLOT \(Self.quoted(slot)) PHYSICAL \(position) TIMELINE \(timeline)"
    return try await perform { (pointer) throws(StatementFailure) in
      guard PQsendQuery(pointer, command) == 1 else { throw lost(pointer) }
      var ended: Message?
      while let result = PQgetResult(pointer) {
        defer { PQclear(result) }
        switch PQresultStatus(result) {
        case PGRES_COPY_BOTH: return nil
        case PGRES_TUPLES_OK: ended = try timelineEnd(result)
        case PGRES_COMMAND_OK: continue
        default: throw failure(of: result)
        }
      }
      guard let ended else { throw StatementFailure(code: "", message: "the server has nothing to stream") }
      return ended
    }
  }

  private static func quoted(_ name: String) -> String {
    "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
  }

  private func row(_ command: String) async throws(StatementFailure) -> [String?] {
    try await raw(command).map { field in field.map { String(decoding: $0, as: UTF8.self) } }
  }

  private func raw(_ command: String) async throws(StatementFailure) -> [[UInt8]?] {
    try await perform { (pointer) throws(StatementFailure) in
      guard let result = PQexec(pointer, command) else { throw lost(pointer) }
      defer { PQclear(result) }
      guard [PGRES_TUPLES_OK, PGRES_COMMAND_OK].contains(PQresultStatus(result)) else { throw failure(of: result) }
      guard PQntuples(result) > 0 else { return [] }
      return (0..<PQnfields(result)).map { column in
        if PQgetisnull(result, 0, column) == 1 { return nil }
        return Array(
          UnsafeRawBufferPointer(start: PQgetvalue(result, 0, column), count: Int(PQgetlength(result, 0, column))))
      }
    }
  }

  // MARK: Streaming

  /// What has come, up to `limitBytes` and a little; nothing if nothing comes in time.
  func receive(limitBytes: Int, wait: Duration) async throws(StatementFailure) -> [Message] {
    let milliseconds = Int32(clamping: wait.wholeNanoseconds / 1_000_000)
    return try await perform { (pointer) throws(StatementFailure) in
      var messages: [Message] = []
      var bytes = 0
      var hasWaited = false
      while bytes < limitBytes {
        var buffer: UnsafeMutablePointer<CChar>?
        let count = PQgetCopyData(pointer, &buffer, 1)
        switch count {
        case 1...:
          defer { PQfreemem(buffer) }
          guard let buffer else { continue }
          let message = try Self.message(UnsafeRawBufferPointer(start: buffer, count: Int(count)))
          bytes += message.byteCount
          messages.append(message)
        case 0:
          if hasWaited, messages.isEmpty { return messages }
          hasWaited = true
          var descriptor = pollfd(fd: PQsocket(pointer), events: Int16(POLLIN), revents: 0)
          // All that is there is taken; more is not waited for.
          if poll(&descriptor, 1, messages.isEmpty ? milliseconds : 0) == 0, !messages.isEmpty { return messages }
          guard PQconsumeInput(pointer) == 1 else { throw lost(pointer) }
        case -1:
          // What came before is given out first; the end is met again.
          if !messages.isEmpty { return messages }
          return [try Self.end(of: pointer)]
        default: throw lost(pointer)
        }
      }
      return messages
    }
  }

  /// Source: PostgreSQL 15, "Streaming Replication Protocol", XLogData and Primary keepalive message.
  private static func message(_ raw: UnsafeRawBufferPointer) throws(StatementFailure) -> Message {
    func number(_ offset: Int) -> UInt64 {
      UInt64(bigEndian: raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
    switch raw[0] {
    case 119 where raw.count >= 25:
      return .data(
        start: LogSequenceNumber(number(1)), end: LogSequenceNumber(number(9)), clock: serverTime(number(17)),
        bytes: Array(raw[25...]))
    case 107 where raw.count >= 18:
      return .alive(end: LogSequenceNumber(number(1)), clock: serverTime(number(9)), wantsReply: raw[17] == 1)
    default: throw StatementFailure(code: "08P01", message: "the server sent a message nobody knows")
    }
  }

  /// The server has ended the stream: for an error, or because the timeline is at its end.
  private static func end(of pointer: OpaquePointer) throws(StatementFailure) -> Message {
    var ended: Message?
    var isAnswered = false
    while let result = PQgetResult(pointer) {
      defer { PQclear(result) }
      switch PQresultStatus(result) {
      case PGRES_COPY_IN, PGRES_COPY_BOTH:
        guard !isAnswered, PQputCopyEnd(pointer, nil) == 1, PQflush(pointer) >= 0 else { throw lost(pointer) }
        isAnswered = true
      case PGRES_TUPLES_OK: ended = try timelineEnd(result)
      case PGRES_COMMAND_OK, PGRES_EMPTY_QUERY: continue
      default: throw failure(of: result)
      }
    }
    guard let ended else { throw StatementFailure(code: "", message: "the server ended the stream") }
    return ended
  }

  /// Tells how far the log is durable here.
  ///
  /// Written, flushed: both mean "durable", so that no setting of synchronous_commit makes a commit wait for less. Applied
  /// is never said: nothing is.
  ///
  /// - Parameter asking: The server is to answer with where its log ends.
  func acknowledge(_ position: LogSequenceNumber, at clock: Timestamp, asking: Bool) async throws(StatementFailure) {
    var message: [UInt8] = [114]
    func add(_ value: UInt64) { withUnsafeBytes(of: value.bigEndian) { message += $0 } }
    add(position.value)
    add(position.value)
    add(0)
    add(UInt64(bitPattern: (clock.nanoseconds - epochNanoseconds) / 1000))
    message.append(asking ? 1 : 0)
    let bytes = message
    try await perform { (pointer) throws(StatementFailure) in
      let sent = bytes.withUnsafeBytes { raw in
        PQputCopyData(pointer, raw.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(raw.count))
      }
      guard sent == 1, PQflush(pointer) >= 0 else { throw lost(pointer) }
    }
  }

  func close() async {
    await pool.run {
      self.handle.withLock { handle in
        if let pointer = handle.pointer { PQfinish(pointer) }
        handle.pointer = nil
      }
    }
  }

  private func perform<T: Sendable>(
    _ body: @escaping @Sendable (OpaquePointer) throws(StatementFailure) -> T
  ) async throws(StatementFailure) -> T {
    let result = await pool.run { () -> Result<T, StatementFailure> in
      self.handle.withLock { handle -> Result<T, StatementFailure> in
        guard let pointer = handle.pointer else {
          return .failure(StatementFailure(code: "", message: "the connection is closed"))
        }
        do throws(StatementFailure) { return .success(try body(pointer)) } catch { return .failure(error) }
      }
    }
    return try result.get()
  }
}

/// 2000-01-01, where the server's clock begins.
let epochNanoseconds: Int64 = 946_684_800 * 1_000_000_000

/// From microseconds since 2000.
func serverTime(_ microseconds: UInt64) -> Timestamp {
  let (product, overflow) = Int64(bitPattern: microseconds).multipliedReportingOverflow(by: 1000)
  let (sum, tooLate) = product.addingReportingOverflow(epochNanoseconds)
  return Timestamp(nanoseconds: overflow || tooLate ? 0 : sum)
}

private func timelineEnd(_ result: OpaquePointer) throws(StatementFailure) -> ReplicationConnection.Message {
  guard PQntuples(result) == 1, PQnfields(result) == 2,
    let next = UInt32(String(cString: PQgetvalue(result, 0, 0))),
    let start = LogSequenceNumber(String(cString: PQgetvalue(result, 0, 1)))
  else { throw StatementFailure(code: "XX000", message: "the server did not say which timeline comes next") }
  return .timelineEnded(next: next, start: start)
}

private func failure(of result: OpaquePointer) -> StatementFailure {
  // 67 is the letter C: the field with the code.
  let code = PQresultErrorField(result, 67).map { String(cString: $0) } ?? ""
  return StatementFailure(code: code, message: oneLine(PQresultErrorMessage(result)))
}

private func lost(_ pointer: OpaquePointer) -> StatementFailure {
  StatementFailure(code: "", message: oneLine(PQerrorMessage(pointer)))
}

private func oneLine(_ pointer: UnsafePointer<CChar>?) -> String {
  guard let pointer else { return "" }
  return String(cString: pointer).split(whereSeparator: \.isNewline).joined(separator: "; ")
}
