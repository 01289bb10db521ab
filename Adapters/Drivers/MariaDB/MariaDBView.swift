import Core
import DriverKit

extension MariaDBDriver {
  func liveView() async throws(DriverError) -> (any StoreView)? { MariaDBView(driver: self) }
}

/// The live server, read in one transaction: InnoDB's tables as they were at one moment.
struct MariaDBView: StoreView {
  let driver: MariaDBDriver

  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    try await driver.query(text, limit: limit)
  }

  func contentDigest() async throws(DriverError) -> ContentDigest {
    try await reading { (connection) throws(StatementFailure) in
      var parts: [String: ContentDigest.Part] = [:]
      for table in try await RowDigest.tables(connection) {
        parts[table.part] = try await RowDigest.part(connection, table)
      }
      return ContentDigest(scheme: RowDigest.scheme, parts: parts)
    }
  }

  /// Columns of tables; nothing else is told apart.
  func schema() async throws(DriverError) -> StoreSchema {
    try await reading { (connection) throws(StatementFailure) in
      var parts: [String: String] = [:]
      for table in try await RowDigest.tables(connection) {
        parts["table " + table.part] = table.columns.map { $0.map { $0 ?? "" }.joined(separator: " ") }
          .joined(separator: ", ")
      }
      return StoreSchema(parts: parts)
    }
  }

  func close() async {}

  private func reading<T: Sendable>(
    _ body: (Connection) async throws(StatementFailure) -> T
  ) async throws(DriverError) -> T {
    let connection = try await driver.connect()
    let result: Result<T, StatementFailure>
    do throws(StatementFailure) {
      try await connection.run(RowDigest.settings)
      try await connection.run("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
      result = .success(try await body(connection))
    } catch { result = .failure(error) }
    await connection.close()
    do throws(StatementFailure) { return try result.get() } catch { throw error.driverError("reading every row") }
  }
}
