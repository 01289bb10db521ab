import Core
import DriverKit

/// Reads one database's tables for the digest, as they were under the hold, and in nobody's way for long.
///
/// A snapshot alone doesn't keep what it sees: `TRUNCATE`, `DROP TABLE` and most of `ALTER TABLE` change a table's files
/// for every snapshot. `ACCESS SHARE` locks keep them out. Who waits for one of those keeps everybody else waiting, so
/// each table's lock goes as soon as the table has been read, and at once when somebody waits for it: it is then not
/// digested, which costs a restore a comparison and nothing else.
/// Source: PostgreSQL 15, "Caveats" of concurrency control, and "Explicit Locking".
struct DigestReader: Sendable {
  let database: String
  private let reader: Connection
  /// Looks for those who wait while the reader reads; held the locks before.
  private let watch: Connection
  private let process: String
  /// The oldest transaction whose end the snapshot doesn't see.
  let horizon: UInt64
  /// Locked, in the order of locking, one savepoint per group: to give up a group's locks is to give up all later ones'.
  private let groups: [[RowDigest.Table]]
  /// Names of what the snapshot sees and is not locked.
  private let unlocked: Set<String>

  struct Outcome: Sendable {
    var parts: [String: ContentDigest.Part] = [:]
    var lacking: Set<String> = []
  }

  /// Savepoints cost the server time when they are nested deeply.
  private static let groupLimit = 64
  private static let patience = Duration.milliseconds(500)

  /// To be called under the hold's locks: with them nobody has a lock that conflicts with ours. Somebody may wait for
  /// one, and would come first; so there is nothing to wait for here.
  static func pin(_ member: TableHold.Member) async throws(StatementFailure) -> DigestReader {
    let reader = member.reader
    let process = try await reader.value("SELECT pg_backend_pid()") ?? ""
    var awaited: Set<UInt32> = []
    // Each time round, somebody else began to wait meanwhile.
    for attempt in 1...4 {
      let begun = try await reader.run(
        "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SELECT pg_snapshot_xmin(pg_current_snapshot())")
      guard let horizon = begun.rows.first?.first.flatMap({ $0 }).flatMap({ UInt64($0) }) else {
        throw StatementFailure(code: "XX000", message: "the server did not name its snapshot")
      }
      let visible = try await RowDigest.tables(reader)
      let held = Set(
        try await reader.run(
          """
          SELECT relation FROM pg_locks
          WHERE pid = \(member.locksProcess) AND locktype = 'relation' AND mode = 'ShareLock' AND granted
          """
        ).rows.compactMap { $0.first?.flatMap { UInt32($0) } })
      // The last try locks nothing.
      let tables = attempt == 4 ? [] : visible.filter { held.contains($0.oid) && !awaited.contains($0.oid) }
      // The largest first: it is read last, and waits for nobody's sake but its own.
      let groups = Self.groups(of: tables.sorted { $0.pages > $1.pages })
      do throws(StatementFailure) {
        if !groups.isEmpty { _ = try await reader.run(lockStatements(groups)) }
        let locked = Set(tables.map(\.oid))
        return DigestReader(
          database: member.database, reader: reader, watch: member.locks, process: process, horizon: horizon,
          groups: groups,
          unlocked: Set(visible.filter { !locked.contains($0.oid) }.map(\.name)))
      } catch {
        // A lock that can't be had, no room for more locks, no right to one, a schema that was renamed.
        guard ["55P03", "53200", "42501", "42P01", "3F000"].contains(error.code) else { throw error }
        await reader.runToEnd("ROLLBACK")
        awaited.formUnion(
          try await reader.run(
            """
            SELECT relation FROM pg_locks WHERE locktype = 'relation' AND NOT granted AND mode = 'AccessExclusiveLock'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """
          ).rows.compactMap { $0.first?.flatMap { UInt32($0) } })
      }
    }
    throw StatementFailure(code: "XX000", message: "no snapshot of \(member.database)")
  }

  private static func groups(of tables: [RowDigest.Table]) -> [[RowDigest.Table]] {
    guard !tables.isEmpty else { return [] }
    let size = (tables.count + groupLimit - 1) / groupLimit
    return stride(from: 0, to: tables.count, by: size).map { Array(tables[$0..<min($0 + size, tables.count)]) }
  }

  private static func lockStatements(_ groups: [[RowDigest.Table]], from first: Int = 0) -> String {
    groups.enumerated().map { offset, tables in
      let index = first + offset
      let list = tables.map { "ONLY " + $0.quoted }.joined(separator: ", ")
      return "SAVEPOINT salvor_\(index); LOCK TABLE \(list) IN ACCESS SHARE MODE NOWAIT"
    }.joined(separator: "; ")
  }

  // MARK: Reading

