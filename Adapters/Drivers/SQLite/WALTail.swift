import Core
import DriverKit
import GRDBSQLite
import Glibc
import IO

/// The end of a live WAL, and the read transaction that keeps it from beginning anew under our hands.
///
/// Whoever writes lets the WAL begin anew when all of it is in the database file and nobody reads from it. A read transaction
/// on the WAL forbids it. One on a database file that has all of the WAL allows it, and forbids that anything more is put into
/// the file: so the WAL can begin anew once, and not again. Each time this changes from one to the other, all that the WAL
/// has was shipped before.
/// Source: sqlite.org, "WAL-mode File Format", sections 2.3 and 2.4.
///
/// Used by one task at a time, on the blocking pool.
final class WALTail: @unchecked Sendable {
  private static let batchBytes = 4 << 20
  /// How much may be shipped while writers wait.
  private static let tailFrames: Int64 = 1000
  /// A short WAL is not let go more often, for it makes files of its own in the log.
  private static let restless: Duration = .seconds(10)

  private let path: String
  private let time: any Timekeeper
  /// Never the last to leave: its end would put the WAL away.
  private let checkpointer: Connection
  private let writer: Connection
  private var reader: Connection
  private var spare: Connection
  private let wal: File
  private let inode: (UInt64, UInt64)

  private var file = WALFile(salts: "", pageSize: 512)
  private var frame: Int64 = 0
  private var hasHead = false
  /// The checksum of the last frame that was shipped, and how the WAL counts.
  private var sum: (value: WALSum, isBigEndian: Bool)?
  /// What had been shipped when the read transaction was opened.
  private var readAt: Int64 = 0
  /// The read transaction is on the database file alone, as far as we know.
  private var isFree = false

  private var restedAt: Int64?

  var frames: Int64 { frame }
  /// Where the log ends.
  private(set) var position: LogPosition?

  init(_ path: String, _ time: any Timekeeper) throws(DriverError) {
    (self.path, self.time) = (path, time)
    guard let inode = Self.inode(path) else { throw .unreachable("\(path): it is not there") }
    self.inode = inode
    let checkpointer = try Connection(path, .readWrite)
    let mode = try checkpointer.text("PRAGMA journal_mode") ?? ""
    guard mode == "wal" else {
      throw .unsupported(
        "\(path) has journal mode '\(mode)', which leaves no log to follow; run 'PRAGMA journal_mode=WAL' on it once")
    }
    _ = try checkpointer.integer("SELECT count(*) FROM sqlite_schema")
    self.checkpointer = checkpointer
    writer = try Connection(path, .readWrite)
    (reader, spare) = (try Connection(path, .readOnly), try Connection(path, .readOnly))
    try Self.read(reader)
    do throws(SystemFailure) { wal = try File(path + "-wal", O_RDONLY | O_NOFOLLOW) } catch { throw DriverError(error) }
    // SQLite's own locks are of another kind, and none is on this file.
    guard flock(wal.descriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw .unreachable("the log of \(path): another process follows it")
    }
  }

  deinit { close() }

  func close() {
    writer.close()
    checkpointer.close()
    // Opened to read only: if it is the last one, the WAL stays as it is.
    spare.close()
    reader.close()
  }

  /// Opens a read transaction.
  private static func read(_ connection: Connection) throws(DriverError) {
    try connection.execute("BEGIN")
    do throws(DriverError) { _ = try connection.integer("SELECT count(*) FROM sqlite_schema") } catch {
      try? connection.execute("ROLLBACK")
      throw error
    }
  }

  private static func inode(_ path: String) -> (UInt64, UInt64)? {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    return (UInt64(status.st_dev), UInt64(status.st_ino))
  }

  /// - Throws: ``DriverError/unreachable(_:)`` if the database that is followed isn't the one at the path any more.
  func requireFile() throws(DriverError) {
    guard let now = Self.inode(path) else { throw .unreachable("\(path): it is gone") }
    guard now == inode else { throw .unreachable("\(path): another file has taken its place") }
  }

  // MARK: Where to begin

