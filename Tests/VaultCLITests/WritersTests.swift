import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing
import Vault

/// Two dozen processes write into one repository while others forget and prune in it, over and over. `SALVOR_WRITERS`
/// (rounds, 2) for more.
@Suite("salvor vault, many at once", .serialized) struct WritersTests {
  private static let writers = 24
  private static let rounds = ProcessInfo.processInfo.environment["SALVOR_WRITERS"].flatMap { Int($0) } ?? 2
  /// A thread for each process that is waited for.
  private static let pool = BlockingPool(threads: 30)

  private final class Tally: Sendable {
    private let count: Mutex<Int>
    init(_ start: Int = 0) { count = Mutex(start) }
    func set(_ number: Int) { count.withLock { $0 = number } }
    func add(_ number: Int) { count.withLock { $0 += number } }
    var value: Int { count.withLock { $0 } }
  }

  private struct Kept: Sendable {
    var snapshot: String
    var source: String
  }

  @Test(.timeLimit(.minutes(20)))
  func `writers lose nothing to forgetting and pruning beside them`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let kept = KeptList()
    let (forgotten, prunes) = (Tally(), Tally())
    let writing = Tally(Self.writers)
    /// Backups under way; whether new ones hold back; prunes that found the repository in use.
    let (backups, waits, refused) = (Tally(), Tally(), Tally())
    try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<Self.writers {
        group.addTask {
          defer { writing.add(-1) }
          for round in 0..<Self.rounds {
            let source = fixture.directory.file("w\(writer)-\(round)")
            try Self.fill(source, UInt64(writer * 1000 + round))
            while waits.value > 0 { try await Task.sleep(for: .milliseconds(50)) }
            backups.add(1)
            defer { backups.add(-1) }
            // What goes shares most of its content with what stays.
            _ = try await Self.backup(fixture, source, tag: "passing")
            let id = try await Self.backup(fixture, source, tag: "staying")
            kept.add(Kept(snapshot: id, source: source))
          }
        }
      }
      group.addTask {
        // A lock of one's own is never had while two dozen share theirs, so new ones wait until the last has gone; then
        // all start at once, and the prune is one of them.
        while writing.value > 0 || prunes.value < 2 {
          if backups.value > 0 { waits.set(1) } else { waits.set(0) }
          let run = try await Self.salvor(
            fixture, "forget", "--tag", "passing", "--unsafe-allow-remove-all", "--prune", "--max-unused", "0", "--json"
          )
          guard run.status == 0 else {
            guard run.errors.contains("VAULT-201") else { throw CommandRun.Failed(description: run.errors) }
            refused.add(1)
            continue
          }
          let groups = try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8)).array ?? []
          forgotten.add(groups.reduce(0) { $0 + ($1["remove"]?.array?.count ?? 0) })
          prunes.add(1)
          waits.set(0)
          try await Task.sleep(for: .milliseconds(300))
        }
      }
      try await group.waitForAll()
    }
    let snapshots = kept.all
    print(
      "\(snapshots.count) snapshots stay, \(forgotten.value) were forgotten, \(prunes.value) prunes, "
        + "\(refused.value) refused")
    #expect(forgotten.value > 0)
    #expect(snapshots.count == Self.writers * Self.rounds && Set(snapshots.map(\.snapshot)).count == snapshots.count)
    let listed = try await fixture.restic("snapshots", "--tag", "staying", "--json").output
    let there = Set(
      try CanonicalJSON.decode(JSONValue.self, from: Array(listed.utf8)).array?.compactMap { $0["id"]?.string } ?? [])
    #expect(there == Set(snapshots.map(\.snapshot)))
    try await fixture.restic("check", "--read-data")
    try await fixture.salvor("check", "--read-data").succeeded()
    #expect(try await fixture.salvor("list", "locks").succeeded().output.isEmpty)
    for one in snapshots {
      let target = fixture.directory.file("out")
      try await fixture.salvor("restore", one.snapshot, "--target", target).succeeded()
      #expect(try await VaultFixture.picture(target + one.source) == VaultFixture.picture(one.source))
      try Files.removeTree(target)
    }
  }

  private final class KeptList: Sendable {
    private let list = Mutex<[Kept]>([])
    func add(_ one: Kept) { list.withLock { $0.append(one) } }
    var all: [Kept] { list.withLock { $0 } }
  }

  /// Files of a writer's own, and some that all have.
  private static func fill(_ directory: String, _ seed: UInt64) throws {
    try Files.createDirectory("\(directory)/sub")
    try Files.replace("\(directory)/own", with: SeededRandomness(seed: seed).bytes(150_000), mode: 0o644)
    try Files.replace("\(directory)/sub/all", with: SeededRandomness(seed: 1).bytes(100_000), mode: 0o644)
    try Files.replace("\(directory)/sub/some", with: SeededRandomness(seed: seed % 5).bytes(40_000), mode: 0o644)
  }

  /// - Returns: The snapshot that was acknowledged.
  private static func backup(_ fixture: VaultFixture, _ source: String, tag: String) async throws -> String {
    let run = try await salvor(fixture, "backup", source, "--tag", tag, "--retry-lock", "10m", "--json").succeeded()
    let last = try #require(run.output.split(separator: "\n").last)
    let summary = try CanonicalJSON.decode(JSONValue.self, from: Array(last.utf8))
    return try #require(summary["snapshot_id"]?.string)
  }

  private static func salvor(_ fixture: VaultFixture, _ words: String...) async throws -> CommandRun {
    try await CommandRun(
      [CommandRun.product("salvor"), "vault"] + words, in: fixture.directory.path,
      environment: ["RESTIC_REPOSITORY": fixture.repository, "RESTIC_PASSWORD_FILE": fixture.passwordFile], pool: pool)
  }
}
