import Core
import DriverKit
import GRDBSQLite
import Glibc
import IO

/// One capture: the write lock while held, a read transaction that keeps the moment, a copy made from it at leisure.
///
/// In WAL mode the mark opens the read transaction under the write lock: from then on that connection sees the
/// database as it was, whatever writers and checkpoints do, and nobody waits for it. In the other journal modes there
/// is no hold; the copy is one read transaction, and writers wait for it.
actor SQLiteCapture: CaptureSession {
  private let driver: SQLiteDriver
  private let context: CaptureContext
  private let keeper = HoldKeeper()
  private var writer: Connection?
  private var reader: Connection?
  private var isWAL = false
  private var position: LogPosition?

  private var pool: BlockingPool { driver.environment.pool }

  init(_ driver: SQLiteDriver, _ context: CaptureContext) { (self.driver, self.context) = (driver, context) }

  func prepare() async throws(DriverError) {
    let path = driver.path
    let (writer, reader, isWAL) = try await pool.run { () throws(DriverError) -> (Connection, Connection, Bool) in
      let writer = try Connection(path, .readWrite)
      let reader = try Connection(path, .readOnly)
      // Reads the schema now: under the hold it would be time that writers wait.
      _ = try reader.integer("SELECT count(*) FROM sqlite_schema")
      return (writer, reader, try writer.text("PRAGMA journal_mode") == "wal")
    }
    (self.writer, self.reader, self.isWAL) = (writer, reader, isWAL)
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard let writer else { throw .holdImpossible("the capture was not prepared") }
    guard isWAL else { return }
    try await keeper.holdWriters(writer, limit: limit, retryEvery: driver.holdPoll)
  }

  func mark() async throws(DriverError) -> LogPosition {
    guard let reader else { throw .holdImpossible("the capture was not prepared") }
    let isWAL = isWAL
    let position = try await reader.run(on: pool) { (reader) throws(DriverError) -> LogPosition in
      if isWAL { return try reader.pin() }
      try reader.execute("BEGIN")
      defer { try? reader.execute("ROLLBACK") }
      _ = try reader.integer("SELECT count(*) FROM sqlite_schema")
      return try reader.position()
    }
    self.position = position
    return position
  }

  /// `false` without a hold too, though the store may have been one that can be held when it was asked.
  func release() async -> Bool { await keeper.release() }

  func finish() async throws(DriverError) -> CaptureResult {
    guard let reader, var position else { throw .holdImpossible("there is no mark to copy at") }
    let copy = "\(context.scratch)/database"
    let path = driver.path
    let isWAL = isWAL
    let wantsDigest = context.wantsContentDigest
    let scratch = context.scratch
    let (found, digest, mode) = try await reader.run(on: pool) {
      (reader) throws(DriverError) -> (LogPosition?, Result<ContentDigest, DriverError>?, String) in
      let found = isWAL ? nil : try reader.pin()
      try reader.copy(to: copy, scratch: scratch)
      var digest: Result<ContentDigest, DriverError>?
      if wantsDigest {
        do throws(DriverError) { digest = .success(try reader.rowsDigest()) } catch {
          // A function or collation of the application's: the copy is whole all the same.
          guard case .engineFailed = error else { throw error }
          digest = .failure(error)
        }
      }
      let mode = try reader.text("PRAGMA journal_mode") ?? ""
      // From here on the WAL may be reset again.
      try reader.execute("ROLLBACK")
      return (found, digest, mode)
    }
    if let found { position = found }
    var notes: [String] = []
    if case .failure(let error) = digest { notes.append("no content digest: \(error.report.summary)") }
    if !isWAL { notes.append("copied outside the cut, in journal mode '\(mode)'; writers waited while it was copied") }
    return try await stream(
      copy, from: path, at: position, mode: mode, digest: digest.flatMap { try? $0.get() }, notes: notes)
  }

  private func stream(
    _ copy: String, from path: String, at position: LogPosition, mode: String, digest: ContentDigest?, notes: [String]
  ) async throws(DriverError) -> CaptureResult {
    let metadata: FileMetadata
    do { metadata = try await pool.run { () throws(SystemFailure) in try Self.metadata(of: path) } } catch {
      throw DriverError(error)
    }
    if Task.isCancelled { throw .cancelled }
    let name = FileName(Files.last(of: path))
    let sum = ContentSum()
    let progress = context.progress
    let stored: StoredFile
    do {
      stored = try await context.sink.add(TreePath([name]), metadata, cutting: .fixed(bytes: 256 << 10)) {
        sum.reset()
        return SummedSource(try File(copy, O_RDONLY), sum, progress)
      }
    } catch {
      throw error.isCancellation ? .cancelled : .sink(error)
    }
    guard let (size, hash) = sum.value, size == stored.size else {
      throw .sink(AnyFailure(SystemFailure("read", path: copy, number: EIO)))
    }
    return CaptureResult(
      version: Connection.version, position: position, contentDigest: digest, sizeBytes: stored.size,
      facts: ["file": Files.last(of: path), "sha256": hash.hex, "journalMode": mode], notes: notes)
  }

  func close() async {
    _ = await keeper.release()
    let (writer, reader) = (writer, reader)
    (self.writer, self.reader) = (nil, nil)
    await pool.run {
      reader?.close()
      writer?.close()
    }
  }

  /// What the file says of itself, without opening it.
  private static func metadata(of path: String) throws(SystemFailure) -> FileMetadata {
    var status = stat()
    guard stat(path, &status) == 0 else { throw SystemFailure("stat", path: path) }
    return FileMetadata(
      kind: .regular, permissions: UInt16(status.st_mode & 0o7777), userID: status.st_uid, groupID: status.st_gid,
      userName: getpwuid(status.st_uid).map { String(cString: $0.pointee.pw_name) } ?? "",
      groupName: getgrgid(status.st_gid).map { String(cString: $0.pointee.gr_name) } ?? "",
      size: Int64(status.st_size),
      modified: Timestamp(seconds: Int64(status.st_mtim.tv_sec), nanoseconds: Int64(status.st_mtim.tv_nsec)))
  }
}
