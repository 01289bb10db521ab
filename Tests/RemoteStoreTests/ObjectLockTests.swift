import Core
import Foundation
import IO
import ObjectStoreContract
import ObjectStoreMemory
import ObjectStoreRetry
import TestSupport
import Testing
import Vault

@testable import ObjectStoreS3

/// Object Lock on Ceph's gateway: what an intruder who has the bucket's keys can do, and what not.
@Suite("Object Lock", .serialized)
struct ObjectLockTests {
  private static let keys = [
    "AWS_ACCESS_KEY_ID": CephServer.accessKey, "AWS_SECRET_ACCESS_KEY": CephServer.secretKey,
  ]

  private func open(
    _ bucket: String, _ more: [String: String] = ["SALVOR_S3_LOCK": "governance:1h"],
    time: any Timekeeper = SystemTime(), _ change: (inout S3Settings) -> Void = { _ in }
  ) async throws -> S3ObjectStore {
    let server = try await CephServer.shared()
    var settings = S3Settings()
    change(&settings)
    let factory = S3ObjectStoreFactory(
      environment: Self.keys.merging(more) { $1 }, time: time, pool: .shared, settings: settings)
    return try #require(try factory.open("http://127.0.0.1:\(server.port)/\(bucket)/prefix") as? S3ObjectStore)
  }

  private static func object(_ text: String, _ kind: ObjectKind = .data) -> (ObjectName, [UInt8]) {
    (ObjectName(kind, Digest.of(text)), Array(text.utf8))
  }

  /// As somebody with the keys alone, and no wish to be careful.
  private func intrude(
    _ store: S3ObjectStore, _ method: String, _ name: ObjectName, _ query: [(name: String, value: String)] = [],
    body: [UInt8]? = nil
  ) async throws -> Int {
    try await store.send(
      method == "PUT" ? .put : .delete, key: store.key(name), query: query, body: body
    ).status
  }

  @Test(.timeLimit(.minutes(5))) func `a store that trusts first versions keeps the contract`() async throws {
    for (number, promise) in ObjectStorePromise.allCases.enumerated() {
      // A lock would refuse what the contract wants deleted.
      let store = try await open("versions-\(number)", ["SALVOR_S3_VERSIONS": "first"]) { settings in
        (settings.partThresholdBytes, settings.partBytes, settings.pageCount) = (8 << 20, 5 << 20, 7)
      }
      let maker = try await open("versions-\(number)")
      try await maker.prepare()
      try await promise.check(RetryObjectStore(store, time: SystemTime(), randomness: SeededRandomness(seed: 1)))
    }
  }

  @Test(arguments: ["governance", "compliance"])
  func `what is locked can't be deleted, and is read whatever is put over it`(_ mode: String) async throws {
    let store = try await open("locked-\(mode)", ["SALVOR_S3_LOCK": "\(mode):1h"]) { $0.pageCount = 2 }
    try await store.prepare()
    let (name, bytes) = Self.object("the real content")
    try await store.put(name, bytes)
    try await store.put(.config, [1, 2, 3])
    let lock = try #require(try await store.lock(on: name))
    #expect(lock.mode?.rawValue == mode && lock.holds(at: SystemTime().now()))
    await #expect(throws: StoreError.locked(name, lock)) { try await store.delete(name) }
    // Overwritten, hidden, and overwritten again; and the version itself asked for.
    for _ in 0..<3 {
      #expect(try await intrude(store, "PUT", name, body: Array("forged".utf8)) == 200)
      #expect(try await intrude(store, "PUT", .config, body: [9]) == 200)
      #expect(try await intrude(store, "DELETE", name) == 204)
      #expect(try await intrude(store, "DELETE", .config) == 204)
    }
    let first = try #require(try await store.versions(of: name).last)
    #expect(try await intrude(store, "DELETE", name, [("versionId", first.id)]) == 403)
    // A reader that starts now sees what was first.
    let reader = try await open("locked-\(mode)", ["SALVOR_S3_VERSIONS": "first"]) { $0.pageCount = 2 }
    #expect(try await reader.get(name) == bytes)
    #expect(try await reader.get(name, range: 4..<8) == Array(bytes[4..<8]))
    #expect(try await reader.size(of: name) == bytes.count)
    #expect(try await reader.list(.data) == [ObjectInfo(name, sizeBytes: bytes.count)])
    #expect(try await reader.get(.config) == [1, 2, 3])
    // One that trusts names alone doesn't.
    let naive = try await open("locked-\(mode)", [:])
    await #expect(throws: StoreError.notFound(name)) { _ = try await naive.get(name) }
  }

