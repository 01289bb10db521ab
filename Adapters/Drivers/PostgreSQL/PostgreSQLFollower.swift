import Core
import DriverKit
import IO

extension PostgreSQLDriver {
  func follower() -> (any LogFollower)? {
    if let archiveDirectory { return PostgreSQLArchiveFollower(driver: self, directory: archiveDirectory) }
    return PostgreSQLFollower(driver: self)
  }
}

/// Receives a server's write-ahead log as a standby does, through a physical slot of our own.
///
/// The slot keeps the server's log until the sink says it is durable; the same word is what a commit waits for that is to
/// be synchronous with us.
struct PostgreSQLFollower: LogFollower {
  let driver: PostgreSQLDriver

  /// For `synchronous_standby_names`; the slot has the same name.
  var name: String {
    let name = "salvor_" + driver.store.text.replacing("-", with: "_")
    // More than the server's limit of 63 bytes.
    return name.utf8.count <= 63 ? name : "\(name.prefix(54))_\(Digest.of(driver.store.text).short)"
  }

  private static let readBytes = 1 << 20
  /// How often we say that we live, and ask the server to say where its log ends. Its own patience is a minute.
  private static let sign: Duration = .seconds(2)

  // MARK: Where to begin

  private struct Start {
    var timeline: UInt32
    var position: LogSequenceNumber
    /// Set unless the sink's log is gone on with.
    var why: String?
    var isNew: Bool
    /// What the sink's log has from ``position`` on; what goes on comes after it.
    var known: [UInt8] = []
  }

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    var refused: String?
    var hint = hint
    while true {
      let session = try await open()
      let outcome: Result<Void, StatementFailure>
      do throws(StatementFailure) {
        let start = try await start(
          session, from: refused == nil ? end : nil, hint: hint, refused, hadEnd: end != nil, sink)
        try await stream(session, from: start, into: sink)
        outcome = .success(())
      } catch { outcome = .failure(error) }
      await session.connection.close()
      do throws(StatementFailure) { return try outcome.get() } catch {
        if Task.isCancelled { throw .cancelled }
        guard refused == nil || hint != nil, let why = Self.refusal(error) else {
          // What differs from a log that has begun here differs in flight: the next try will tell.
          if error.code == Self.sinkRefused || error.code == Self.differs { throw .logGap(error.message) }
          throw error.followingError
        }
        // Once to where the log should have gone on, once to what is still there.
        if end == nil || refused != nil { hint = nil }
        refused = why
      }
    }
  }

  private struct Session {
    var connection: ReplicationConnection
    var identity: ReplicationConnection.Identity
    var geometry: LogGeometry
    var slot: LogSequenceNumber
  }

  private func open() async throws(DriverError) -> Session {
    var address = driver.address
    address.applicationName = name
    var secret: Secret?
    if let password = driver.password {
      do throws(AnyFailure) { secret = try await driver.environment.resolve(password) } catch {
        throw DriverError(error)
      }
    }
    let connection = try await ReplicationConnection.open(
      address, password: secret, pool: driver.environment.pool)
    guard ClusterFacts.supported.contains(connection.serverVersion / 10_000) else {
      await connection.close()
      throw .unsupported("the log of PostgreSQL \(connection.serverVersion / 10_000) can't be followed by this version")
    }
    do throws(StatementFailure) {
      let identity = try await connection.identify()
      let geometry = try await connection.geometry()
      var slot = try await connection.slot(name)
      if let found = slot, !found.isPhysical {
        throw StatementFailure(code: "42710", message: "slot \(name) is a logical one: it is not Salvor's")
      }
      if let found = slot, found.restart == nil {
        // The server gave it up, for it had to keep too much.
        try await connection.dropSlot(name)
        slot = nil
      }
      if slot == nil {
        try await connection.createSlot(name)
        slot = try await connection.slot(name)
      }
      guard let restart = slot?.restart else {
        throw StatementFailure(code: "XX000", message: "slot \(name) keeps no log")
      }
      return Session(connection: connection, identity: identity, geometry: geometry, slot: restart)
    } catch {
      await connection.close()
      throw error.followingError
    }
  }

  private func start(
    _ session: Session, from end: LogEnd?, hint: LogCursor?, _ refused: String?, hadEnd: Bool, _ sink: any LogSink
  ) async throws(StatementFailure) -> Start {
    let (identity, geometry) = (session.identity, session.geometry)
    var branches: [(timeline: UInt32, end: LogSequenceNumber)] = []
    if identity.timeline > 1 {
      let history = try await session.connection.history(of: identity.timeline)
      guard let parsed = Self.branches(history.bytes) else {
        throw StatementFailure(code: "XX000", message: "the history of timeline \(identity.timeline) makes no sense")
      }
      branches = parsed
      sink.attach(history.name, history.bytes)
    }
    let anew = Start(
      timeline: identity.timeline,
      position: LogSequenceNumber(session.slot.value / geometry.segmentBytes * geometry.segmentBytes),
      why: hadEnd ? refused : nil, isNew: true)
    guard let end else {
      guard !hadEnd || refused != nil, let hint, let place = geometry.place(of: hint),
        place.timeline == identity.timeline
      else { return anew }
      var start = anew
      let begin = place.position.value / geometry.segmentBytes * geometry.segmentBytes
      if begin < anew.position.value { start.position = LogSequenceNumber(begin) }
      return start
    }
    func broken(_ why: String) -> Start {
      var start = anew
      start.why = why
      return start
    }
    guard end.stream == identity.systemIdentifier else {
      return broken("the server is another cluster, \(identity.systemIdentifier)")
    }
    guard let place = geometry.place(of: end.cursor) else { return broken("the server cuts its log into other files") }
    // A little before the end, to see whether it is the same log; in the same segment, for the one before may be gone.
    let known = end.cursor.offset < Int64(geometry.segmentBytes) ? end.tail : []
    let begin = LogSequenceNumber(place.position.value - UInt64(known.count))
    if place.timeline == identity.timeline {
      guard place.position <= identity.flushed else {
        return broken(
          "the server's log ends at \(identity.flushed), before \(place.position): it lost what it had sent")
      }
      return Start(timeline: place.timeline, position: begin, why: nil, isNew: false, known: known)
    }
    guard let branch = branches.first(where: { $0.timeline == place.timeline }) else {
      return broken("the server is on timeline \(identity.timeline), which does not come from \(place.timeline)")
    }
    guard place.position <= branch.end else {
      return broken(
        "the server left timeline \(place.timeline) at \(branch.end), before \(place.position), and went on from there")
    }
    return Start(timeline: place.timeline, position: begin, why: nil, isNew: false, known: known)
  }

  /// Timelines that a history leads through, and where each ended.
  ///
  /// Source: PostgreSQL 15, src/backend/access/transam/timeline.c, readTimeLineHistory.
  static func branches(_ history: [UInt8]) -> [(timeline: UInt32, end: LogSequenceNumber)]? {
    var result: [(timeline: UInt32, end: LogSequenceNumber)] = []
    for line in String(decoding: history, as: UTF8.self).split(whereSeparator: \.isNewline) {
      let fields = line.split(whereSeparator: \.isWhitespace)
      guard let first = fields.first, !first.hasPrefix("#") else { continue }
      guard let timeline = UInt32(first), fields.count >= 2, let end = LogSequenceNumber(fields[1]) else { return nil }
      result.append((timeline, end))
    }
    return result
  }

  // MARK: Streaming

  private static let sinkRefused = "salvor-sink"
  private static let differs = "salvor-differs"
  private static let silence = Duration.seconds(30)

  /// Errors after which only another place will do: the log is not there any more.
  private static func refusal(_ error: StatementFailure) -> String? {
    // The file is missing; the words are in whatever language the server speaks.
    ["58P01", differs].contains(error.code) ? error.message : nil
  }

  private func stream(_ session: Session, from start: Start, into sink: any LogSink) async throws(StatementFailure) {
    let (connection, geometry, time) = (session.connection, session.geometry, driver.environment.time)
    var stream = Stream(
      geometry: geometry, identifier: session.identity.systemIdentifier, timeline: start.timeline,
      position: LogSequenceNumber(start.position.value + UInt64(start.known.count)))
    var known = start.known[...]
    var beginning: LogBeginning? =
      start.isNew
      ? LogBeginning(
        stream: session.identity.systemIdentifier, cursor: stream.cursor, position: stream.mark.position, why: start.why
      )
      : nil
    var ended = try await connection.start(slot: name, at: start.position, timeline: start.timeline)
    var acknowledged: LogSequenceNumber?
    var told = time.monotonicNanoseconds()
    // The last time the server said how far it has sent. It says the same again only if there was nothing to send between:
    // then all that was committed before the first time is here. Once says nothing, in the middle of catching up.
    var quiet: (end: LogSequenceNumber, clock: Timestamp)?
    var heard = told
    var gathers = false
    while true {
      if Task.isCancelled { throw .cancelled }
      var wantsReply = false
      let messages: [ReplicationConnection.Message]
      if let end = ended {
        messages = [end]
      } else if sink.hasRoom {
        if gathers { do { try await time.sleep(for: sink.gathering) } catch { throw .cancelled } }
        let isBehind = acknowledged.map { $0 < stream.position } ?? true
        messages = try await connection.receive(
          limitBytes: Self.readBytes, wait: isBehind ? min(sink.gathering, .milliseconds(20)) : .milliseconds(100))
        gathers = sink.mayGather(after: messages.reduce(0) { $0 + $1.byteCount })
      } else {
        messages = []
        do { try await time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
      }
      if !messages.isEmpty || !sink.hasRoom { heard = time.monotonicNanoseconds() }
      // It is asked for a word every few seconds.
      if Duration.nanoseconds(time.monotonicNanoseconds() - heard) > Self.silence {
        throw StatementFailure(code: "08006", message: "the server has not said a word for \(Self.silence.brief)")
      }
      for message in messages {
        switch message {
        case .data(let start, let end, let clock, let bytes):
          if let new = beginning {
            sink.begin(new)
            beginning = nil
          }
          quiet = nil
          let expected = LogSequenceNumber(stream.position.value - UInt64(known.count))
          guard start == expected else {
            throw StatementFailure(
              code: Self.sinkRefused, message: "the server sent its log from \(start), not from \(expected)")
          }
          let same = min(known.count, bytes.count)
          guard known.prefix(same).elementsEqual(bytes.prefix(same)) else {
            throw StatementFailure(
              code: Self.differs,
              message:
                "the server's log before \(stream.position) is not what it had sent: it was brought back to an earlier state"
            )
          }
          known = known.dropFirst(same)
          let fresh = same == 0 ? bytes : Array(bytes.dropFirst(same))
          if fresh.isEmpty { continue }
          do throws(DriverError) {
            for chunk in stream.chunks(fresh, end: end, clock: clock) { try sink.append(chunk) }
          } catch { throw StatementFailure(code: Self.sinkRefused, message: error.report.summary) }
        case .alive(let end, let clock, let wants):
          if let new = beginning {
            sink.begin(new)
            beginning = nil
          }
          if wants { wantsReply = true }
          if end == stream.position, known.isEmpty {
            if let quiet, quiet.end == end {
              sink.note(LogMark(position: stream.mark.position, completeUntil: quiet.clock))
            }
            quiet = (end, clock)
          } else {
            quiet = nil
          }
        case .timelineEnded(let next, let place):
          guard place == stream.position, known.isEmpty else {
            throw StatementFailure(
              code: Self.sinkRefused, message: "the timeline ended at \(place), and the log came to \(stream.position)")
          }
          let history = try await connection.history(of: next)
          sink.attach(history.name, history.bytes)
          stream.enter(timeline: next)
          ended = try await connection.start(slot: name, at: stream.position, timeline: next)
          acknowledged = nil
          continue
        }
      }
      // What an older stretch had is no word for this one.
      let durable =
        beginning == nil
        ? sink.durable.flatMap { LogSequenceNumber($0.value) } ?? LogSequenceNumber(0) : LogSequenceNumber(0)
      let now = time.monotonicNanoseconds()
      let asks = Duration.nanoseconds(now - told) >= Self.sign
      let isDue = wantsReply || asks
      // Before the first word the server counts us as no standby at all.
      if isDue || acknowledged == nil || durable != acknowledged {
        let position = durable
        try await connection.acknowledge(position, at: time.now(), asking: asks)
        acknowledged = position
        if asks { told = now }
      }
    }
  }

  /// Cuts what comes into the log's files.
  struct Stream: Sendable {
    var geometry: LogGeometry
    var identifier: String
    var timeline: UInt32
    var position: LogSequenceNumber
    var scanner: CommitScanner
    /// Where the file ended that the next chunk's file goes on from.
    private var follows: LogCursor?

    init(geometry: LogGeometry, identifier: String, timeline: UInt32, position: LogSequenceNumber) {
      (self.geometry, self.identifier, self.timeline, self.position) = (geometry, identifier, timeline, position)
      scanner = CommitScanner(geometry)
      // At a boundary the sink's log ends with the file before.
      if position.value > 0, position.value % geometry.segmentBytes == 0 { follows = before }
    }

    /// The end of the file before, which is the same place.
    private var before: LogCursor {
      let segment = geometry.segment(of: position) - 1
      return LogCursor(geometry.fileName(timeline: timeline, segment: segment), Int64(geometry.segmentBytes))
    }

    var cursor: LogCursor { follows ?? LogCursor(file, Int64(position.value % geometry.segmentBytes)) }

    private var file: String { geometry.fileName(timeline: timeline, segment: geometry.segment(of: position)) }

    var mark: LogMark {
      LogMark(
        position: LogPosition(
          kind: "lsn", value: position.description,
          details: ["timeline": String(timeline), "systemIdentifier": identifier]))
    }

    mutating func chunks(_ bytes: [UInt8], end: LogSequenceNumber, clock: Timestamp) -> [LogChunk] {
      let commits = scanner.scan(bytes, at: position)
      var chunks: [LogChunk] = []
      var offset = 0
      while offset < bytes.count {
        let inFile = position.value % geometry.segmentBytes
        let count = min(bytes.count - offset, Int(geometry.segmentBytes - inFile))
        let file = file
        let from = follows
        position = LogSequenceNumber(position.value &+ UInt64(count))
        var mark = mark
        (mark.firstCommit, mark.lastCommit) = (commits?.first, commits?.last)
        if position == end { mark.completeUntil = clock }
        chunks.append(
          LogChunk(
            file: file, offset: Int64(inFile),
            bytes: count == bytes.count ? bytes : Array(bytes[offset..<offset + count]), follows: from, mark: mark))
        offset += count
        follows = position.value % geometry.segmentBytes == 0 ? before : nil
      }
      return chunks
    }

    /// A new timeline's first file begins with a copy of the old one's, up to where they part.
    mutating func enter(timeline next: UInt32) {
      follows = cursor
      timeline = next
      position = LogSequenceNumber(position.value / geometry.segmentBytes * geometry.segmentBytes)
    }
  }

  // MARK: Places

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    guard position.kind == "lsn", let lsn = LogSequenceNumber(position.value),
      let geometry = capture.facts["walSegmentBytes"].flatMap({ UInt64($0) }).flatMap({ LogGeometry(segmentBytes: $0) })
    else { return nil }
    let place = geometry.normalised(lsn)
    let inFile = Int64(place.value % geometry.segmentBytes)
    if let timeline = position.details["timeline"].flatMap({ UInt32($0) }) {
      return cursor(geometry, timeline, place, inFile, files)
    }
    // On which timeline is for the log to say: the newest that has the place.
    let name = String(geometry.fileName(timeline: 0, segment: geometry.segment(of: place)).dropFirst(8))
    guard let file = files.last(where: { $0.hasSuffix(name) }), let timeline = UInt32(file.prefix(8), radix: 16) else {
      let before = place.value > 0 ? geometry.segment(of: LogSequenceNumber(place.value - 1)) : 0
      let last = String(geometry.fileName(timeline: 0, segment: before).dropFirst(8))
      guard inFile == 0, let file = files.last(where: { $0.hasSuffix(last) }) else { return nil }
      return LogCursor(file, Int64(geometry.segmentBytes))
    }
    return cursor(geometry, timeline, place, inFile, files)
  }

  private func cursor(
    _ geometry: LogGeometry, _ timeline: UInt32, _ place: LogSequenceNumber, _ inFile: Int64, _ files: [String]
  ) -> LogCursor {
    let file = geometry.fileName(timeline: timeline, segment: geometry.segment(of: place))
    // At a boundary the log may not have the file yet.
    if inFile == 0, place.value > 0, !files.contains(file) {
      return LogCursor(
        geometry.fileName(timeline: timeline, segment: geometry.segment(of: place) - 1), Int64(geometry.segmentBytes))
    }
    return LogCursor(file, inFile)
  }
}

extension LogGeometry {
  /// Reads a segment's name, and an offset in it.
  func place(of cursor: LogCursor) -> (timeline: UInt32, position: LogSequenceNumber)? {
    let name = cursor.file
    guard name.utf8.count == 24, name.utf8.allSatisfy({ (48...57).contains($0) || (65...70).contains($0) }),
      let timeline = UInt32(name.prefix(8), radix: 16), let high = UInt64(name.dropFirst(8).prefix(8), radix: 16),
      let low = UInt64(name.suffix(8), radix: 16), low < (1 << 32) / segmentBytes,
      cursor.offset >= 0, cursor.offset <= Int64(segmentBytes)
    else { return nil }
    return (timeline, LogSequenceNumber(high << 32 + low * segmentBytes + UInt64(cursor.offset)))
  }
}

extension StatementFailure {
  /// What ended following, as the keeper understands it.
  fileprivate var followingError: DriverError {
    switch code {
    case Self.cancelled.code: .cancelled
    case "55006", "": .unreachable("following the log: \(message)")
    case "53400":
      .unsupported("following the log: \(message): raise max_replication_slots or max_wal_senders")
    case _ where isConnectionLost: .unreachable("following the log: \(message)")
    default: driverError("following the log")
    }
  }
}
