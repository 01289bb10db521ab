import Core
import DriverKit
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Makes a server's writers wait before they commit: `BACKUP STAGE` up to `BLOCK_COMMIT`, on a connection of its own.
///
/// From `BLOCK_DDL` on nobody changes tables without transactions or defines anything, from `BLOCK_COMMIT` on nobody
/// commits. The stage goes with the connection, and the server closes that when it hears nothing for longer than the
/// limit (`wait_timeout`), which counts in seconds; before it does, this process lets go on time.
/// Source: MariaDB 10.11, "BACKUP STAGE".
final class CommitHold: Sendable {
  /// How long a connection that holds nobody may say nothing.
  static let idleSeconds = 604_800

  private let connection: Connection
  private let keeper = HoldKeeper()
  private let hasEnded = Mutex(false)

  init(_ connection: Connection) { self.connection = connection }

  func take(limit: Duration, time: any Timekeeper) async throws(DriverError) {
    let connection = connection
    let deadline = time.monotonicNanoseconds() + limit.wholeNanoseconds
    let patience = max(1, limit.components.seconds) + 1
    let outcome: Result<Void, DriverError> = await withTaskCancellationHandler {
      do throws(DriverError) {
        try await keeper.hold(limit: limit, retryEvery: .milliseconds(20)) { () throws(DriverError) -> Bool in
          try Self.stage(connection, patience: patience) {
            let left = Double(deadline - time.monotonicNanoseconds()) / 1e9
            return left > 0.001 ? left : nil
          }
        } letGo: { [self] in
          let done = (try? connection.runBlocking("BACKUP STAGE END")) != nil
          hasEnded.withLock { $0 = done }
          // What can't be ended by asking ends with the connection. Otherwise that may be idle again until the next hold.
          if !done || (try? connection.runBlocking("SET SESSION wait_timeout = \(Self.idleSeconds)")) == nil {
            connection.interrupt()
          }
        }
        return .success(())
      } catch { return .failure(error) }
    } onCancel: {
      connection.interrupt()
    }
    if case .failure(let error) = outcome {
      if Task.isCancelled { throw .cancelled }
      throw error
    }
  }

  /// - Returns: Whether commits were held until now.
  func release() async -> Bool {
    let wasHeld = await keeper.release()
    return wasHeld && hasEnded.withLock { $0 }
  }

  /// Blocks. `false` if somebody stood in the way for too long; then nobody waits.
  ///
  /// - Parameter left: Seconds until the limit, `nil` when it has passed: all stages have it together.
  private static func stage(
    _ connection: Connection, patience: Int64, left: () -> Double?
  ) throws(DriverError) -> Bool {
    do throws(StatementFailure) {
      _ = try connection.runBlocking(
        "SET SESSION wait_timeout = \(patience), lock_wait_timeout = \(patience)")
      for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
        guard let seconds = left() else { throw StatementFailure(code: 1969, message: "the limit has passed") }
        // In one with the statement: whoever writes elsewhere waits for each answer.
        _ = try connection.runBlocking("SET STATEMENT max_statement_time = \(seconds) FOR BACKUP STAGE \(stage)")
      }
      return true
    } catch {
      _ = try? connection.runBlocking("BACKUP STAGE END")
      if error.isTimeout { return false }
      switch error.code {
      case 1044, 1142, 1227: throw error.driverError("BACKUP STAGE")
      default:
        connection.interrupt()
        throw .holdImpossible(error.message)
      }
    }
  }
}