  @Test func `objects in parts are locked, and locks of the repository are not`() async throws {
    let store = try await open("parts") { ($0.partThresholdBytes, $0.partBytes) = (6 << 20, 5 << 20) }
    try await store.prepare()
    let bytes = SeededRandomness(seed: 5).bytes(11 << 20)
    let large = ObjectName(.data, Digest.of(bytes))
    try await store.put(large, bytes)
    #expect(try await store.lock(on: large)?.holds(at: SystemTime().now()) == true)
    let (lock, content) = Self.object("lock", .lock)
    try await store.put(lock, content)
    #expect(try await store.lock(on: lock) == nil)
    try await store.delete(lock)
    #expect(try await store.versions(of: lock).isEmpty, "nothing is left that would cost anything")
  }

  @Test func `a lock is extended, never shortened, and runs out`() async throws {
    let store = try await open("extended", ["SALVOR_S3_LOCK": "governance:2s"])
    try await store.prepare()
    let (short, a) = Self.object("short")
    let (long, b) = Self.object("long")
    try await store.put(short, a)
    try await store.put(long, b)
    let later = Timestamp(seconds: SystemTime().now().nanoseconds / 1_000_000_000 + 3600)
    try await store.setLock(.extend(until: later), on: long)
    #expect(try await store.lock(on: long)?.until == later)
    try await store.setLock(.extend(until: SystemTime().now()), on: long)
    #expect(try await store.lock(on: long)?.until == later)
    try await SystemTime().sleep(for: .seconds(4))
    try await store.delete(short)
    #expect(try await store.size(of: short) == nil)
    await #expect(throws: StoreError.self) { try await store.delete(long) }
  }

  @Test func `a legal hold keeps until it is released`() async throws {
    let store = try await open("held", ["SALVOR_S3_LEGAL_HOLD": "1"])
    try await store.prepare()
    let (name, bytes) = Self.object("held")
    try await store.put(name, bytes)
    await #expect(throws: StoreError.locked(name, ObjectLock(isHeld: true))) { try await store.delete(name) }
    try await store.setLock(.release, on: name)
    try await store.setLock(.hold, on: name)
    await #expect(throws: StoreError.self) { try await store.delete(name) }
    try await store.setLock(.release, on: name)
    try await store.delete(name)
  }

