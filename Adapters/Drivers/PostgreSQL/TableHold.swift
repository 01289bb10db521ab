import Core
import DriverKit

#if canImport(Glibc)
  import Glibc
#endif

/// Makes a cluster's writers wait: a `SHARE` lock on every table, in every database, for one transaction each.
///
/// A table's writers hold `ROW EXCLUSIVE` until they have committed, so once all locks are granted every acknowledged
/// write is in the log and no other can begin; readers go on. The locks go with the connection, and the server ends the
/// transaction by itself when the limit has passed (`idle_in_transaction_session_timeout`).
/// Source: PostgreSQL 15, "Explicit Locking", table 13.2.
struct TableHold: Sendable {
  struct Member: Sendable {
    var database: String
    /// Holds the locks. While it does, nothing else may run on it: each statement starts the server's idle time anew.
    var locks: Connection
    /// The process that serves ``locks``.
    var locksProcess: String
    /// Takes its snapshot under the locks, and keeps it for the digest.
    var reader: Connection
  }

  /// One per database; ``take(limit:)`` adds those of databases that were made since.
  private(set) var members: [Member]
  /// Asks and signals, in the driver's own database.
  var control: Connection
  var time: any Timekeeper
  /// The server's `deadlock_timeout`.
  var deadlockTimeout: Duration
  /// Connects to one database.
  var enter: @Sendable (_ database: String) async throws(DriverError) -> Member

  /// Databases that are held. Not the templates: a connection to one would keep CREATE DATABASE waiting.
  static let databases = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid"

  init(
    control: Connection, time: any Timekeeper, deadlockTimeout: Duration,
    enter: @escaping @Sendable (_ database: String) async throws(DriverError) -> Member
  ) {
    (self.control, self.time, self.deadlockTimeout, self.enter) = (control, time, deadlockTimeout, enter)
    members = []
  }

  /// Connects to the databases there are and that it isn't connected to yet.
  ///
  /// - Returns: Whether there were any.
  @discardableResult
  mutating func enterDatabases() async throws(DriverError) -> Bool {
    let names: [String]
    do throws(StatementFailure) {
      names = try await control.run(Self.databases).rows.compactMap { $0.first ?? nil }
    } catch { throw error.driverError("looking for databases") }
    let known = Set(members.map(\.database))
    let missing = names.filter { !known.contains($0) }
    for name in missing { members.append(try await enter(name)) }
    return !missing.isEmpty
  }

  /// - Throws: ``DriverError/holdTimeout(_:)`` with nothing locked.
  mutating func take(limit: Duration) async throws(DriverError) {
    let time = time
    let began = time.monotonicNanoseconds()
    func remaining() -> Duration { limit - .nanoseconds(time.monotonicNanoseconds() - began) }
    // Whoever waits longer than `deadlock_timeout` looks for deadlocks and may end the application's transaction instead
    // of ours. So we never wait that long at a stretch, and an application never loses to us.
    let longest = max(.milliseconds(20), deadlockTimeout * 7 / 10)
    // The first round is short, to meet what stands in the way early: maintenance is asked to step aside after it.
    var round = min(longest, max(.milliseconds(20), limit / 4))
    while true {
      let budget = min(round, remaining())
      guard budget >= .milliseconds(1) else { throw .holdTimeout(limit) }
      if try await lockAll(budget, within: remaining()) {
        // Asked under the locks of all others; what is new is locked with them in the next round.
        let isNew: Bool
        do throws(DriverError) { isNew = try await enterDatabases() } catch {
          await rollBack()
          throw error
        }
        if isNew {
          await rollBack()
          continue
        }
        let left = remaining()
        if left >= .milliseconds(1), try await setDeadline(left) { return }
        await rollBack()
        throw .holdTimeout(limit)
      }
      await rollBack()
      try throwIfCancelled()
      if remaining() >= .milliseconds(1) { await cancelMaintenance() }
      round = longest
    }
  }

  /// - Returns: Whether every lock was still held.
  func release() async -> Bool {
    await withTaskGroup(of: Bool.self) { group in
      for member in members {
        group.addTask {
          guard await member.locks.isInTransaction() else { return false }
          // What a session that was ended answers is an error, and a transaction that failed says so here.
          return await member.locks.runToEnd("SELECT 1; ROLLBACK")
        }
      }
      return await group.reduce(true) { $0 && $1 }
    }
  }

