import Core
import DriverKit
import DriverSQLite
import GRDBSQLite
import IO
import Recovery
import Synchronization

/// How long writers wait for a cut across several SQLite databases, and what cuts cost them.
enum PointsBench: Benchmark {
  static let name = "points"
  static let summary = "the pause of a barrier over four SQLite databases with a writer each"

  static func run(_ context: BenchmarkContext) async throws -> [BenchmarkRow] {
    let (stores, rounds) = context.scale == .full ? (4, 200) : (2, 3)
    let interval = Duration.milliseconds(context.scale == .full ? 25 : 1)
    let paths = (0..<stores).map { "\(context.directory)/\($0).db" }
    for path in paths {
      try await BlockingPool.shared.run {
        try Database(path).run("PRAGMA journal_mode=WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, payload TEXT)")
      }
    }
    let alone = try await underLoad(paths, context.time) {
      for _ in 0..<rounds { try await context.time.sleep(for: interval) }
    }
    let cut = try await underLoad(paths, context.time) {
      var pauses: [Double] = []
      for _ in 0..<rounds {
        pauses.append(try await pause(paths, context))
        try await context.time.sleep(for: interval)
      }
      return pauses
    }
    return [
      BenchmarkRow("stores", Double(stores), ""),
      BenchmarkRow("cuts", Double(cut.value.count), ""),
      BenchmarkRow("pause, median", median(cut.value), "ms"),
      BenchmarkRow("pause, 99 of 100", percentile(cut.value, 0.99), "ms"),
      BenchmarkRow("writes without cuts", alone.rate, "1/s"),
      BenchmarkRow("writes with cuts", cut.rate, "1/s"),
      BenchmarkRow("throughput kept", alone.rate > 0 ? cut.rate / alone.rate : 0, "×"),
    ]
  }

  /// Prepares every store, cuts, and gives the copies up.
  ///
  /// - Returns: Milliseconds from the first hold to the last release.
  private static func pause(_ paths: [String], _ context: BenchmarkContext) async throws -> Double {
    let environment = DriverEnvironment(time: context.time, randomness: SystemRandomness(), pool: .shared) {
      _ throws(AnyFailure) in throw AnyFailure(BenchmarkError.wrong("SQLite needs no secret"))
    }
    var members: [StoreName: Cut.Member] = [:]
    var sessions: [any CaptureSession] = []
    var failure: (any Error)?
    var pause = 0.0
    do {
      for (index, path) in paths.enumerated() {
        guard let name = StoreName("store\(index)") else { continue }
        let driver = try SQLiteDriverFactory.make(
          StoreConfiguration(name: name, options: ["path": .string(path)]), in: environment)
        let session = try await driver.capture(
          CaptureContext(sink: NoSink(), scratch: context.directory, wantsContentDigest: false))
        sessions.append(session)
        try await session.prepare()
        members[name] = Cut.Member(session: session, support: try await driver.traits().hold)
      }
      let outcome = try await Cut(members, policy: .hold(budget: .seconds(5)), time: context.time).take()
      guard outcome.mode == .barrier else { throw BenchmarkError.wrong("the cut was not a barrier") }
      pause = outcome.pause / .milliseconds(1)
    } catch { failure = error }
    for session in sessions { await session.close() }
    if let failure { throw failure }
    return pause
  }

  /// Runs `body` while one writer per database inserts as fast as it can.
  ///
  /// - Returns: What `body` returned, and inserts per second, all writers together.
  private static func underLoad<T: Sendable>(
    _ paths: [String], _ time: any Timekeeper, _ body: @escaping @Sendable () async throws -> T
  ) async throws -> (value: T, rate: Double) {
    let writers = Writers()
    return try await withThrowingTaskGroup(of: Int.self) { group in
      for path in paths { group.addTask { try await writers.run(path) } }
      let result: Result<(T, Duration), any Error>
      do { result = .success(try await time.measure(body)) } catch { result = .failure(error) }
      writers.end()
      let inserts = try await group.reduce(0, +)
      let (value, duration) = try result.get()
      return (value, Double(inserts) / (duration / .seconds(1)))
    }
  }
}

/// Nothing of a cut is copied here.
private struct NoSink: TreeSink {
  func add(
    _ path: TreePath, _ metadata: FileMetadata, cutting: Cutting, content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    throw AnyFailure(BenchmarkError.wrong("a cut alone copies nothing"))
  }
}

/// Writers that go on until they are told to end.
private final class Writers: Sendable {
  private let isOver = Atomic(false)

  func end() { isOver.store(true, ordering: .relaxed) }

  /// - Returns: How many rows were inserted.
  func run(_ path: String) async throws -> Int {
    let database = try await BlockingPool.shared.run { try Database(path) }
    var count = 0
    while !isOver.load(ordering: .relaxed) {
      try await BlockingPool.shared.run { try database.run("INSERT INTO t (payload) VALUES ('a row of some bytes')") }
      count += 1
    }
    return count
  }
}

/// An application's connection, with the busy timeout that lets it wait for a cut.
///
/// Sendable: opened with SQLite's own full mutex.
private final class Database: @unchecked Sendable {
  private let handle: OpaquePointer

  init(_ path: String) throws {
    var opened: OpaquePointer?
    let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX
    guard sqlite3_open_v2(path, &opened, flags, nil) == SQLITE_OK, let opened else {
      sqlite3_close_v2(opened)
      throw BenchmarkError.database("can't open \(path)")
    }
    handle = opened
    sqlite3_busy_timeout(handle, 30_000)
  }

  deinit { sqlite3_close_v2(handle) }

  func run(_ sql: String) throws {
    guard sqlite3_exec(handle, sql, nil, nil, nil) == SQLITE_OK else {
      throw BenchmarkError.database(String(cString: sqlite3_errmsg(handle)))
    }
  }
}
