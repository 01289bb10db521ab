import Core
import DriverKit
import GRDBSQLite
import Glibc
import IO

/// SQLite databases: one file, or several with a store each.
package enum SQLiteDriverFactory: DriverFactory {
  package static let name: DriverName = "sqlite"
  package static let summary = "An SQLite database file; part of a consistent cut in WAL mode."
  package static let options: [OptionSchema] = [
    OptionSchema("path", .path, required: true, help: "The database file."),
    OptionSchema(
      "holdPoll", .duration, default: "1ms",
      help: "How often the write lock is tried for while another writer has it."),
  ]

  package static func make(
    _ configuration: StoreConfiguration, in environment: DriverEnvironment
  ) throws(DriverError) -> any DataStoreDriver {
    let path = try configuration.required("path")
    guard path.hasPrefix("/"), !path.hasSuffix("/"), !path.utf8.contains(0) else {
      throw .badOption(store: configuration.name, option: "path", why: "is not the absolute path of a file")
    }
    if configuration.string("holdPoll") != nil, configuration.duration("holdPoll") == nil {
      throw .badOption(store: configuration.name, option: "holdPoll", why: "is not a duration such as 1ms")
    }
    return SQLiteDriver(
      path: path, holdPoll: configuration.duration("holdPoll") ?? .milliseconds(1), environment: environment)
  }
}

/// One database file.
///
/// The file is never opened but through SQLite while it is live: closing any descriptor of a file ends all POSIX locks
/// this process has on it, the ones SQLite relies on too.
/// Source: sqlite.org, "How To Corrupt An SQLite Database File", section 2.2.
struct SQLiteDriver: DataStoreDriver {
  let path: String
  let holdPoll: Duration
  let environment: DriverEnvironment

  var pool: BlockingPool { environment.pool }

  func traits() async throws(DriverError) -> DriverTraits {
    let path = path
    return try await pool.run { () throws(DriverError) -> DriverTraits in
      let database = try Connection(path, .readOnly)
      defer { database.close() }
      let mode = try database.text("PRAGMA journal_mode") ?? ""
      let hold: HoldSupport =
        mode == "wal"
        ? .held(how: "the write lock (BEGIN IMMEDIATE)")
        : .outside(
          why: "journal mode '\(mode)' lets no reader keep a moment while writers go on, so this store is copied "
            + "by itself, after the others; run 'PRAGMA journal_mode=WAL' on it once to bring it into the cut")
      return DriverTraits(
        version: Connection.version, hold: hold, sizeBytes: try database.sizeBytes(),
        notes: mode == "wal"
          ? ["writers wait for at most the hold only if they set a busy timeout; others get SQLITE_BUSY"] : [])
    }
  }

  func capture(_ context: CaptureContext) async throws(DriverError) -> any CaptureSession {
    SQLiteCapture(self, context)
  }

  // MARK: Restoring

  func swap(_ request: RestoreRequest) -> PathSwap {
    PathSwap(
      live: path, workspace: request.workspace(beside: path), companions: ["-wal", "-shm", "-journal"])
  }

  func precheck(_ request: RestoreRequest) async throws(DriverError) -> [Finding] {
    let swap = swap(request)
    if let replay = request.replay {
      do throws(DriverError) { try requireKnown(replay.target) } catch { return [Finding(error.report)] }
    }
    return await pool.run {
      var found = swap.precheck(needsBytes: request.capture.sizeBytes)
      if capturedName(request.capture) == nil {
        found.append(
          Finding(
            Report("DRIVER-611", "the snapshot does not say which file is the database", retry: .never)
              .remedy("restore it with restic and check what it holds")))
      }
      return found
    }
  }