  @Test func `a bucket that can't lock is refused before anything is written`() async throws {
    try await open("plain", [:]).prepare()
    let store = try await open("plain")
    await #expect(throws: StoreError.self) { try await store.prepare() }
    do throws(StoreError) {
      try await store.put(.config, [1])
      Issue.record("stored without a lock")
    } catch {
      guard case .location(let reason) = error, reason.contains("Object Lock") else {
        Issue.record("\(error)")
        return
      }
    }
    for text in ["forever", "governance", "governance:x", "maybe:1d"] {
      await #expect(throws: StoreError.self) { _ = try await open("plain", ["SALVOR_S3_LOCK": text]) }
    }
    await #expect(throws: StoreError.self) {
      _ = try await open("plain", ["SALVOR_S3_LOCK": "governance:1d", "SALVOR_S3_VERSIONS": "latest"])
    }
  }

  /// A server that says yes to everything.
  @Test func `a lock that was granted and isn't there is found out`() async throws {
    try await ScriptedServer.with { request, _ in
      if request.path.contains("versions=") {
        let key = ObjectName.config.path
        return [
          ScriptedServer.response(
            200,
            "<ListVersionsResult><IsTruncated>false</IsTruncated><Version><Key>\(key)</Key><VersionId>v</VersionId><Size>1</Size></Version></ListVersionsResult>"
          )
        ]
      }
      return [ScriptedServer.response(200)]
    } _: { server in
      let store = try S3ObjectStoreFactory(
        environment: Self.keys.merging(["SALVOR_S3_LOCK": "governance:1h"]) { $1 }, time: SystemTime(), pool: .shared
      ).open("\(server.url)/bucket")
      let later = SystemTime().now() + .seconds(60)
      for change in [ObjectLockChange.extend(until: later), .hold] {
        do throws(StoreError) {
          try await store.setLock(change, on: .config)
          Issue.record("believed")
        } catch {
          guard case .location(let reason) = error, reason.contains("it is not") else {
            Issue.record("\(error)")
            continue
          }
        }
      }
    }
  }

  @Test func `hostile lists of versions are refused`() async throws {
    let entry = "<Version><Key>config</Key><VersionId>v</VersionId><Size>1</Size></Version>"
    @Sendable func list(_ inner: String) -> String { "<ListVersionsResult>\(inner)</ListVersionsResult>" }
    for body in [
      "", "<a>", list(""), list("<IsTruncated>true</IsTruncated>" + entry), list("<IsTruncated>perhaps</IsTruncated>"),
      list("<IsTruncated>false</IsTruncated><Version><Key>config</Key><Size>1</Size></Version>"),
      list(
        "<IsTruncated>false</IsTruncated><Version><Key>config</Key><VersionId>v</VersionId><Size>-1</Size></Version>"),
      // The same page for ever.
      list(
        "<IsTruncated>true</IsTruncated><NextKeyMarker>k</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>"),
    ] {
      try await ScriptedServer.with { _, _ in
        [ScriptedServer.response(200, body)]
      } _: { server in
        let store = try S3ObjectStoreFactory(
          environment: Self.keys.merging(["SALVOR_S3_VERSIONS": "first"]) { $1 }, time: SystemTime(), pool: .shared
        ).open("\(server.url)/bucket")
        await #expect(throws: StoreError.self, "\(body.prefix(100))") { _ = try await store.size(of: .config) }
      }
    }
  }
}

