import Core
import DriverContract
import DriverKit
import IO
import Synchronization
import TestSupport

@testable import DriverPostgreSQL

/// A live cluster with a table of records, for the contract.
struct PostgreSQLFixture: DriverFixture {
  let server: PostgreSQLServer
  private let idle = IdleConnections()
  /// Options that every driver of this fixture gets.
  private let always: [String: JSONValue]

  init(server: PostgreSQLServer, always: [String: JSONValue] = [:]) { (self.server, self.always) = (server, always) }

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
      name: "ledger",
      options: options.merging(always) { _, new in new }.merging(changes) { _, new in new }.filter {
        $0.value != .string("") && $0.value != .null
      })
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
    _ = try await run(
      "INSERT INTO records VALUES ($1, $2) ON CONFLICT (number) DO UPDATE SET payload = excluded.payload",
      [String(number), payload])
  }

  func records() async throws -> Set<Int64> {
    Set(try await run("SELECT number FROM records", []).rows.compactMap { $0[0].flatMap { Int64($0) } })
  }

  /// Over a connection that is kept, as a service would: to open one costs the server more than a write.
  private func run(_ statement: String, _ parameters: [String]) async throws -> QueryResult {
    while true {
      let kept = idle.take()
      let connection: Connection
      if let kept { connection = kept } else { connection = try await connect() }
      do throws(StatementFailure) {
        let result = try await connection.run(statement, parameters)
        idle.give(connection)
        return result
      } catch {
        await connection.close()
        // The server was stopped in between; nothing was sent.
        guard kept != nil, error.isConnectionLost else { throw error }
      }
    }
  }

  func destroyLive() async throws {
    let data = server.data
    try await BlockingPool.shared.run { try Files.removeTree(data) }
  }

  func shutDown() async { await server.shutDown() }
}

private final class IdleConnections: Sendable {
  private let connections = Mutex<[Connection]>([])
  func take() -> Connection? { connections.withLock { $0.popLast() } }
  func give(_ connection: Connection) { connections.withLock { $0.append(connection) } }
}
