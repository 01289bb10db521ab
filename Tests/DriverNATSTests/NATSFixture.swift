import Core
import DriverContract
import DriverKit
import IO
import TestSupport

@testable import DriverNATS

/// Threads of the world outside: a writer that waits for the hold to end must not keep the driver from ending it.
let clients = BlockingPool(threads: 96)

/// A NATS server of the contract's own; records are messages on `record.<number>`.
struct NATSFixture: DriverFixture {
  static let stream = "RECORDS"
  let server: NATSServer
  var options: [String: JSONValue] = [:]

  var isHeld: Bool { options["hold"] == "process" }

  static func start() async throws -> NATSFixture { try await start(options: [:]) }

  static func start(_ lines: [String] = [], options: [String: JSONValue]) async throws -> NATSFixture {
    let fixture = NATSFixture(server: try await clients.run { try NATSServer(lines) }, options: options)
    do {
      try await fixture.api("STREAM.CREATE.\(stream)", ["name": .string(stream), "subjects": ["record.>"]])
      for number in Int64(1)...20 { try await fixture.write(number, payload: Payload.of(number)) }
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
    var options: [String: JSONValue] = ["port": .integer(Int64(server.port))]
    switch variant {
    case .usual:
      options["storeDirectory"] = .string(server.storeDirectory)
      options["configFile"] = .string(server.configFile)
    case .withoutStop: options["storeDirectory"] = .string(server.storeDirectory)
    case .liveState(let directory): options["storeDirectory"] = .string(directory)
    }
    options.merge(self.options) { $1 }
    options.merge(more) { $1 }
    return try NATSDriverFactory.make(StoreConfiguration(name: "orders", options: options), in: environment)
  }

  var livePaths: [String] { ["\(server.storeDirectory)/jetstream/$G"] }

  func write(_ number: Int64, payload: String) async throws {
    let answer = try await request("record.\(number)", Array(payload.utf8))
    _ = try JetStream.value(answer.payload)
  }

  func records() async throws -> Set<Int64> {
    let result = try await driver(.usual).query("MESSAGES \(Self.stream)", limit: QueryLimit())
    return Set(result.rows.compactMap { $0[1].flatMap { Int64($0.dropFirst(7)) } })
  }

  func destroyLive() async throws {
    let path = livePaths[0]
    try await clients.run { try Files.removeTree(path) }
  }

  func shutDown() async { await clients.run { server.stop() } }

  // MARK: Asking it

  /// Runs `body` with a connection of a client's own.
  func with<T: Sendable>(
    _ credential: Credential = .none, _ body: @escaping @Sendable (JetStream) throws -> T
  ) async throws -> T {
    let port = server.port
    return try await clients.run {
      let socket = try Socket.connect(host: "127.0.0.1", port: port, patience: .seconds(5))
      return try body(
        JetStream(
          client: try Client(
            socket, as: credential, inbox: "_INBOX.test", patience: .seconds(30))))
    }
  }

  @discardableResult
  func api(_ name: String, _ body: JSONValue? = nil) async throws -> JSONValue {
    try await with { try $0.call(name, body) }
  }

  @discardableResult
  func request(_ subject: String, _ payload: [UInt8]) async throws -> Message {
    try await with { try $0.client.request(subject, payload) }
  }
}

/// The same with the server's process standing still while held.
struct NATSHeldFixture: DriverFixture {
  let inner: NATSFixture

  static func start() async throws -> NATSHeldFixture {
    NATSHeldFixture(inner: try await NATSFixture.start(options: ["hold": "process"]))
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver { try inner.driver(variant) }
  var livePaths: [String] { inner.livePaths }
  func write(_ number: Int64, payload: String) async throws { try await inner.write(number, payload: payload) }
  func records() async throws -> Set<Int64> { try await inner.records() }
  func destroyLive() async throws { try await inner.destroyLive() }
  func shutDown() async { await inner.shutDown() }
}
