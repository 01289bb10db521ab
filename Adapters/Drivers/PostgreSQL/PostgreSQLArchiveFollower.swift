import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Takes a server's write-ahead log segment by segment, as it hands them to its `archive_command`: for servers that allow nobody
/// a replication connection.
///
/// The server's own queue, `pg_wal/archive_status`, says which segments are whole. All of them are read side by side with what is
/// already on its way, and what is durable gets an empty file of its name in ``directory``. The `archive_command` only looks for
/// that file, so the server gives no segment up before it is in the repository.
///
/// Source: PostgreSQL 15, src/backend/postmaster/pgarch.c and src/backend/access/transam/xlogarchive.c.
struct PostgreSQLArchiveFollower: LogFollower {
  let driver: PostgreSQLDriver
  /// Where the `archive_command` looks.
  let directory: String

  private static let pieceBytes = 1 << 20
  private static let look: Duration = .milliseconds(100)
  /// How often a server whose queue is empty is asked whether it has written anything since.
  private static let sign: Duration = .seconds(2)

  func follow(from end: LogEnd?, hint: LogCursor?, into sink: any LogSink) async throws(DriverError) {
    let (pool, time) = (driver.environment.pool, driver.environment.time)
    let place = ArchiveQueue(data: driver.dataDirectory, directory: directory, store: driver.store)
    let identifier = try await pool.run { () throws(DriverError) in try place.open() }
    var session = Session(place: place, identifier: identifier, end: end, hint: hint)
    var asked = time.monotonicNanoseconds()
    while true {
      try throwIfCancelled()
      let listing = try await pool.run { () throws(DriverError) in try place.list() }
      if listing.histories != session.histories {
        // The server never removes them: what a crash kept from being durable is there again.
        for history in try await pool.run({ () throws(DriverError) in try place.histories() }) {
          sink.attach(history.name, history.bytes)
        }
        session.histories = listing.histories
      }
      let before = session
      let (stepped, step) = try await pool.run { () throws(DriverError) -> (Session, Session.Step) in
        var session = before
        let step = try session.next(of: listing)
        return (session, step)
      }
      session = stepped
      switch step {
      case .wait:
        try await mark(listing, session, place, sink)
        let now = time.monotonicNanoseconds()
        if Duration.nanoseconds(now - asked) >= Self.sign {
          asked = now
          await note(session, in: sink)
        }
        do { try await time.sleep(for: Self.look) } catch { throw .cancelled }
      case .segment(let name, let from, let beginning):
        try await mark(listing, session, place, sink)
        try await take(name, from: from, beginning, &session, listing, into: sink)
      }
    }
  }

  /// Hands one segment on, at the sink's pace.
  private func take(
    _ name: String, from: Int, _ beginning: LogBeginning?, _ session: inout Session, _ listing: ArchiveQueue.Listing,
    into sink: any LogSink
  ) async throws(DriverError) {
    guard var stream = session.stream else { return }
    let (identifier, place) = (session.identifier, session.place)
    let geometry = stream.geometry
    let end = Int(geometry.segmentBytes)
    var begins = beginning
    var offset = from
    while offset < end {
      while !sink.hasRoom {
        try await mark(listing, session, place, sink)
        do { try await driver.environment.time.sleep(for: .milliseconds(20)) } catch { throw .cancelled }
      }
      let (at, count) = (offset, min(Self.pieceBytes, end - offset))
      let piece = try await driver.environment.pool.run { () throws(DriverError) in
        try place.part(of: name, at: Int64(at), count: count, identifier, geometry)
      }
      if let beginning = begins { sink.begin(beginning) }
      begins = nil
      for var chunk in stream.chunks(piece, end: LogSequenceNumber(.max), clock: driver.environment.time.now()) {
        // Whoever was answered before the last of them was stamped has a record before it.
        chunk.mark.completeUntil = chunk.mark.lastCommit
        try sink.append(chunk)
      }
      offset += count
      session.stream = stream
    }
  }

