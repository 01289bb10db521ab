import Core
import DriverContract
import DriverKit
import IO
import TestSupport

@testable import DriverEtcd

/// Threads of the world outside.
let clients = BlockingPool(threads: 32)

/// An etcd of the contract's own; records are keys `record/<number>`.
struct EtcdFixture: DriverFixture {
  let server: EtcdServer

  var isHeld: Bool { false }

  static func start() async throws -> EtcdFixture {
    let fixture = EtcdFixture(server: try await clients.run { try EtcdServer() })
    do {
      for number in Int64(1)...20 { try await fixture.write(number, payload: Payload.of(number)) }
      return fixture
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver { try driver(variant, [:]) }

  func driver(_ variant: DriverVariant = .usual, _ more: [String: JSONValue]) throws -> any DataStoreDriver {
    var options: [String: JSONValue] = [
      "endpoint": .string(server.endpoint), "memberName": "member", "peerURL": .string(server.peerURL),
    ]
    switch variant {
    case .usual:
      options["dataDirectory"] = .string(server.dataDirectory)
      options["configFile"] = .string(server.configFile)
    case .withoutStop: options["dataDirectory"] = .string(server.dataDirectory)
    case .liveState(let directory): options["dataDirectory"] = .string("\(directory)/etcd")
    }
    options.merge(more) { $1 }
    return try EtcdDriverFactory.make(StoreConfiguration(name: "settings", options: options), in: .live)
  }

  var livePaths: [String] { [server.dataDirectory] }

  func write(_ number: Int64, payload: String) async throws { try await control("put", "record/\(number)", payload) }

  func records() async throws -> Set<Int64> {
    let result = try await driver(.usual).query("PREFIX record/", limit: QueryLimit())
    return Set(result.rows.compactMap { $0[0].flatMap { Int64($0.dropFirst(7)) } })
  }

  func destroyLive() async throws {
    let path = livePaths[0]
    try await clients.run { try Files.removeTree(path) }
  }

  func shutDown() async { await clients.run { server.stop() } }

  /// Runs `etcdctl` as a client would.
  @discardableResult
  func control(_ words: String..., user: String? = nil) async throws -> String {
    var variables = ["ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": server.endpoint]
    variables["ETCDCTL_USER"] = user
    return try await CommandRun(["etcdctl"] + words, environment: variables, pool: clients).succeeded().output
  }
}
