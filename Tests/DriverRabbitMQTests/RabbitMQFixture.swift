import Core
import DriverContract
import DriverKit
import IO
import TestSupport

@testable import DriverRabbitMQ

/// How many nodes run at a time: each wants most of a core while it starts, and so does every proof.
private let room = Room(3)

private actor Room {
  private var free: Int
  private var waiting: [CheckedContinuation<Void, Never>] = []

  init(_ free: Int) { self.free = free }

  func enter() async {
    if free > 0 { free -= 1 } else { await withCheckedContinuation { waiting.append($0) } }
  }

  func leave() {
    if waiting.isEmpty { free += 1 } else { waiting.removeFirst().resume() }
  }
}

/// A RabbitMQ node of the contract's own; records are messages of a durable queue with the key `record.<number>`.
struct RabbitMQFixture: DriverFixture {
  static let queue = "records"
  let server: RabbitMQServer
  var options: [String: JSONValue] = [:]

  var isHeld: Bool { options["hold"] != "none" }

  static func start() async throws -> RabbitMQFixture { try await start(plugins: [], options: [:]) }

  static func start(
    plugins: [String], options: [String: JSONValue], arguments: String = ""
  ) async throws -> RabbitMQFixture {
    await room.enter()
    let server: RabbitMQServer
    do { server = try await clients.run { try RabbitMQServer(plugins: plugins, arguments: arguments) } } catch {
      await room.leave()
      throw error
    }
    let fixture = RabbitMQFixture(server: server, options: options)
    do {
      try await fixture.with { connection in
        try connection.declare(queue)
        try connection.declareExchange("contract", "topic")
        try connection.bind(queue, to: "contract", "record.#")
        try connection.confirm()
        for number in Int64(1)...20 {
          try connection.publish(Array(Payload.of(number).utf8), to: "contract", "record.\(number)")
        }
        try connection.waitForConfirms(20)
      }
      return fixture
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver { try driver(variant, [:]) }

  func driver(
    _ variant: DriverVariant = .usual, _ more: [String: JSONValue], in environment: DriverEnvironment = .live
  ) throws -> any DataStoreDriver {
    var options: [String: JSONValue] = [
      "port": .integer(Int64(server.port)), "dataDirectory": .string(server.dataDirectory), "timeout": "120s",
      "managementPort": .integer(Int64(server.managementPort)),
    ]
    switch variant {
    case .usual: options["configFile"] = .string(server.configFile)
    case .withoutStop: break
    case .liveState(let directory): options["dataDirectory"] = .string("\(directory)/\(RabbitMQServer.node)")
    }
    options.merge(self.options) { $1 }
    options.merge(more) { $1 }
    return try RabbitMQDriverFactory.make(StoreConfiguration(name: "orders", options: options), in: environment)
  }

  var livePaths: [String] { [server.dataDirectory, server.dataDirectory + NodeFiles.flags] }

  func write(_ number: Int64, payload: String) async throws {
    try await with { connection in
      try connection.confirm()
      try connection.publish(Array(payload.utf8), to: "contract", "record.\(number)")
      try connection.waitForConfirms(1)
    }
  }

  func records() async throws -> Set<Int64> {
    Set(
      try await browse(Self.queue).compactMap {
        Int64(String(decoding: $0.routingKey, as: UTF8.self).dropFirst(7))
      })
  }

  func destroyLive() async throws {
    let paths = livePaths
    try await clients.run { for path in paths { try Files.removeTree(path) } }
  }

  func shutDown() async {
    await clients.run { server.shutDown() }
    await room.leave()
  }

  /// A connection that stays open; closed by whoever has it.
  func open(vhost: String = "/") async throws -> Connection {
    let port = server.port
    return try await clients.run {
      try Connection(
        host: "127.0.0.1", port: port, vhost: vhost, user: "guest", password: Secret("guest"), patience: .seconds(120))
    }
  }

  /// Runs `body` with a connection of a client's own.
  func with<T: Sendable>(
    vhost: String = "/", user: String = "guest", password: String = "guest",
    _ body: @escaping @Sendable (Connection) throws -> T
  ) async throws -> T {
    let port = server.port
    return try await clients.run {
      let connection = try Connection(
        host: "127.0.0.1", port: port, vhost: vhost, user: user, password: Secret(password), patience: .seconds(120))
      let result = try body(connection)
      connection.close()
      return result
    }
  }
}

/// The same, with nobody held: the node stands still for its own copy only.
struct RabbitMQMomentFixture: DriverFixture {
  let inner: RabbitMQFixture

  static func start() async throws -> RabbitMQMomentFixture {
    RabbitMQMomentFixture(inner: try await RabbitMQFixture.start(plugins: [], options: ["hold": "none"]))
  }

  var isHeld: Bool { false }
  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver { try inner.driver(variant) }
  var livePaths: [String] { inner.livePaths }
  func write(_ number: Int64, payload: String) async throws { try await inner.write(number, payload: payload) }
  func records() async throws -> Set<Int64> { try await inner.records() }
  func destroyLive() async throws { try await inner.destroyLive() }
  func shutDown() async { await inner.shutDown() }
}
