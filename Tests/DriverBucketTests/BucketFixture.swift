import Core
import DriverContract
import DriverKit
import IO
import S3Client
import Synchronization
import TestSupport
import Testing
import Web

@testable import DriverBucket

/// Threads of the world outside.
let clients = BlockingPool(threads: 32)

/// A server of the tests' own, and a key for it.
struct TestServer: Sendable {
  var url: String
  var accessKey = CephServer.accessKey
  var secretKey = CephServer.secretKey
  var process: ServerProcess?

  /// A program the tests need, from where `scripts/setup test` puts it, or from the PATH.
  static func tool(_ name: String) -> String {
    var root = #filePath
    for _ in 0..<3 { root = Files.parent(of: root) }
    let own = "\(root)/.build/test-tools/bin/\(name)"
    return Files.exists(own) ? own : name
  }

  /// On a port that is free; another one is tried if somebody took it first.
  private static func started(_ start: (UInt16) throws -> ServerProcess) throws -> TestServer {
    for _ in 0..<4 {
      do {
        let process = try start(try freePort())
        return TestServer(url: "http://127.0.0.1:\(process.port)", process: process)
      } catch let failure as CommandRun.Failed {
        guard failure.description.lowercased().contains("address already in use") else { throw failure }
      }
    }
    throw CommandRun.Failed(description: "no port is free")
  }

  /// Versions, tags, conditions; believes every signature.
  static func moto() async throws -> TestServer {
    try await clients.run {
      try started { port in
        try ServerProcess(port: port, [tool("moto_server"), "-H", "127.0.0.1", "-p", "\(port)"])
      }
    }
  }

  /// A directory; no versions, no tags.
  static func rclone(_ directory: String) async throws -> TestServer {
    try await clients.run {
      try started { port in
        try ServerProcess(
          port: port,
          [
            tool("rclone"), "serve", "s3", "--config", "/dev/null", "--addr", "127.0.0.1:\(port)", "--auth-key",
            "test-access,test-secret", directory,
          ])
      }
    }
  }

  static func ceph() async throws -> TestServer {
    TestServer(url: "http://127.0.0.1:\(try await CephServer.shared().port)")
  }

  func end() async { await clients.run { _ = process?.end() } }
}

/// One bucket as a service sees it, with a client that is no part of the driver's flow, and the driver's options for it.
struct TestBucket: Sendable {
  let server: TestServer
  let name: String
  let keys: TemporaryDirectory
  let client: BucketClient

  /// Names that nobody else has had in this process.
  private static let count = Mutex(0)

  init(on server: TestServer, versioned: Bool = false, locked: Bool = false, made: Bool = true) async throws {
    self.server = server
    name = Self.count.withLock { count in
      count += 1
      return "bucket-\(count)-\(SystemRandomness().below(1_000_000_000))"
    }
    keys = try TemporaryDirectory("keys")
    try Files.replace(keys.file("access"), with: Array("\(server.accessKey)\n".utf8))
    try Files.replace(keys.file("secret"), with: Array("\(server.secretKey)\n".utf8))
    let configuration = try BucketConfiguration(
      StoreConfiguration(name: "outside", options: Self.options(server, name, keys)))
    client = try await BucketDriver(configuration, .live).client()
    guard made else { return }
    try await client.create(hasLocks: locked)
    if versioned, !locked { try await client.enableVersions() }
  }

  static func options(_ server: TestServer, _ name: String, _ keys: TemporaryDirectory) -> [String: JSONValue] {
    [
      "endpoint": .string(server.url), "bucket": .string(name), "workspace": .string("\(name)-beside"),
      "accessKey": .string("file:\(keys.file("access"))"), "secretKey": .string("file:\(keys.file("secret"))"),
    ]
  }

  func configuration(_ more: [String: JSONValue] = [:]) throws -> BucketConfiguration {
    try BucketConfiguration(
      StoreConfiguration(name: "uploads", options: Self.options(server, name, keys).merging(more) { $1 }))
  }

  func driver(_ more: [String: JSONValue] = [:], _ change: (inout BucketConfiguration) -> Void = { _ in }) throws
    -> BucketDriver
  {
    var configuration = try configuration(more)
    change(&configuration)
    return BucketDriver(configuration, .live)
  }

  func put(
    _ key: String, _ content: String, _ headers: [(name: String, value: String)] = []
  ) async throws {
    try await client.put(ObjectKey(key), Array(content.utf8), headers: headers)
  }

  func content(_ key: String) async throws -> String? {
    try await client.get(ObjectKey(key), limitBytes: 64 << 20).map { String(decoding: $0, as: UTF8.self) }
  }

