import Core
import Foundation
import IO
import ObjectStoreLocal
import ObjectStoreMemory
import ObjectStoreS3
import RepositoryServer
import Synchronization
import TestSupport
import Testing
import Vault

/// `salvor vault conform` against every kind of place; what it must find is known of each.
@Suite("Conformance")
struct ConformTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory("conform") }

  private static let s3Keys = ["AWS_ACCESS_KEY_ID": "test-access", "AWS_SECRET_ACCESS_KEY": "test-secret"]

  private func conform(_ location: String, _ more: [String: String] = [:]) async throws -> ConformanceReport {
    let run = try await CommandRun(
      [try CommandRun.product("salvor"), "vault", "-r", location, "conform", "--json"],
      environment: ["HOME": directory.path].merging(more) { $1 }
    ).succeeded()
    return try JSONDecoder().decode(ConformanceReport.self, from: Data(run.output.utf8))
  }

  private func verdicts(_ report: ConformanceReport) -> [StoreProperty: StoreFinding.Verdict] {
    Dictionary(report.findings.map { ($0.property, $0.verdict) }) { a, _ in a }
  }

  /// What every usable store does.
  private static let basics: [StoreProperty] = [.readAfterWrite, .listAfterWrite, .rangeReads, .delete]

  private func expect(
    _ report: ConformanceReport, _ expected: [StoreProperty: StoreFinding.Verdict],
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    let found = verdicts(report)
    #expect(report.findings.map(\.property) == StoreProperty.allCases, sourceLocation: sourceLocation)
    for property in Self.basics {
      #expect(found[property] == .verified, "\(report.findings)", sourceLocation: sourceLocation)
    }
    for (property, verdict) in expected {
      #expect(found[property] == verdict, "\(report.findings)", sourceLocation: sourceLocation)
    }
    #expect(report.leftBehind.isEmpty, sourceLocation: sourceLocation)
  }

  @Test func `a directory`() async throws {
    let place = directory.file("place")
    try Files.createDirectory(place)
    let report = try await conform(place)
    expect(
      report, [.atomicCreate: .verified, .conditionalWrite: .verified, .versions: .absent, .objectLock: .absent])
    #expect(try Files.names(in: place).isEmpty, "it cleans up after itself")
    let table = try await CommandRun(
      [try CommandRun.product("salvor"), "vault", "-r", place, "conform"], environment: ["HOME": directory.path]
    ).succeeded()
    #expect(table.output.contains("atomic-create") && table.output.contains("verified"))
  }

  @Test func `our server of repositories, and one that is append-only`() async throws {
    try await withServer(ServerSettings(directory: directory.file("served"))) { [self] port in
      let report = try await conform("rest:http://127.0.0.1:\(port)/some")
      expect(report, [.atomicCreate: .verified, .conditionalWrite: .verified, .versions: .absent])
    }
    var settings = ServerSettings(directory: directory.file("kept"))
    settings.isAppendOnly = true
    try await withServer(settings) { [self] port in
      let report = try await conform("rest:http://127.0.0.1:\(port)/")
      #expect(verdicts(report)[.delete] == .absent)
      #expect(report.leftBehind.count > 8, "what it could not remove is named")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `Ceph, with locks and without`() async throws {
    let server = try await CephServer.shared()
    let base = "http://127.0.0.1:\(server.port)"
    for bucket in ["conform-plain", "conform-locked"] {
      let lock = bucket == "conform-locked" ? ["SALVOR_S3_LOCK": "governance:1s"] : [:]
      let store = try S3ObjectStoreFactory(
        environment: Self.s3Keys.merging(lock) { $1 }, time: SystemTime(), pool: .shared
      ).open("\(base)/\(bucket)")
      try await store.prepare()
    }
    let plain = try await conform("s3:\(base)/conform-plain/prefix", Self.s3Keys)
    expect(
      plain, [.atomicCreate: .verified, .conditionalWrite: .verified, .versions: .absent, .objectLock: .absent])
    let locked = try await conform("s3:\(base)/conform-locked/prefix", Self.s3Keys)
    expect(locked, [.versions: .verified, .objectLock: .verified])
    // Nothing is left, no version and no mark either.
    for bucket in ["conform-plain", "conform-locked"] {
      let store = try S3ObjectStoreFactory(
        environment: Self.s3Keys.merging(["SALVOR_S3_VERSIONS": "first"]) { $1 }, time: SystemTime(), pool: .shared
      ).open("\(base)/\(bucket)/prefix")
      for kind in ObjectKind.allCases { #expect(try await store.list(kind).isEmpty) }
    }
  }

  @Test func `rclone's S3 server, which says yes to more than it does`() async throws {
    let path = directory.file("rclone")
    try Files.createDirectory("\(path)/bucket")
    let server = try await BlockingPool.shared.run { try rcloneS3(path) }
    let report = try await conform("s3:http://127.0.0.1:\(server.port)/bucket/prefix", Self.s3Keys)
    let found = verdicts(report)
    for property in Self.basics { #expect(found[property] == .verified, "\(report.findings)") }
    #expect(found[.conditionalWrite] == .absent && found[.versions] != .verified && found[.objectLock] != .verified)
  }

  @Test func `moto, whose buckets lock only if they were made for it`() async throws {
    let server = try await BlockingPool.shared.run { try motoServer() }
    let base = "http://127.0.0.1:\(server.port)"
    for (bucket, lock) in [("plain", nil), ("locked", "governance:1s")] {
      let store = try S3ObjectStoreFactory(
        environment: Self.s3Keys.merging(lock.map { ["SALVOR_S3_LOCK": $0] } ?? [:]) { $1 }, time: SystemTime(),
        pool: .shared
      ).open("\(base)/\(bucket)")
      try await store.prepare()
      let report = try await conform("s3:\(base)/\(bucket)/prefix", Self.s3Keys)
      expect(report, [.objectLock: lock == nil ? .absent : .verified])
    }
  }

  @Test func `a place that isn't there is an error, and no bucket is made`() async throws {
    let server = try await BlockingPool.shared.run { try motoServer() }
    let run = try await CommandRun(
      [
        try CommandRun.product("salvor"), "vault", "-r", "s3:http://127.0.0.1:\(server.port)/nosuchbucket", "conform",
      ], environment: Self.s3Keys.merging(["HOME": directory.path]) { $1 })
    #expect(run.status == 1 && run.errors.contains("STORE-109"))
  }

  /// Stores that break one promise each: a trial that can't fail proves nothing.
  @Test(arguments: LyingStore.Lie.allCases)
  func `a store that lies is found out`(_ lie: LyingStore.Lie) async throws {
    let report = try await StoreTrial(LyingStore(lie), randomness: SeededRandomness(seed: 1)).run()
    let wrong = Set(report.findings.filter { $0.verdict != .verified }.map(\.property))
    #expect(wrong == [lie.property, .versions, .objectLock])
  }
}

/// A store in memory that breaks one promise.
final class LyingStore: ObjectStore {
  enum Lie: CaseIterable {
    case otherContent, stale, wholeForPart, undeletable, everybodyWins, replaces

    var property: StoreProperty {
      switch self {
      case .otherContent: .readAfterWrite
      case .stale: .listAfterWrite
      case .wholeForPart: .rangeReads
      case .undeletable: .delete
      case .everybodyWins: .atomicCreate
      case .replaces: .conditionalWrite
      }
    }
  }

  private let base = MemoryObjectStore()
  private let lie: Lie
  private let configs = Mutex(0)
  var location: String { "memory:" }

  init(_ lie: Lie) { self.lie = lie }

  func prepare() async throws(StoreError) { try await base.prepare() }

  func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    if name == .config, lie == .replaces, bytes == [255, 255] { return base.tamper(.config) { $0 = bytes } }
    if name == .config, lie == .everybodyWins, bytes != [255, 255] {
      do throws(StoreError) { try await base.put(name, bytes) } catch {}
      return
    }
    try await base.put(name, bytes)
  }

  func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    let bytes = try await base.get(name)
    return lie == .otherContent && name.kind == .data ? bytes.reversed() : bytes
  }

  func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    lie == .wholeForPart ? try await base.get(name) : try await base.get(name, range: range)
  }

  func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    lie == .stale ? [] : try await base.list(kind)
  }

  func size(of name: ObjectName) async throws(StoreError) -> Int? { try await base.size(of: name) }

  func delete(_ name: ObjectName) async throws(StoreError) {
    if lie == .undeletable { return }
    try await base.delete(name)
  }
}