  /// Goes on where the sink's log ends, or lets it begin with what the WAL has.
  func begin(from end: LogEnd?, into sink: any LogSink) throws(DriverError) {
    let index = try checkpointer.walIndex()
    var why: String?
    if let end {
      guard let old = WALFile(end.cursor.file), let frames = old.frames(before: end.cursor.offset) else {
        throw .corrupt("the log ends at \(end.cursor), which is no place of its own")
      }
      (file, frame, hasHead, readAt) = (old, frames, end.cursor.offset > 0, frames)
      why = try missing(end, index)
      position = end.position
      if why == nil { return }
    }
    file = try fileNow(index)
    (frame, sum, hasHead, readAt) = (0, nil, false, 0)
    let start = file.position(after: 0)
    position = start
    sink.begin(LogBeginning(stream: "wal", cursor: LogCursor(file.name, 0), position: start, why: why))
  }

  /// Why the WAL doesn't lead on from where the log ends; `nil` if it does.
  private func missing(_ end: LogEnd, _ index: WALIndex) throws(DriverError) -> String? {
    if let modified = file.modified {
      // Nothing was put into the database file since, so what the WAL has is all there was.
      if try Connection.modified(path) == modified { return nil }
      if frame == 0 { return "the WAL was put into the database file while nobody followed" }
    }
    guard index.saltsText == file.salts, index.pageSize == file.pageSize else {
      return "the WAL began anew while nobody followed"
    }
    guard Int64(index.lastFrame) >= frame else {
      return "the WAL ends with frame \(index.lastFrame), before \(frame): it lost what it had"
    }
    guard frame > 0 else { return nil }
    let header = try read(at: walOffset(frame - 1), count: WALFormat.frameHeaderBytes)
    let found = header.withUnsafeBytes { WALSum($0, at: 16) }
    if let known = end.position.details["checksum"], known != found.text {
      return "frame \(frame) of the WAL is not the one the log has"
    }
    return nil
  }

  /// Where the log is when all that it has of the present WAL is its first frame on.
  private func fileNow(_ index: WALIndex) throws(DriverError) -> WALFile {
    var size = index.pageSize
    if size == 0 { size = Int(try checkpointer.integer("PRAGMA page_size") ?? 4096) }
    guard WALFormat.isPageSize(size) else { throw .corrupt("\(path) has pages of \(size) bytes") }
    let modified = index.lastFrame == 0 ? try Connection.modified(path) : nil
    return WALFile(salts: index.saltsText, pageSize: size, modified: modified)
  }

  // MARK: Shipping

  /// Ships what was committed, up to some megabytes.
  ///
  /// - Parameter isAnchored: Since the last frame that was shipped the WAL can't have begun anew more than once.
  /// - Returns: Whether that was all.
  func ship(into sink: any LogSink, isAnchored: Bool) throws(DriverError) -> Bool {
    let before = time.now()
    let index = try checkpointer.walIndex()
    let seen = time.now()
    let last = Int64(index.lastFrame)
    let isSame = index.saltsText == file.salts && (index.pageSize == file.pageSize || last == 0)
    if isSame, file.modified != nil, last > frame {
      try enter(WALFile(salts: file.salts, pageSize: file.pageSize, first: frame), after: frame, sink)
    } else if !isSame, file.modified == nil || last > 0 {
      guard file.modified != nil || isAnchored else {
        throw .logGap("the WAL of \(path) began anew before all of it was read")
      }
      try enter(try fileNow(index), after: 0, sink)
    } else if !hasHead {
      try enter(file, after: frame, sink)
    }
    // At rest nothing is in the WAL but what the log has.
    guard file.modified == nil || (isSame && last != 0) else {
      sink.note(LogMark(position: file.position(after: frame), completeUntil: before))
      return true
    }
    guard last >= frame else {
      throw .logGap("the WAL of \(path) ends with frame \(last), and \(frame) were there")
    }
    guard last > frame else {
      sink.note(LogMark(position: file.position(after: frame, sum: sum?.value), completeUntil: before))
      return true
    }
    let count = min(last - frame, max(1, Int64(Self.batchBytes / file.recordBytes)))
    let offset = file.cursor(after: frame).offset
    let records = try records(count, seen)
    frame += count
    let isAtEnd = frame == last
    if isAtEnd, let sum, sum.value != index.sum {
      throw .logGap("frame \(frame) of the WAL of \(path) is not the one its index means")
    }
    let end = file.position(after: frame, sum: sum?.value, pages: isAtEnd ? index.pages : nil)
    try sink.append(
      LogChunk(
        file: file.name, offset: offset, bytes: records,
        mark: LogMark(
          position: end, lastCommit: isAtEnd ? seen : nil, completeUntil: isAtEnd ? before : nil)))
    position = end
    return isAtEnd
  }