/// The whole program on a locked bucket.
@Suite("Object Lock, by command")
struct ObjectLockCommandTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory("lock") }

  private func salvor(_ words: String..., bucket: String, _ more: [String: String] = [:]) async throws -> CommandRun {
    let server = try await CephServer.shared()
    let environment = [
      "HOME": directory.path, "RESTIC_PASSWORD": "x", "SALVOR_NO_CACHE": "1",
      "RESTIC_REPOSITORY": "s3:http://127.0.0.1:\(server.port)/\(bucket)/prefix",
      "AWS_ACCESS_KEY_ID": CephServer.accessKey, "AWS_SECRET_ACCESS_KEY": CephServer.secretKey,
    ]
    return try await CommandRun(
      [try CommandRun.product("salvor"), "vault"] + words, environment: environment.merging(more) { $1 })
  }

  private func store(_ bucket: String, _ lock: String) async throws -> S3ObjectStore {
    let server = try await CephServer.shared()
    let factory = S3ObjectStoreFactory(
      environment: [
        "AWS_ACCESS_KEY_ID": CephServer.accessKey, "AWS_SECRET_ACCESS_KEY": CephServer.secretKey,
        "SALVOR_S3_LOCK": lock,
      ], time: SystemTime(), pool: .shared)
    return try #require(try factory.open("http://127.0.0.1:\(server.port)/\(bucket)/prefix") as? S3ObjectStore)
  }

  @Test(.timeLimit(.minutes(10)))
  func `forget and prune leave what is locked, and say so; extend reaches all that is needed`() async throws {
    let bucket = "prune"
    let lock = ["SALVOR_S3_LOCK": "governance:30m"]
    try await salvor("init", bucket: bucket, lock).succeeded()
    let file = directory.file("file")
    for seed in UInt64(1)...3 {
      try Files.replace(file, with: SeededRandomness(seed: seed).bytes(1 << 20))
      try await salvor("backup", file, bucket: bucket, lock).succeeded()
    }
    let forgotten = try await salvor("forget", "--keep-last", "1", "--prune", bucket: bucket, lock).succeeded()
    #expect(forgotten.output.contains("locked until") && forgotten.output.contains("0 snapshots removed"))
    #expect(try await salvor("snapshots", bucket: bucket, lock).succeeded().output.contains("3 snapshots"))
    let named = try await salvor("forget", "latest", bucket: bucket, lock)
    #expect(named.status != 0 && named.errors.contains("STORE-111"))
    let extended = try await salvor("lock", "extend", "--for", "3h", "--json", bucket: bucket, lock).succeeded()
    struct Extended: Decodable { var snapshots, objects, packs: Int }
    let report = try JSONDecoder().decode(Extended.self, from: Data(extended.output.utf8))
    let store = try await store(bucket, "governance:30m")
    let soon = SystemTime().now() + .seconds(2 * 3600)
    var count = 0
    for kind in ObjectKind.allCases where kind != .lock {
      for object in try await store.list(kind) {
        count += 1
        #expect(try await store.lock(on: object.name)?.holds(at: soon) == true, "\(object.name)")
      }
    }
    #expect(report.snapshots == 3 && report.packs >= 3 && report.objects == count)
    try await salvor("check", "--read-data", bucket: bucket, lock).succeeded()
    let unsaid = try await salvor("lock", "extend", bucket: bucket)
    #expect(unsaid.status == 2)
    let unlocked = try await salvor("lock", "hold", bucket: bucket)
    #expect(unlocked.status == 6 && unlocked.errors.contains("VAULT-181"))
  }

  @Test(.timeLimit(.minutes(10)))
  func `packs that a locked index names stay with it, until both may go`() async throws {
    let bucket = "index"
    let (lock, free) = (["SALVOR_S3_LOCK": "governance:1s"], ["SALVOR_S3_VERSIONS": "first"])
    try await salvor("init", bucket: bucket, lock).succeeded()
    let file = directory.file("file")
    for seed in UInt64(1)...2 {
      try Files.replace(file, with: SeededRandomness(seed: seed).bytes(1 << 20))
      try await salvor("backup", file, bucket: bucket, free).succeeded()
    }
    // Nothing but the indexes is kept.
    let store = try await store(bucket, "governance:1s")
    for index in try await store.list(.index) { try await store.setLock(.hold, on: index.name) }
    let packs = try await store.list(.data)
    let forgotten = try await salvor(
      "forget", "--keep-last", "1", "--prune", "--max-unused", "0", bucket: bucket, lock
    ).succeeded()
    #expect(forgotten.output.contains("1 snapshot removed") && forgotten.output.contains("locked in the store"))
    #expect(try await store.list(.data) == packs, "an index that stays names them")
    try await salvor("check", "--read-data", bucket: bucket, lock).succeeded()
    for index in try await store.list(.index) { try await store.setLock(.release, on: index.name) }
    let pruned = try await salvor("prune", "--max-unused", "0", bucket: bucket, lock).succeeded()
    #expect(!pruned.output.contains("locked in the store"))
    #expect(try await store.list(.data).count < packs.count)
    try await salvor("check", "--read-data", bucket: bucket, lock).succeeded()
  }
}
