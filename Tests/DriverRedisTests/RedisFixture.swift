import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport

@testable import DriverRedis

/// Threads of the world outside: a writer that waits for the pause to end must not keep the driver from ending it.
let clients = BlockingPool(threads: 96)

/// A Redis of the contract's own; records are strings `record:<number>`.
struct RedisFixture: DriverFixture {
  let server: RedisServer

  static func start() async throws -> RedisFixture {
    try await start(RedisServer.Settings())
  }

  static func start(_ settings: RedisServer.Settings) async throws -> RedisFixture {
    let fixture = RedisFixture(server: try await clients.run { try RedisServer(settings) })
    for number in Int64(1)...20 { try await fixture.write(number, payload: Payload.of(number)) }
    return fixture
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    var options: [String: JSONValue] = ["port": .integer(Int64(server.port))]
    switch variant {
    case .usual:
      options["dataDirectory"] = .string(server.dataDirectory)
      options["configFile"] = .string(server.configFile)
    case .withoutStop: options["dataDirectory"] = .string(server.dataDirectory)
    case .liveState(let directory): options["dataDirectory"] = .string("\(directory)/redis")
    }
    return try RedisDriverFactory.make(StoreConfiguration(name: "cache", options: options), in: .live)
  }

  var livePaths: [String] {
    ["dump.rdb", "appendonlydir", "appendonly.aof"].map { "\(server.dataDirectory)/\($0)" }
  }

  func write(_ number: Int64, payload: String) async throws {
    try await command("SET", "record:\(number)", payload)
  }

  func records() async throws -> Set<Int64> {
    guard let keys = try await command("KEYS", "record:*").elements else { throw ContractBroken("KEYS gave no list") }
    return Set(keys.compactMap { $0.text.flatMap { Int64($0.dropFirst(7)) } })
  }

  func destroyLive() async throws {
    let path = server.dataDirectory
    try await clients.run { try Files.removeTree(path) }
  }

  func shutDown() async { await clients.run { server.stop() } }

  @discardableResult
  func command(_ words: String..., database: Int = 0) async throws -> Reply {
    try await commands([words], database: database)[0]
  }

  /// Several at once over one connection, in order.
  @discardableResult
  func commands(_ list: [[String]], database: Int = 0, user: (String, String)? = nil) async throws -> [Reply] {
    let port = server.port
    return try await clients.run {
      let socket = try Socket.connect(host: "127.0.0.1", port: port, patience: .seconds(5))
      let connection = try Connection(socket, patience: .seconds(30))
      if let user { _ = try connection.call("AUTH", user.0, user.1) }
      if database != 0 { _ = try connection.call("SELECT", String(database)) }
      let replies = try connection.all(list.map { $0.map { Array($0.utf8) } })
      for case .error(let text) in replies { throw WireError.refused(text) }
      return replies
    }
  }
}
