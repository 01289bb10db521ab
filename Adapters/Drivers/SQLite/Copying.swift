import Core
import DriverKit
import GRDBSQLite
import Glibc
import IO
import Synchronization

extension Connection {
  /// Opens a read transaction and keeps it: from now on this connection sees one moment.
  ///
  /// - Returns: That moment. If nobody holds writers off, tries again until none came in between.
  func pin() throws(DriverError) -> LogPosition {
    while true {
      let before = try position()
      try execute("BEGIN")
      do throws(DriverError) {
        _ = try integer("SELECT count(*) FROM sqlite_schema")
        let after = try position()
        if before == after { return after }
      } catch {
        try? execute("ROLLBACK")
        throw error
      }
      try execute("ROLLBACK")
    }
  }

  /// Copies the whole database, as the transaction open on this connection sees it, into a file of its own.
  ///
  /// The backup interface reads pages through the open transaction, so they are those of its moment, and writes them where
  /// they were: the copy is the original page by page, but for the header of the first. There it puts the journal
  /// mode of the copy and a schema cookie of its own; both are put back, or a restore would change the mode.
  ///
  /// Source: sqlite.org, "SQLite Backup API" and "Database File Format", section 1.3.
  func copy(to path: String, scratch: String) throws(DriverError) {
    let source = try handle()
    let needs = try sizeBytes()
    let free: Int64
    do { free = try Files.freeBytes(at: scratch) } catch { throw DriverError(error) }
    if free < needs { throw DriverError(SystemFailure("copying \(needs) bytes to", path: scratch, number: ENOSPC)) }
    try copyPages(source, to: path)

    let isWAL = try text("PRAGMA journal_mode") == "wal"
    let cookie = UInt32(truncatingIfNeeded: try integer("PRAGMA schema_version") ?? 0)
    do {
      let file = try File(path, O_RDWR)
      // An empty database has no page and so no header.
      guard try file.status().st_size >= 100 else { return }
      let versions: [UInt8] = isWAL ? [2, 2] : [1, 1]
      try versions.withRawBytes { (raw) throws(SystemFailure) in try file.write(raw, at: 18) }
      let bytes = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: cookie >> UInt32($0)) }
      try bytes.withRawBytes { (raw) throws(SystemFailure) in try file.write(raw, at: 40) }
    } catch {
      throw DriverError(error)
    }
  }

  private func copyPages(_ source: OpaquePointer, to path: String) throws(DriverError) {
    var target: OpaquePointer?
    let opened = sqlite3_open_v2(
      path, &target, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nil)
    defer { sqlite3_close_v2(target) }
    guard opened == SQLITE_OK, let target else { throw Self.error(opened, target, path) }
    // The scratch copy is worth nothing after a crash: no journal, no waiting for the disk.
    sqlite3_exec(target, "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF", nil, nil, nil)
    guard let backup = sqlite3_backup_init(target, "main", source, "main") else {
      throw Self.error(sqlite3_errcode(target), target, path)
    }
    var code = SQLITE_OK
    repeat {
      code = sqlite3_backup_step(backup, 1024)
    } while code == SQLITE_OK && !isInterrupted
    let ended = sqlite3_backup_finish(backup)
    if isInterrupted { throw .cancelled }
    guard code == SQLITE_DONE else { throw Self.error(code, target, self.path) }
    guard ended == SQLITE_OK else { throw Self.error(ended, target, path) }
  }
}

/// Size and SHA-256 of what was streamed, known once the stream has ended.
final class ContentSum: Sendable {
  private struct State {
    var size: Int64 = 0
    var hash = RunningDigest()
    var isWhole = false
  }

  private let state = Mutex(State())

  func reset() { state.withLock { $0 = State() } }

  func add(_ bytes: UnsafeRawBufferPointer) -> Int64 {
    // A buffer pointer is not Sendable, but the closure runs now.
    nonisolated(unsafe) let bytes = bytes
    return state.withLock { state in
      if bytes.isEmpty { state.isWhole = true }
      state.size += Int64(bytes.count)
      state.hash.update(bytes)
      return state.size
    }
  }

  /// `nil` until the end has been read.
  var value: (size: Int64, digest: Digest)? {
    state.withLock { $0.isWhole ? ($0.size, $0.hash.finish()) : nil }
  }
}

/// A file that is summed up while it is read.
final class SummedSource: ByteSource {
  private let file: File
  private let sum: ContentSum
  private let progress: @Sendable (Int64) -> Void

  init(_ file: File, _ sum: ContentSum, _ progress: @escaping @Sendable (Int64) -> Void) {
    (self.file, self.sum, self.progress) = (file, sum, progress)
  }

  func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
    let count = try file.read(into: buffer)
    progress(sum.add(UnsafeRawBufferPointer(rebasing: buffer[..<count])))
    return count
  }
}
