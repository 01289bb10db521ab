import Core
import DriverContract
import DriverKit
import IO
import Synchronization
import TestSupport

@testable import DriverMariaDB

/// Threads of the world outside: a writer that waits for a hold to end must not keep a driver from ending it.
private let clients = BlockingPool(threads: 256)

/// A live server with a table of records, for the contract.
struct MariaDBFixture: DriverFixture {
  let server: MariaDBServer
  private let idle = IdleConnections()

  init(server: MariaDBServer) { self.server = server }

  static func start() async throws -> Self { try await start(settings: []) }

  static func start(settings: [String], isLogged: Bool = true) async throws -> Self {
    let fixture = Self(server: try await .start(settings: settings, isLogged: isLogged))
    do {
      try await fixture.server.sql(
        "CREATE TABLE records (number BIGINT PRIMARY KEY, payload TEXT NOT NULL) ENGINE = InnoDB",
        "INSERT INTO records SELECT seq, CONCAT('salvor-record-', seq, '-of-the-contract') FROM seq_1_to_20",
        "CREATE TABLE plain (number BIGINT PRIMARY KEY, payload TEXT NOT NULL) ENGINE = MyISAM",
        "CREATE TABLE safe (number BIGINT PRIMARY KEY, payload TEXT NOT NULL) ENGINE = Aria",
        "CREATE SEQUENCE numbers", database: "shop")
    } catch {
      await fixture.shutDown()
      throw error
    }
    return fixture
  }

  func options(_ changes: [String: JSONValue] = [:]) -> StoreConfiguration {
    let options: [String: JSONValue] = [
      "host": "127.0.0.1", "port": .integer(Int64(server.port)), "user": .string(MariaDBServer.user),
      "password": .string("file:" + server.passwordFile), "dataDirectory": .string(server.data), "startTimeout": "30s",
      "configFile": .string(server.configFile), "runAs": .string(MariaDBServer.owner == nil ? "" : "mysql"),
    ]
    return StoreConfiguration(
      name: "shop",
      options: options.merging(changes) { _, new in new }.filter { $0.value != .string("") && $0.value != .null })
  }

  func driver(_ changes: [String: JSONValue]) throws -> any DataStoreDriver {
    try MariaDBDriverFactory.make(options(changes), in: .live)
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    switch variant {
    case .usual: try driver([:])
    case .liveState(let below): try driver(["dataDirectory": .string(below + "/data")])
    case .withoutStop: try driver(["stop": "none"])
    }
  }

  var livePaths: [String] { [server.data] }

  func connect() async throws -> Connection {
    try await Connection.open(
      ServerAddress(host: "", port: 0, socket: server.socket, user: "root"), password: nil, pool: clients)
  }

  func write(_ number: Int64, payload: String) async throws {
    _ = try await run("REPLACE INTO shop.records VALUES (\(number), \(RowDigest.text(payload)))")
  }

  func records() async throws -> Set<Int64> { try await records("records") }

  func records(_ table: String) async throws -> Set<Int64> {
    Set(try await run("SELECT number FROM shop.\(table)").rows.compactMap { $0[0].flatMap { Int64($0) } })
  }

  /// Over a connection that is kept, as a service would.
  @discardableResult
  func run(_ statement: String) async throws -> QueryResult {
    while true {
      let kept = idle.take()
      let connection: Connection
      if let kept { connection = kept } else { connection = try await connect() }
      do throws(StatementFailure) {
        let result = try await connection.run(statement)
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
