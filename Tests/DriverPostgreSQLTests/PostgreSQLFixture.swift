import Core
import DriverContract
import DriverKit
import IO
import TestSupport

@testable import DriverPostgreSQL

/// A live cluster with a table of records, for the contract.
struct PostgreSQLFixture: DriverFixture {
  let server: PostgreSQLServer

  static func start() async throws -> Self {
    let fixture = Self(server: try await .start())
    do {
      try await fixture.server.sql(
        "CREATE TABLE records (number bigint PRIMARY KEY, payload text NOT NULL)",
        "INSERT INTO records SELECT n, 'salvor-record-' || n || '-of-the-contract' FROM generate_series(1, 20) AS n")
    } catch {
      await fixture.shutDown()
      throw error
    }
    return fixture
  }

  func options(_ changes: [String: JSONValue] = [:]) -> StoreConfiguration {
    let options: [String: JSONValue] = [
      "host": "127.0.0.1", "port": .integer(Int64(server.port)), "user": .string(PostgreSQLServer.user),
      "password": .string("file:" + server.passwordFile), "dataDirectory": .string(server.data), "startTimeout": "30s",
      "runAs": .string(PostgreSQLServer.owner == nil ? "" : "postgres"),
    ]
    return StoreConfiguration(
      name: "ledger", options: options.merging(changes) { _, new in new }.filter { $0.value != .string("") && $0.value != .null })
  }

  func driver(_ changes: [String: JSONValue]) throws -> any DataStoreDriver {
    try PostgreSQLDriverFactory.make(options(changes), in: .live)
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    switch variant {
    case .usual: try driver([:])
    case .liveState(let below): try driver(["dataDirectory": .string(below + "/data")])
    case .withoutStop: try driver(["stop": "none"])
    }
  }

  var livePaths: [String] { [server.data] }

  func connect(_ database: String = "postgres") async throws -> Connection {
    try await Connection.open(
      ServerAddress(host: "127.0.0.1", port: server.port, user: PostgreSQLServer.user, database: database),
      password: Secret(PostgreSQLServer.password), pool: .shared)
  }

  func write(_ number: Int64, payload: String) async throws {
    let connection = try await connect()
    let ran: Result<QueryResult, StatementFailure>
    do throws(StatementFailure) {
      ran = .success(try await connection.run(
          "INSERT INTO records VALUES ($1, $2) ON CONFLICT (number) DO UPDATE SET payload = excluded.payload", [String(number), payload]))
    } catch { ran = .failure(error) }
    await connection.close()
    _ = try ran.get()
  }

  func records() async throws -> Set<Int64> {
    let connection = try await connect()
    let rows = try await connection.run("SELECT number FROM records").rows
    await connection.close()
    return Set(rows.compactMap { $0[0].flatMap { Int64($0) } })
  }

  func destroyLive() async throws {
    let data = server.data
    try await BlockingPool.shared.run { try Files.removeTree(data) }
  }

  func shutDown() async { await server.shutDown() }
}