  /// Goes on in another file, or gives the one that begins its head.
  private func enter(_ next: WALFile, after frames: Int64, _ sink: any LogSink) throws(DriverError) {
    let follows = next == file ? nil : hasHead ? file.cursor(after: frame) : LogCursor(file.name, 0)
    if next.salts != file.salts { (sum, readAt, isFree) = (nil, 0, false) }
    let end = next.position(after: frames, sum: sum?.value)
    try sink.append(
      LogChunk(
        file: next.name, offset: 0, bytes: WALFile.head, follows: follows, mark: LogMark(position: end)))
    (file, frame, hasHead, position) = (next, frames, true, end)
  }

  /// The next frames with the time they were seen, each checked against the one before.
  private func records(_ count: Int64, _ seen: Timestamp) throws(DriverError) -> [UInt8] {
    let frameBytes = WALFormat.frameHeaderBytes + file.pageSize
    if sum == nil { sum = try seed() }
    guard let (value, isBigEndian) = sum else { throw .logGap("the WAL of \(path) has no header") }
    var running = value
    let bytes = try read(at: walOffset(frame), count: Int(count) * frameBytes)
    let stamp = withUnsafeBytes(of: seen.nanoseconds.bigEndian) { Array($0) }
    var result: [UInt8] = []
    result.reserveCapacity(Int(count) * file.recordBytes)
    let salts = file.salts
    let first = frame
    var bad: Int64?
    bytes.withUnsafeBytes { raw in
      for index in 0..<Int(count) {
        let one = UnsafeRawBufferPointer(rebasing: raw[index * frameBytes..<(index + 1) * frameBytes])
        running.add(UnsafeRawBufferPointer(rebasing: one[..<8]), isBigEndian: isBigEndian)
        running.add(UnsafeRawBufferPointer(rebasing: one[WALFormat.frameHeaderBytes...]), isBigEndian: isBigEndian)
        guard WALSum(one, at: 16) == running, Hex.encode(Array(one[8..<16])) == salts else {
          bad = first + Int64(index) + 1
          return
        }
        result += stamp
        result += one
      }
    }
    if let bad { throw .logGap("frame \(bad) of the WAL of \(path) is not what its checksum says") }
    sum = (running, isBigEndian)
    return result
  }

  /// The checksum that the next frame goes on from.
  private func seed() throws(DriverError) -> (WALSum, Bool) {
    let header = try read(at: 0, count: WALFormat.headerBytes)
    let (magic, found) = header.withUnsafeBytes { (WALSum.word($0, 0), WALSum($0, at: 24)) }
    let isBigEndian = magic & 1 == 1
    var sum = WALSum(0, 0)
    header.withUnsafeBytes { sum.add(UnsafeRawBufferPointer(rebasing: $0[..<24]), isBigEndian: isBigEndian) }
    guard magic & ~1 == 0x377f_0682, sum == found, Hex.encode(Array(header[16..<24])) == file.salts else {
      throw .logGap("the header of the WAL of \(path) is not the one its index means")
    }
    guard frame > 0 else { return (sum, isBigEndian) }
    let last = try read(at: walOffset(frame - 1), count: WALFormat.frameHeaderBytes)
    return (last.withUnsafeBytes { WALSum($0, at: 16) }, isBigEndian)
  }

