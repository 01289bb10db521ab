import Core
import DriverKit
import GRDBSQLite
import IO

extension SQLiteDriver: StoreCorrector {
  func corrector() -> (any StoreCorrector)? { self }

  func make(_ change: StoreChange) async throws(DriverError) -> ChangeEffect {
    guard case .statement(let text) = change else { throw StoreChange.isNone(of: "statements") }
    let path = path
    let database = try await pool.run { () throws(DriverError) -> Connection in try Connection(path, .readWrite) }
    let result: Result<ChangeEffect, DriverError>
    do throws(DriverError) {
      result = .success(
        try await database.run(on: pool) { (database) throws(DriverError) in try database.change(text) })
    } catch {
      result = .failure(error)
    }
    await pool.run { database.close() }
    return try result.get()
  }

  func queryBeside(
    _ request: RestoreRequest, _ texts: [String], limit: QueryLimit
  ) async throws(DriverError) -> [QueryResult] {
    let swap = swap(request)
    var results: [QueryResult] = []
    for text in texts {
      // What a query may do is settled once for a connection.
      let database = try await pool.run { () throws(DriverError) -> Connection in
        try swap.isSwapped() ? Connection(swap.live, .readOnly) : Connection(swap.beside, .immutable)
      }
      let result: Result<QueryResult, DriverError>
      do throws(DriverError) {
        result = .success(
          try await database.run(on: pool) { (database) throws(DriverError) in try database.rows(text, limit) })
      } catch {
        result = .failure(error)
      }
      await pool.run { database.close() }
      results.append(try result.get())
    }
    return results
  }
}

extension Connection {
  /// Runs one statement in a transaction of its own, under the write lock from its beginning.
  fileprivate func change(_ sql: String) throws(DriverError) -> ChangeEffect {
    let handle = try handle()
    try execute("PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; BEGIN IMMEDIATE")
    do throws(DriverError) {
      let statement = try Statement(self, sql)
      guard statement.tail.allSatisfy({ $0.isWhitespace || $0 == ";" }) else {
        throw .queryFailed("only one statement at a time")
      }
      while try statement.step() {}
    } catch {
      sqlite3_exec(handle, "ROLLBACK", nil, nil, nil)
      switch error {
      case .engineFailed(_, let log): return .refused(log)
      case .queryFailed(let why): return .refused(why)
      default: throw error
      }
    }
    let changed = Int64(sqlite3_changes(handle))
    try execute("COMMIT")
    return changed == 0 ? .left("it was made before, or the rows are others by now") : .changed(changed)
  }
}
