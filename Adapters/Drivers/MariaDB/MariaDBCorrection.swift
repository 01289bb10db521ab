import Core
import DriverKit

extension MariaDBDriver: StoreCorrector {
  func corrector() -> (any StoreCorrector)? { self }

  func make(_ change: StoreChange) async throws(DriverError) -> ChangeEffect {
    guard case .statement(let text) = change else { throw StoreChange.isNone(of: "statements") }
    let connection = try await connect()
    let outcome: Result<ChangeEffect, DriverError>
    do throws(StatementFailure) {
      // Rows are counted that match, not those whose values become others; a value that doesn't fit is refused, not bent.
      try await connection.run(
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', lock_wait_timeout = 10, "
          + "innodb_lock_wait_timeout = 10, max_statement_time = 60, character_set_connection = utf8mb4")
      try await connection.run("START TRANSACTION")
      try await connection.run(text)
      let changed = Int64(try await connection.value("SELECT ROW_COUNT()") ?? "") ?? 0
      try await connection.run("COMMIT")
      outcome = .success(changed <= 0 ? .left("it was made before, or the rows are others by now") : .changed(changed))
    } catch {
      // Numbers from 2000 to 2999 are the client's: the connection is gone, and what became of it is not known.
      outcome =
        error.isCancelled
        ? .failure(.cancelled)
        : (2000..<3000).contains(error.code)
          ? .failure(.unreachable("a correction: \(error.message)")) : .success(.refused(error.message))
    }
    await connection.close()
    return try outcome.get()
  }
}