  private func walOffset(_ frames: Int64) -> Int64 {
    Int64(WALFormat.headerBytes) + frames * Int64(WALFormat.frameHeaderBytes + file.pageSize)
  }

  private func read(at offset: Int64, count: Int) throws(DriverError) -> [UInt8] {
    let bytes: [UInt8]
    do throws(SystemFailure) { bytes = try wal.read(at: offset, count: count) } catch { throw DriverError(error) }
    guard bytes.count == count else { throw .logGap("the WAL of \(path) is shorter than its index means") }
    return bytes
  }

  // MARK: Beginning anew

  /// After all was shipped: lets others' checkpoints come as far as that, and the WAL begin anew once it is durable.
  ///
  /// - Parameter isDurable: All that was shipped would survive the loss of this process.
  func rest(isDurable: Bool, into sink: any LogSink) throws(DriverError) {
    let index = try checkpointer.walIndex()
    let last = Int64(index.lastFrame)
    // Something came since, or nothing is there; there is another time.
    guard last == frame, last > 0, index.saltsText == file.salts else { return }
    if frame > readAt {
      // The old read transaction is on the WAL, or nothing is put into the file while it is there: so is the new one.
      return try moveReader()
    }
    guard isDurable, !isFree else { return }
    if Int64(index.backfilled) < last {
      if last >= SQLiteFollower.turnFrames { _ = try checkpoint() }
      return
    }
    let modified = try Connection.modified(path)
    if file.modified == modified {
      // That all is in the file is durable: whoever goes on after us can tell that nothing was missed.
      try moveReader()
      isFree = true
      return
    }
    let now = time.monotonicNanoseconds()
    guard last >= SQLiteFollower.turnFrames || restedAt.map({ Duration.nanoseconds(now - $0) >= Self.restless }) ?? true
    else { return }
    restedAt = now
    try enter(WALFile(salts: file.salts, pageSize: file.pageSize, first: frame, modified: modified), after: frame, sink)
  }

  /// Where writers leave no moment for ``rest(isDurable:)``: ships the rest while they wait, puts it away and lets the WAL
  /// begin anew.
  ///
  /// - Returns: Whether it got to do so; if not, nothing is lost and it may be tried again.
  func turn(into sink: any LogSink) throws(DriverError) -> Bool {
    // Most of the work is done while nobody waits. The old read transaction still keeps what was not shipped.
    while try !ship(into: sink, isAnchored: true) {}
    try moveReader()
    _ = try checkpoint()
    guard try lock() else { return false }
    defer { try? writer.execute("ROLLBACK") }
    guard Int64(try checkpointer.walIndex().lastFrame) - frame <= Self.tailFrames else { return false }
    while try !ship(into: sink, isAnchored: true) {}
    try moveReader()
    guard try checkpoint() else { return false }
    try moveReader()
    isFree = true
    return true
  }

  /// Only after all was shipped that the transaction under way can see.
  private func moveReader() throws(DriverError) {
    readAt = frame
    isFree = false
    try Self.read(spare)
    (reader, spare) = (spare, reader)
    try spare.execute("ROLLBACK")
  }

  /// - Returns: Whether all of the WAL is in the database file now.
  private func checkpoint() throws(DriverError) -> Bool {
    let handle = try checkpointer.handle()
    var (frames, done): (Int32, Int32) = (-1, -1)
    let code = sqlite3_wal_checkpoint_v2(handle, "main", SQLITE_CHECKPOINT_PASSIVE, &frames, &done)
    // Somebody else is at it.
    if Connection.isBusy(code) { return false }
    guard code == SQLITE_OK else { throw Connection.error(code, handle, path) }
    return frames >= 0 && frames == done
  }

  /// Takes the write lock, for which is waited as any writer waits, and not long.
  private func lock() throws(DriverError) -> Bool {
    let handle = try writer.handle()
    sqlite3_busy_timeout(handle, 200)
    let code = sqlite3_exec(handle, "BEGIN IMMEDIATE", nil, nil, nil)
    if Connection.isBusy(code) { return false }
    guard code == SQLITE_OK else { throw Connection.error(code, handle, path) }
    return true
  }
}