  /// Every object: what it says, what is said of it, and its tags.
  func state() async throws -> [String: String] {
    guard try await client.exists() else { return [:] }
    var listed: [Listed] = []
    try await client.list("") { found throws(DriverError) in listed.append(found) }
    var result: [String: String] = [:]
    for object in listed {
      guard let response = try await client.head(object.key),
        let bytes = try await client.get(object.key, limitBytes: 1 << 30)
      else { continue }
      var metadata = ObjectMetadata(response)
      metadata.tags = try await client.tags(object.key) ?? []
      let said = metadata.digestText.replacing("\0", with: ";").replacing("\u{1}", with: "|")
      result[Hex.encode(object.key.bytes)] =
        "\(object.key) \(Digest.of(bytes).short) \(said) \(object.storageClass ?? "")"
    }
    return result
  }
}

/// What both kinds of fixture have.
protocol BucketFixture: DriverFixture {
  var bucket: TestBucket { get }
}

extension BucketFixture {
  var isHeld: Bool { false }
  var livePaths: [String] { [] }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver { try bucket.driver() }

  func write(_ number: Int64, payload: String) async throws {
    try await bucket.put(
      "record/\(number)", payload, [("content-type", "text/plain"), ("x-amz-meta-number", "\(number)")])
  }

  func records() async throws -> Set<Int64> {
    var found: Set<Int64> = []
    try await bucket.client.list("record/") { listed throws(DriverError) in
      if let number = Int64(listed.key.text.dropFirst(7)) { found.insert(number) }
    }
    return found
  }

  func liveContent() async throws -> [String: String] { try await bucket.state() }

  func destroyLive() async throws {
    var all: [Listed] = []
    try await bucket.client.listVersions("") { found throws(DriverError) in all.append(found) }
    for listed in all { try await bucket.client.delete(listed.key, version: listed.version) }
    try await bucket.client.remove()
  }

  private var beside: BucketClient {
    BucketClient(
      connection: bucket.client.connection.to(bucket: "\(bucket.name)-beside"), time: SystemTime(), pageCount: 1000)
  }

  /// Removes every object of the workspace, and puts them back.
  func withoutKept(_ body: () async throws -> Void) async throws {
    var moved: [(ObjectKey, [UInt8], ObjectMetadata)] = []
    var keys: [ObjectKey] = []
    try await beside.list("") { listed throws(DriverError) in keys.append(listed.key) }
    try promise(!keys.isEmpty, "something was kept beside the live state")
    for key in keys {
      if let head = try await beside.head(key), let bytes = try await beside.get(key, limitBytes: 1 << 30) {
        moved.append((key, bytes, ObjectMetadata(head)))
      }
      try await beside.delete(key)
    }
    try await body()
    for (key, bytes, metadata) in moved { try await beside.put(key, bytes, headers: metadata.requestHeaders) }
  }

  func leftovers() async throws -> [String] {
    var keys: [String] = []
    guard try await beside.exists() else { return [] }
    try await beside.list("") { listed throws(DriverError) in keys.append(listed.key.text) }
    return keys
  }

  func shutDown() async { await bucket.server.end() }

  static func filled(versioned: Bool) async throws -> TestBucket {
    let server = try await TestServer.moto()
    do {
      let bucket = try await TestBucket(on: server, versioned: versioned)
      for number in Int64(1)...12 {
        try await bucket.put(
          "record/\(number)", Payload.of(number),
          [("content-type", "text/plain"), ("x-amz-meta-number", "\(number)"), ("x-amz-tagging", "kind=record")])
      }
      return bucket
    } catch {
      await server.end()
      throw error
    }
  }
}

struct PlainFixture: BucketFixture {
  let bucket: TestBucket
  static func start() async throws -> PlainFixture { PlainFixture(bucket: try await filled(versioned: false)) }
}

struct VersionedFixture: BucketFixture {
  let bucket: TestBucket
  static func start() async throws -> VersionedFixture { VersionedFixture(bucket: try await filled(versioned: true)) }
}

/// Told from anywhere that it is over.
final class Ending: Sendable {
  private let state = Mutex(false)
  var isOver: Bool { state.withLock { $0 } }
  func set() { state.withLock { $0 = true } }
}

/// Says what two states don't have in common.
func expectSame(
  _ found: [String: String], _ expected: [String: String], _ what: String = "",
  sourceLocation: SourceLocation = #_sourceLocation
) {
  let differing = Set(found.keys).union(expected.keys).filter { found[$0] != expected[$0] }.sorted().prefix(5).map {
    "\(found[$0] ?? "nothing"), not \(expected[$0] ?? "nothing")"
  }
  #expect(differing.isEmpty, "\(what): \(differing.joined(separator: "; "))", sourceLocation: sourceLocation)
}
