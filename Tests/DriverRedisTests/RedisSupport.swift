import Core
import DriverContract
import DriverKit
import Foundation
import IO
import TestSupport

@testable import DriverRedis

extension RedisFixture {
  /// Runs `body` with a server of these settings, and ends it whatever happened.
  static func with<T>(
    _ settings: RedisServer.Settings = .init(), _ body: (RedisFixture) async throws -> T
  ) async throws -> T {
    let fixture = RedisFixture(server: try await clients.run { try RedisServer(settings) })
    do {
      let result = try await body(fixture)
      await fixture.shutDown()
      return result
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  /// A driver with more options, or others.
  func driver(_ more: [String: JSONValue]) throws -> any DataStoreDriver {
    var options: [String: JSONValue] = [
      "port": .integer(Int64(server.port)), "dataDirectory": .string(server.dataDirectory),
      "configFile": .string(server.configFile),
    ]
    options.merge(more) { $1 }
    return try RedisDriverFactory.make(StoreConfiguration(name: "cache", options: options), in: .live)
  }

  /// One capture; the hooks run where their names say.
  func capture(
    _ driver: (any DataStoreDriver)? = nil, digest: Bool = true, limit: Duration = .seconds(10),
    isHeld: Bool = true,
    prepared: () async throws -> Void = {}, marked: () async throws -> Void = {}, released: () async throws -> Void = {}
  ) async throws -> Taken {
    let scratch = try TemporaryDirectory("scratch")
    let tree = MemoryTree()
    let session = try await (driver ?? self.driver(.usual)).capture(
      CaptureContext(sink: tree, scratch: scratch.path, wantsContentDigest: digest))
    do {
      try await session.prepare()
      try await prepared()
      try await session.hold(limit: limit)
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
    let driver = try driver(.usual)
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

  func integer(_ words: String..., database: Int = 0) async throws -> Int64 {
    let reply = try await commands([words], database: database)[0]
    return reply.text.flatMap { Int64($0) } ?? -1
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

extension MemoryTree {
  /// This tree with one file's content changed, or without it.
  func changing(_ path: TreePath, _ change: @Sendable ([UInt8]) -> [UInt8]?) async throws -> MemoryTree {
    let copy = MemoryTree()
    for (other, entry) in entries {
      let content = other == path ? change(entry.content) : entry.content
      guard let content else { continue }
      let open: OpenSource = { MemorySource(content) }
      let isFile = entry.metadata.kind == .regular
      _ = try await copy.add(other, entry.metadata, cutting: entry.cutting, content: isFile ? open : nil)
    }
    return copy
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
