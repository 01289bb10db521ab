import Core
import DriverContract
import DriverKit
import IO
import TestSupport

@testable import DriverNATS

#if canImport(Glibc)
  import Glibc
#endif

/// A record and, once it is acknowledged, its effect on another stream: one write.
struct Chained: DriverFixture {
  let fixture: NATSFixture

  static func start() async throws -> Chained { Chained(fixture: try await NATSFixture.start()) }
  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver { try fixture.driver(variant) }
  var livePaths: [String] { fixture.livePaths }
  func write(_ number: Int64, payload: String) async throws {
    try await fixture.write(number, payload: payload)
    _ = try JetStream.value(try await fixture.request("effect.\(number)", []).payload)
  }
  func records() async throws -> Set<Int64> { try await fixture.records() }
  func destroyLive() async throws { try await fixture.destroyLive() }
  func shutDown() async { await fixture.shutDown() }
}

extension NATSFixture {
  /// Runs `body` with a server of its own, and ends it whatever happened.
  static func with<T>(
    options: [String: JSONValue] = [:], _ body: (NATSFixture) async throws -> T
  ) async throws -> T {
    let fixture = try await start(options: options)
    do {
      let result = try await body(fixture)
      await fixture.shutDown()
      return result
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  func driver(_ more: [String: JSONValue]) throws -> any DataStoreDriver { try driver(.usual, more) }
  func driver() throws -> any DataStoreDriver { try driver(.usual, [:]) }

  /// One capture; the hooks run where their names say.
  func capture(
    prepared: () async throws -> Void = {}, marked: () async throws -> Void = {}, released: () async throws -> Void = {}
  ) async throws -> Taken {
    let scratch = try TemporaryDirectory("scratch")
    let tree = MemoryTree()
    let session = try await driver().capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      try await session.prepare()
      try await prepared()
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      try await marked()
      try promise(await session.release() == isHeld, "release() says whether the hold was in force to the end")
      try await released()
      let result = try await session.finish()
      await session.close()
      let left = try Files.names(in: scratch.path)
      try promise(left.isEmpty, "close() leaves \(left)")
      return Taken(tree: tree, result: result)
    } catch {
      await session.close()
      throw error
    }
  }

  /// Restores in place and starts.
  func restore(_ captured: Taken) async throws {
    let driver = try driver()
    _ = try await driver.restoreBeside(captured.request())
    let digest = try await driver.digestBeside(captured.request())
    try promise(
      digest == captured.result.contentDigest,
      "digests differ: \(digest?.differences(from: captured.result.contentDigest ?? .init(scheme: "", parts: [:])) ?? [])"
    )
    try await driver.stop()
    try await driver.swapIn(captured.request())
    try await driver.start()
  }

  /// Makes a durable consumer that has acknowledged its first messages.
  func consumer(_ name: String, of stream: String = NATSFixture.stream, acknowledging count: Int) async throws {
    try await api(
      "CONSUMER.DURABLE.CREATE.\(stream).\(name)",
      ["stream_name": .string(stream), "config": ["durable_name": .string(name), "ack_policy": "explicit"]])
    try await take(name, count, of: stream)
  }

  /// Takes and acknowledges, each with an answer that the server has it.
  ///
  /// - Returns: The subjects.
  @discardableResult
  func take(_ name: String, _ count: Int, of stream: String = NATSFixture.stream) async throws -> [String] {
    try await with { server in
      var subjects: [String] = []
      for _ in 0..<count {
        let inbox = server.client.newInbox()
        try server.client.publish("$JS.API.CONSUMER.MSG.NEXT.\(stream).\(name)", reply: inbox, Array("1".utf8))
        let message = try server.client.next()
        guard let reply = message.reply else { throw ContractBroken("no message but \(message.status ?? 0)") }
        subjects.append(message.subject)
        _ = try server.client.request(reply, Array("+ACK".utf8))
      }
      return subjects
    }
  }
}

/// What a whole capture gave.
struct Taken: Sendable {
  var tree: MemoryTree
  var result: CaptureResult

  func request(_ id: String = "test-1", from other: MemoryTree? = nil) -> RestoreRequest {
    RestoreRequest(id: id, source: other ?? tree, capture: result)
  }
}

func expectFailure(_ what: String, _ matches: (DriverError) -> Bool, _ body: () async throws -> Void) async throws {
  do {
    try await body()
  } catch let error as DriverError {
    try promise(matches(error), "\(what): the error is \(error)")
    return
  }
  throw ContractBroken("\(what): no error")
}