  /// Reads every table, and ends the transaction.
  func read(_ time: any Timekeeper) async throws(StatementFailure) -> Outcome {
    var outcome = Outcome(lacking: Set(unlocked.map { database + "." + $0 }))
    var rest = groups
    while let group = rest.last {
      if let tables = try await awaited(in: rest) {
        outcome.lacking.formUnion(try await giveWay(to: tables, of: &rest))
        continue
      }
      var parts: [String: ContentDigest.Part] = [:]
      var interrupted: Set<UInt32>?
      for table in group {
        switch try await part(of: table, while: rest, time) {
        case .found(let part): parts[database + "." + table.name] = part
        case .awaited(let tables): interrupted = tables
        }
        if interrupted != nil { break }
      }
      if let tables = interrupted {
        outcome.lacking.formUnion(try await giveWay(to: tables, of: &rest))
        continue
      }
      outcome.parts.merge(parts) { first, _ in first }
      rest.removeLast()
      _ = try await reader.run("ROLLBACK TO SAVEPOINT salvor_\(rest.count)")
    }
    _ = try await reader.run("ROLLBACK")
    return outcome
  }

  private enum Answer: Sendable {
    case found(ContentDigest.Part)
    /// Somebody waits for these tables.
    case awaited(Set<UInt32>)
  }

  /// Lets go of tables that somebody waits for, and keeps the others locked all the while.
  ///
  /// - Parameter groups: Those that are left; whatever was locked after the first of the tables is locked anew.
  /// - Returns: The parts that won't be digested.
  private func giveWay(
    to tables: Set<UInt32>, of groups: inout [[RowDigest.Table]]
  ) async throws(StatementFailure) -> Set<String> {
    guard let index = groups.firstIndex(where: { $0.contains { tables.contains($0.oid) } }) else { return [] }
    let dropped = Array(groups[index...].joined())
    groups.removeSubrange(index...)
    var kept = Self.groups(of: dropped.filter { !tables.contains($0.oid) })
    if !kept.isEmpty, await !watch.runToEnd("BEGIN; " + Self.lockStatements([Array(kept.joined())])) { kept = [] }
    // Also out of a statement that was interrupted.
    _ = try await reader.run("ROLLBACK TO SAVEPOINT salvor_\(index)")
    if !kept.isEmpty, await !reader.runToEnd(Self.lockStatements(kept, from: index)) {
      // Somebody came to wait for one of them just now.
      kept = []
      _ = try await reader.run("ROLLBACK TO SAVEPOINT salvor_\(index)")
    }
    await watch.runToEnd("ROLLBACK")
    groups += kept
    let locked = Set(kept.joined().map(\.oid))
    return Set(dropped.filter { !locked.contains($0.oid) }.map { database + "." + $0.name })
  }

  /// Reads a table unless somebody comes to wait for one of `groups`.
  private func part(
    of table: RowDigest.Table, while groups: [[RowDigest.Table]], _ time: any Timekeeper
  ) async throws(StatementFailure) -> Answer {
    let result = await withTaskGroup(of: Result<Answer, StatementFailure>?.self) { group in
      group.addTask {
        do throws(StatementFailure) {
          // Its schema may have been renamed, which no lock prevents.
          guard let name = try await reader.value("SELECT \(table.oid)::regclass::text"),
            let part = try await RowDigest.part(reader, name)
          else { throw StatementFailure(code: "XX000", message: "\(table.quoted) could not be counted") }
          return .success(.found(part))
        } catch { return .failure(error) }
      }
      group.addTask {
        do throws(StatementFailure) {
          while true {
            do { try await time.sleep(for: Self.patience) } catch { return nil }
            if let tables = try await awaited(in: groups) { return .success(.awaited(tables)) }
          }
        } catch { return error.code == StatementFailure.cancelled.code ? nil : .failure(error) }
      }
      var first: Result<Answer, StatementFailure>?
      while let next = await group.next() {
        if first == nil, let next {
          first = next
          group.cancelAll()
        }
      }
      return first
    }
    guard let result else { throw .cancelled }
    return try result.get()
  }

  /// - Returns: Tables of `groups` that somebody waits for because of us; `nil` if nobody does.
  private func awaited(in groups: [[RowDigest.Table]]) async throws(StatementFailure) -> Set<UInt32>? {
    let waiting = Set(
      try await watch.run(
        """
        SELECT relation FROM pg_locks WHERE locktype = 'relation' AND NOT granted
        AND \(process) = ANY (pg_blocking_pids(pid))
        """
      ).rows.compactMap { $0.first?.flatMap { UInt32($0) } })
    if waiting.isEmpty { return nil }
    let tables = waiting.intersection(groups.joined().map(\.oid))
    return tables.isEmpty ? nil : tables
  }

  /// Gives up the locks, unread.
  func abandon() async { await reader.runToEnd("ROLLBACK") }
}