  /// Tells the `archive_command` of what is durable.
  private func mark(
    _ listing: ArchiveQueue.Listing, _ session: Session, _ place: ArchiveQueue, _ sink: any LogSink
  ) async throws(DriverError) {
    guard let geometry = session.stream?.geometry else { return }
    let durable = sink.durable
    let position = durable.flatMap { LogSequenceNumber($0.value) }
    let timeline = durable?.details["timeline"].flatMap { UInt32($0) }
    let done = listing.ready.filter { name in
      guard let found = geometry.place(of: LogCursor(name, Int64(geometry.segmentBytes))) else { return true }
      guard let position, let timeline else { return false }
      // What of an earlier timeline isn't in the log was left behind, and its gap has a name.
      return found.timeline < timeline || found.timeline == timeline && found.position <= position
    }
    // Histories lie in `pg_wal` for good and are in the log already; labels of other backups and the stub of a timeline that was
    // left are nobody's loss.
    try await driver.environment.pool.run { () throws(DriverError) in try place.mark(done, of: listing) }
  }

  /// A server that has written nothing since is complete to this moment.
  private func note(_ session: Session, in sink: any LogSink) async {
    guard let stream = session.stream, stream.position.value % stream.geometry.segmentBytes == 0 else { return }
    do throws(DriverError) {
      let connection = try await driver.connect()
      let row: [String?]?
      do throws(StatementFailure) {
        row = try await connection.run(
          """
          SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, pg_current_wal_insert_lsn()
          WHERE NOT pg_is_in_recovery()
          """
        ).rows.first
      } catch { row = nil }
      await connection.close()
      guard let row, row.count == 2, let clock = row[0].flatMap({ Int64($0) }),
        let position = row[1].flatMap({ LogSequenceNumber($0) }),
        stream.geometry.normalised(position) <= stream.position
      else { return }
      let (nanoseconds, overflow) = clock.multipliedReportingOverflow(by: 1000)
      guard !overflow else { return }
      sink.note(
        LogMark(position: stream.mark.position, completeUntil: Timestamp(nanoseconds: nanoseconds)))
    } catch {
      // The queue is what is followed; that nobody answers changes nothing in it.
    }
  }

  func cursor(of position: LogPosition, in capture: CaptureResult, among files: [String]) -> LogCursor? {
    PostgreSQLFollower(driver: driver).cursor(of: position, in: capture, among: files)
  }

  func throwIfCancelled() throws(DriverError) { if Task.isCancelled { throw .cancelled } }
}

// MARK: What comes next

extension PostgreSQLArchiveFollower {
  /// How far the log was taken, and what of the queue goes on from there.
  struct Session: Sendable {
    enum Step: Sendable {
      case wait
      /// From that byte of the segment on; with the beginning of a stretch, if it goes on from nothing.
      case segment(String, from: Int, LogBeginning?)
    }

    let place: ArchiveQueue
    let identifier: String
    let hint: LogCursor?
    /// Set once it is known where to go on.
    var stream: PostgreSQLFollower.Stream?
    var histories: Set<String> = []
    private let end: LogEnd?
    private var isFirst = true

    init(place: ArchiveQueue, identifier: String, end: LogEnd?, hint: LogCursor?) {
      (self.place, self.identifier, self.end, self.hint) = (place, identifier, end, hint)
    }