  func restoreBeside(_ request: RestoreRequest) async throws(DriverError) -> RestoredState {
    let swap = swap(request)
    guard let name = capturedName(request.capture) else {
      throw .corrupt("the snapshot does not say which file is the database")
    }
    let isComplete = try await pool.run { () throws(DriverError) -> Bool in
      guard try !swap.isSwapped() else {
        throw .unsupported("this restore has been swapped in already; there is nothing beside to restore to")
      }
      try swap.prepare()
      return try swap.isComplete()
    }
    let place = isComplete ? swap.beside : swap.incomplete
    if !isComplete {
      let tree = swap.workspace + "/tree"
      do { try await pool.run { () throws(SystemFailure) -> Void in try Files.removeTree(tree) } } catch {
        throw DriverError(error)
      }
      do { try await request.source.materialise(TreePath(), at: tree, progress: request.progress) } catch {
        throw error.isCancellation ? .cancelled : .sink(error)
      }
      do {
        try await pool.run { () throws(SystemFailure) -> Void in
          try Files.renameExclusive("\(tree)/\(name)", to: place)
          try Files.removeTree(tree)
        }
      } catch {
        throw DriverError(error)
      }
    }
    let state: RestoredState
    if let replay = request.replay {
      state = try await goForward(replay, request.capture, swap, isComplete: isComplete)
    } else {
      state = try await verify(place, request.capture)
    }
    if !isComplete { try await pool.run { () throws(DriverError) -> Void in try swap.complete() } }
    return state
  }

  /// Proves the copy, then brings it forward. What an earlier try brought forward is not the copy any more.
  private func goForward(
    _ replay: LogReplay, _ capture: CaptureResult, _ swap: PathSwap, isComplete: Bool
  ) async throws(DriverError) -> RestoredState {
    let note = swap.workspace + "/reached"
    if isComplete {
      let bytes: [UInt8]
      do { bytes = try await pool.run { () throws(SystemFailure) in try Files.read(note, limitBytes: 1 << 20) } } catch
      {
        throw DriverError(error)
      }
      guard let state = try? CanonicalJSON.decode(RestoredState.self, from: bytes) else {
        throw .corrupt("\(note) is not what an earlier try wrote")
      }
      _ = try await checked(swap.beside)
      return state
    }
    var state = try await verify(swap.incomplete, capture)
    let reached = try await goForward(
      replay, from: capture, place: swap.incomplete, spill: swap.workspace + "/log")
    state.position = reached.position
    state.proofs = [state.proofs[0], reached.proof] + (try await checked(swap.incomplete))
    let (place, result) = (swap.incomplete, state)
    do {
      state.sizeBytes = try await pool.run { () throws -> Int64 in
        try Files.replace(note, with: try CanonicalJSON.encode(result))
        return Int64(try File(place, O_RDONLY).status().st_size)
      }
    } catch { throw DriverError(error) }
    return state
  }

  func digestBeside(_ request: RestoreRequest) async throws(DriverError) -> ContentDigest? {
    let swap = swap(request)
    let database = try await pool.run { () throws(DriverError) -> Connection in
      // What nobody writes to is read without making a WAL next to it.
      try swap.isSwapped() ? Connection(swap.live, .readOnly) : Connection(swap.beside, .immutable)
    }
    let result: Result<ContentDigest, DriverError>
    do throws(DriverError) {
      result = .success(
        try await database.run(on: pool) { (database) throws(DriverError) in try database.rowsDigest() })
    } catch {
      result = .failure(error)
    }
    await pool.run { database.close() }
    return try result.get()
  }

  func swapIn(_ request: RestoreRequest) async throws(DriverError) {
    let swap = swap(request)
    try await pool.run { () throws(DriverError) -> Void in
      if try swap.isComplete() { try refuseWhileInUse(swap) }
      try swap.swapIn()
    }
  }

  func swapOut(_ request: RestoreRequest) async throws(DriverError) {
    let swap = swap(request)
    try await pool.run { () throws(DriverError) -> Void in
      if try swap.isSwapped() { try refuseWhileInUse(swap) }
      try swap.swapOut(isRecorded: request.isSwapRecorded)
    }
  }

  func discardKept(_ request: RestoreRequest) async throws(DriverError) {
    let swap = swap(request)
    try await pool.run { () throws(DriverError) -> Void in try swap.discard() }
  }

  private func refuseWhileInUse(_ swap: PathSwap) throws(DriverError) {
    let users = OpenFiles.users(of: [swap.live] + swap.companions.map { swap.live + $0 })
    guard users.isEmpty else {
      throw .serverRunning("\(users.map(\.description).joined(separator: ", ")), which has \(swap.live) open,")
    }
  }

  func start() async throws(DriverError) {}

  func stop() async throws(DriverError) {}
}

/// The name of the database file in the captured tree; `nil` for what can't be one.
func capturedName(_ capture: CaptureResult) -> FileName? {
  capture.facts["file"].flatMap { FileName(untrusted: Array($0.utf8)) }
}
