import Core
import DriverKit
import Glibc
import IO

/// Takes the writers' lock and asks the follower where the log stands, again and again.
actor FilesMarking: MarkSession {
  private let driver: FilesDriver
  private let lockFile: String
  private let directory: String
  private var lock: File?
  private var caller: MarkCaller?
  private var keeper: HoldKeeper?

  init(_ driver: FilesDriver, lockFile: String, directory: String) {
    (self.driver, self.lockFile, self.directory) = (driver, lockFile, directory)
  }

  func prepare() async throws(DriverError) {
    let (lockFile, directory) = (lockFile, directory)
    (lock, caller) = try await driver.pool.run { () throws(DriverError) -> (File, MarkCaller) in
      do throws(SystemFailure) {
        return (try File(lockFile, O_RDONLY | O_NONBLOCK), MarkCaller(directory))
      } catch {
        throw .holdImpossible("the lock file \(lockFile) can't be opened: \(error.message.lowercased())")
      }
    }
    // Found out before anybody waits.
    _ = try await ask()
  }

  func hold(limit: Duration) async throws(DriverError) {
    guard let lock else { throw .holdImpossible("the session is not prepared") }
    let keeper = HoldKeeper()
    self.keeper = keeper
    try await keeper.holdLock(lock, limit: limit)
  }

  func mark() async throws(DriverError) -> LogPosition { try await ask() }

  private func ask() async throws(DriverError) -> LogPosition {
    guard let caller else { throw .holdImpossible("the session is not prepared") }
    return try await driver.pool.run { () throws(DriverError) -> LogPosition in try caller.ask() }
  }

  func release() async -> Bool {
    let held = keeper
    keeper = nil
    return await held?.release() ?? false
  }

  func close() async {
    _ = await release()
    (lock, caller) = (nil, nil)
  }
}

extension FilesDriver {
  func marking() -> (any MarkSession)? {
    guard let log, let lockFile else { return nil }
    return FilesMarking(self, lockFile: lockFile, directory: log)
  }
}

extension HoldKeeper {
  /// flock(2), exclusive: writers wait who take it shared.
  func holdLock(_ lock: File, limit: Duration) async throws(DriverError) {
    try await hold(limit: limit, retryEvery: .milliseconds(1)) { () throws(DriverError) -> Bool in
      if retryingInterrupts({ flock(lock.descriptor, LOCK_EX | LOCK_NB) }) == 0 { return true }
      guard errno == EWOULDBLOCK else { throw .holdImpossible(SystemFailure("flock", path: lock.path).report.summary) }
      return false
    } letGo: {
      flock(lock.descriptor, LOCK_UN)
    }
  }
}

/// Asks a tree's follower where its log stands, over a connection that stays.
final class MarkCaller: @unchecked Sendable {
  // Used by one task at a time, on the blocking pool.
  private let directory: String
  private var connection: TimedSocket<MarkFailure>?

  /// A mark is asked for while writers wait; their own limit ends before this one, as a rule.
  private static let patience: Duration = .seconds(5)

  init(_ directory: String) { self.directory = directory }

  /// - Throws: ``DriverError/holdImpossible(_:)`` if nobody follows.
  func ask() throws(DriverError) -> LogPosition {
    do throws(MarkFailure) { return try exchange() } catch {
      let wasOpen = connection != nil
      connection = nil
      // The follower was started anew since.
      if wasOpen, case .broken = error {
        do throws(MarkFailure) { return try exchange() } catch { throw Self.error(error, directory) }
      }
      throw Self.error(error, directory)
    }
  }

  private static func error(_ failure: MarkFailure, _ directory: String) -> DriverError {
    switch failure {
    case .cancelled: .cancelled
    case .silent: .holdImpossible("the follower of this store doesn't come to an end: more changes than it can read")
    case .broken(let why):
      .holdImpossible(
        "nobody follows this store, so nobody can say where its log stands (\(directory): \(why)); start 'salvor follow'"
      )
    }
  }

  private func exchange() throws(MarkFailure) -> LogPosition {
    let connection: TimedSocket<MarkFailure>
    if let open = self.connection { connection = open } else { connection = try connect() }
    self.connection = connection
    try connection.send([1], patience: Self.patience)
    var line: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 128)
    while line.last != 10 {
      var failure: MarkFailure?
      let count = buffer.withUnsafeMutableBytes { raw -> Int in
        do throws(MarkFailure) { return try connection.receive(into: raw, patience: Self.patience) } catch {
          failure = error
          return 0
        }
      }
      if let failure { throw failure }
      guard count > 0 else { throw .broken("the connection ended") }
      line += buffer[..<count]
      guard line.count <= 128 else { throw .broken("an answer without end") }
    }
    let position = LogPosition(kind: ChangePlace.kind, value: String(decoding: line.dropLast(), as: UTF8.self))
    guard ChangePlace(position) != nil else { throw .broken("an answer that is no place") }
    return position
  }

  private func connect() throws(MarkFailure) -> TimedSocket<MarkFailure> {
    let place: File
    do throws(SystemFailure) { place = try File(directory, O_RDONLY | O_DIRECTORY) } catch {
      throw .broken(error.message)
    }
    let connection: TimedSocket<MarkFailure> = try TimedSocket.connect(
      host: MarkListener.address(in: place), port: 0, patience: Self.patience)
    withExtendedLifetime(place) {}
    return connection
  }
}

enum MarkFailure: SocketFailure {
  case silent(Duration)
  case broken(String)
  case cancelled
}
