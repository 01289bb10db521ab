import Core
import DriverKit
import IO

extension PostgreSQLDriver: StoreCorrector {
  func corrector() -> (any StoreCorrector)? { self }

  /// One transaction; what waits longer than a few seconds for a lock is refused by the server, and nothing has changed.
  func make(_ change: StoreChange) async throws(DriverError) -> ChangeEffect {
    guard case .statement(let text) = change else { throw StoreChange.isNone(of: "statements") }
    let connection = try await connect()
    let outcome: Result<ChangeEffect, DriverError>
    do throws(StatementFailure) {
      _ = try await connection.run("BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '60s'")
      // With a limit of rows the server takes one statement and no more.
      let changed = try await connection.run(text + " RETURNING 1", rowLimit: 1 << 20).rows.count
      _ = try await connection.run("COMMIT")
      outcome = .success(
        changed == 0 ? .left("it was made before, or the rows are others by now") : .changed(Int64(changed)))
    } catch {
      outcome =
        error.code == StatementFailure.cancelled.code
        ? .failure(.cancelled)
        : error.isConnectionLost ? .failure(error.driverError("a correction")) : .success(.refused(error.message))
    }
    await connection.close()
    return try outcome.get()
  }

  func queryBeside(
    _ request: RestoreRequest, _ texts: [String], limit: QueryLimit
  ) async throws(DriverError) -> [QueryResult] {
    let facts = try RestoreFacts(request.capture.facts)
    let layout = RestoreLayout(request, facts, dataDirectory: dataDirectory)
    guard try await outcome(layout) != nil else {
      throw .unsupported("nothing is restored beside \(dataDirectory) under this id")
    }
    return try await serving(layout, facts) { (place) async throws(DriverError) in
      let connection = try await connect(place, password: nil)
      var results: [QueryResult] = []
      do throws(StatementFailure) {
        for text in texts {
          _ = try await connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
          results.append(try await connection.run(text, rowLimit: limit.rows))
          _ = try await connection.run("ROLLBACK")
        }
      } catch {
        await connection.close()
        throw error.code == StatementFailure.cancelled.code ? .cancelled : .queryFailed(error.message)
      }
      await connection.close()
      return results
    }
  }
}