    /// Blocks.
    mutating func next(of listing: ArchiveQueue.Listing) throws(DriverError) -> Step {
      guard let geometry = listing.geometry else { return .wait }
      var why: String?
      if isFirst, let end {
        why = try goOn(from: end, geometry, listing)
        if why == nil { isFirst = false }
      }
      if stream == nil || why != nil { return try begin(anew: why, geometry, listing) }
      guard var current = stream else { return .wait }
      let segment = geometry.segment(of: current.position)
      let offset = Int(current.position.value % geometry.segmentBytes)
      let name = geometry.fileName(timeline: current.timeline, segment: segment)
      if listing.isWhole(name) {
        stream = current
        return .segment(name, from: offset, nil)
      }
      // Another timeline goes on from here, or from a little before.
      let suffix = name.dropFirst(8)
      let others = listing.whole.filter { $0.hasSuffix(suffix) && $0.prefix(8) > name.prefix(8) }
      if let next = others.min(), let timeline = UInt32(next.prefix(8), radix: 16) {
        let branches = try place.branches(of: timeline)
        guard let branch = branches.first(where: { $0.timeline == current.timeline }) else {
          return try begin(
            anew: "the server is on timeline \(timeline), which does not come from \(current.timeline)", geometry,
            listing)
        }
        guard current.position <= branch.end else {
          return try begin(
            anew:
              "the server left timeline \(current.timeline) at \(branch.end), before \(current.position), and went on from there",
            geometry, listing)
        }
        current.enter(timeline: timeline)
        stream = current
        return .segment(next, from: 0, nil)
      }
      // Later ones are there, this one isn't, and the server has thrown it away.
      let isPassed = listing.whole.contains { $0.prefix(8) >= name.prefix(8) && $0.suffix(16) > suffix }
      guard isPassed, try !place.hasSegment(name) else { return .wait }
      return try begin(anew: "the server has no \(name) any more", geometry, listing)
    }

    /// - Returns: Why it can't.
    private mutating func goOn(
      from end: LogEnd, _ geometry: LogGeometry, _ listing: ArchiveQueue.Listing
    ) throws(DriverError) -> String? {
      guard end.stream == identifier else { return "the server is another cluster, \(identifier)" }
      guard let found = geometry.place(of: end.cursor) else { return "the server cuts its log into other files" }
      // What lies before it there must be what was taken, as far as the server still has it.
      let tail = end.tail
      if !tail.isEmpty, Int64(tail.count) <= end.cursor.offset, listing.isWhole(end.cursor.file),
        let bytes = try place.bytes(of: end.cursor.file, endingAt: end.cursor.offset, count: tail.count), bytes != tail
      {
        return
          "the server's log before \(found.position) is not what it had sent: it was brought back to an earlier state"
      }
      stream = .init(
        geometry: geometry, identifier: identifier, timeline: found.timeline, position: found.position)
      return nil
    }

    /// With the first segment there is, or the newest copy's, if all from there on are left.
    private mutating func begin(
      anew why: String?, _ geometry: LogGeometry, _ listing: ArchiveQueue.Listing
    ) throws(DriverError) -> Step {
      let newest = listing.whole.map { $0.prefix(8) }.max()
      let ready = listing.readySegments
      var first = ready.min { ($0.prefix(8), $0.suffix(16)) < ($1.prefix(8), $1.suffix(16)) }
      // A log that can't go on needs nothing of a history that was left.
      if why != nil { first = ready.filter { $0.prefix(8) == newest }.min() }
      if let hint, listing.isWhole(hint.file), hint.file.prefix(8) == (first ?? hint.file).prefix(8),
        hint.file < (first ?? "G")
      {
        let names = listing.whole.filter { $0.prefix(8) == hint.file.prefix(8) && $0 >= hint.file }.sorted()
        let isUnbroken = zip(names, names.dropFirst()).allSatisfy { geometry.follows($0, $1) }
        if isUnbroken { first = hint.file }
      }
      guard let first, let found = geometry.place(of: LogCursor(first, 0)) else {
        // What can't go on is known; nothing is whole that a new stretch could begin with.
        return .wait
      }
      let stream = PostgreSQLFollower.Stream(
        geometry: geometry, identifier: identifier, timeline: found.timeline, position: found.position)
      self.stream = stream
      isFirst = false
      return .segment(
        first, from: 0,
        LogBeginning(stream: identifier, cursor: stream.cursor, position: stream.mark.position, why: why))
    }
  }
}

extension LogGeometry {
  fileprivate func follows(_ name: String, _ next: String) -> Bool {
    guard let place = place(of: LogCursor(name, Int64(segmentBytes))), let after = self.place(of: LogCursor(next, 0))
    else { return false }
    return place == after
  }
}