  /// Pins what the readers see, and locks the tables against whoever would change their files; to be called under the
  /// locks, and before the position is named: what a reader sees is then before that position.
  func pinSnapshots() async throws(StatementFailure) -> [DigestReader] {
    let results = await withTaskGroup(of: Result<DigestReader, StatementFailure>.self) { group in
      for member in members {
        group.addTask {
          do throws(StatementFailure) {
            return .success(try await DigestReader.pin(member))
          } catch { return .failure(error) }
        }
      }
      return await group.reduce(into: [Result<DigestReader, StatementFailure>]()) { $0.append($1) }
    }
    var readers: [DigestReader] = []
    for result in results { readers.append(try result.get()) }
    return readers
  }

  private func lockAll(_ budget: Duration, within limit: Duration) async throws(DriverError) -> Bool {
    do throws(StatementFailure) {
      return try await onAll { (member) throws(StatementFailure) in try await lock(member, budget, within: limit) }
    } catch {
      await rollBack()
      switch error.code {
      case StatementFailure.cancelled.code: throw .cancelled
      case "42501":
        throw .permissionDenied(
          "locking tables: \(error.message)", needs: "UPDATE on every table, or pg_write_all_data")
      case "53200":
        throw .holdImpossible("the server's lock table is full: raise max_locks_per_transaction and restart it")
      default: throw .holdImpossible(error.message)
      }
    }
  }

  func lock(_ member: Member, _ budget: Duration, within limit: Duration) async throws(StatementFailure) -> Bool {
    let deadline = time.monotonicNanoseconds() + budget.wholeNanoseconds
    func left() -> Int64 { max(1, (deadline - time.monotonicNanoseconds()) / 1_000_000) }
    do throws(StatementFailure) {
      _ = try await member.locks.run(
        "BEGIN; SET LOCAL lock_timeout = \(left()); SET LOCAL statement_timeout = \(left()); "
          // With a margin, for this is not the limit: should we be stopped while other databases are still being
          // locked, the server lets go by itself.
          + "SET LOCAL idle_in_transaction_session_timeout = \(max(1, limit.wholeNanoseconds / 1_000_000) + 2000)")
      var locked: Set<String> = []
      // A table made while we waited is found by the second look, or the third.
      while true {
        let tables = try await member.locks.run(RowDigest.tables).rows.compactMap { $0.first ?? nil }
        let missing = tables.filter { !locked.contains($0) }
        if missing.isEmpty { return true }
        guard time.monotonicNanoseconds() < deadline else { return false }
        let list = missing.map { "ONLY " + $0 }.joined(separator: ", ")
        _ = try await member.locks.run("SET LOCAL statement_timeout = \(left()); LOCK TABLE \(list) IN SHARE MODE")
        locked.formUnion(missing)
      }
    } catch {
      // lock_timeout, statement_timeout, a deadlock, a table or schema dropped in between: try again.
      if ["55P03", "57014", "40P01", "42P01", "3F000"].contains(error.code) { return false }
      throw error
    }
  }

  private func setDeadline(_ left: Duration) async throws(DriverError) -> Bool {
    let milliseconds = max(1, left.wholeNanoseconds / 1_000_000)
    do throws(StatementFailure) {
      return try await onAll { (member) throws(StatementFailure) in
        _ = try await member.locks.run(
          "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = \(milliseconds)")
        return true
      }
    } catch {
      await rollBack()
      if error.code == StatementFailure.cancelled.code { throw .cancelled }
      throw .holdImpossible(error.message)
    }
  }

  private func rollBack() async {
    // Also when cancelled: a child task of a cancelled one could not run a statement.
    await withTaskGroup(of: Void.self) { group in
      for member in members { group.addTask { await member.locks.runToEnd("ROLLBACK") } }
    }
  }

  /// Autovacuum yields to a lock only after `deadlock_timeout`, which we never wait; so it is asked. Not when it
  /// prevents wraparound. Needs a superuser; without, it is waited for.
  private func cancelMaintenance() async {
    _ = try? await control.run(
      """
      SELECT pg_cancel_backend(pid) FROM pg_stat_activity
      WHERE backend_type = 'autovacuum worker' AND query NOT LIKE '%to prevent wraparound%'
      """)
  }

  @discardableResult
  private func onAll(
    _ body: @escaping @Sendable (Member) async throws(StatementFailure) -> Bool
  ) async throws(StatementFailure) -> Bool {
    let results = await withTaskGroup(of: Result<Bool, StatementFailure>.self) { group in
      for member in members {
        group.addTask {
          do throws(StatementFailure) { return .success(try await body(member)) } catch { return .failure(error) }
        }
      }
      return await group.reduce(into: [Result<Bool, StatementFailure>]()) { $0.append($1) }
    }
    var all = true
    for result in results { all = try result.get() && all }
    return all
  }
}
