import Core
import Foundation
import IO
import ObjectStoreLocal
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

/// Damage that a seed chooses; restic and we must come to the same verdict. `SALVOR_DAMAGES` (60) from `SALVOR_SEED` on.
@Suite("Damage, judged by restic")
struct DamageOracleTests {
  private static func number(_ name: String) -> UInt64? {
    ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
  }
  static let seeds = (0..<(number("SALVOR_DAMAGES") ?? 60)).map { ($0 &+ (number("SALVOR_SEED") ?? 1)) }

  enum Target: String, CaseIterable { case dataPack, treePack, index, snapshot, key, config }
  enum Change: String, CaseIterable { case bitFlip, truncated, missing, swapped, extended, emptied, foreign }

  struct Base: Sendable {
    var contents: [ObjectName: [UInt8]]
    var treePacks: Set<ObjectName>
  }

  private static func base() async throws -> Base {
    let store = MemoryObjectStore()
    var settings = VaultSettings.quick(packBytes: 40_000, seed: 7)
    settings.indexBlobs = 4
    let repository = try await Repository.create(store: store, password: password, settings: settings)
    for seed in 1...3 as ClosedRange<UInt64> { _ = try await repository.backUp(sampleFiles(seed: seed)) }
    let packs = repository.index.withLock { $0.blobs.blobsByPack() }
    let trees = packs.filter { $0.value[0].kind == .tree }.map { ObjectName(.data, $0.key) }
    return Base(contents: store.contents, treePacks: Set(trees))
  }

  /// - Returns: What was done; `nil` if it made no difference.
  private static func damage(_ base: Base, _ seed: UInt64) -> (what: String, contents: [ObjectName: [UInt8]])? {
    let chance = SeededRandomness(seed: seed)
    // Every target with every change, in turn.
    let target = Target.allCases[Int(seed) % Target.allCases.count]
    let change = Change.allCases[Int(seed) / Target.allCases.count % Change.allCases.count]
    let names = base.contents.keys.sorted().filter { name in
      switch target {
      case .dataPack: name.kind == .data && !base.treePacks.contains(name)
      case .treePack: base.treePacks.contains(name)
      case .index: name.kind == .index
      case .snapshot: name.kind == .snapshot
      case .key: name.kind == .key
      case .config: name.kind == .config
      }
    }
    let name = names[chance.below(names.count)]
    var contents = base.contents
    var bytes = contents[name] ?? []
    switch change {
    case .bitFlip: bytes[chance.below(bytes.count)] ^= 1 << UInt8(chance.below(8))
    case .truncated: bytes.removeLast(1 + chance.below(bytes.count - 1))
    case .missing: contents[name] = nil
    case .swapped:
      let other = names[chance.below(names.count)]
      bytes = contents[other] ?? []
      contents[other] = contents[name]
    case .extended: bytes += chance.bytes(1 + chance.below(50))
    case .emptied: bytes = []
    case .foreign:
      let others = base.contents.keys.sorted().filter { $0.kind != name.kind }
      bytes = base.contents[others[chance.below(others.count)]] ?? []
    }
    if change != .missing { contents[name] = bytes }
    return contents == base.contents ? nil : ("\(change) \(target) \(name)", contents)
  }

  /// - Returns: Whether restic calls the repository sound, and what it said.
  private static func judge(_ path: String) async throws -> (isSound: Bool, text: String) {
    var text = ""
    for words in [["check"], ["check", "--read-data"]] {
      // restic tries for a minute to read what can't be read; by then it has said that it can't.
      let run = try await CommandRun(
        ["timeout", "-s", "KILL", "12", "restic", "--no-cache", "-r", path] + words,
        environment: ["RESTIC_PASSWORD": "correct horse", "HOME": "/tmp"])
      text = run.errors + run.output
      guard run.status == 0 else {
        return (run.status == 137 && !text.contains("error") && !text.contains("retry"), text)
      }
    }
    return (true, text)
  }

  @Test(.timeLimit(.minutes(30)))
  func `restic and we give the same verdict on any damage`() async throws {
    let base = try await Self.base()
    let directory = try TemporaryDirectory("damage")
    var (cases, damaged) = (0, 0)
    var pending = Self.seeds[...]
    try await withThrowingTaskGroup(of: (isDamaged: Bool, problem: String?)?.self) { group in
      func next() {
        guard let seed = pending.popFirst() else { return }
        group.addTask {
          guard let (what, contents) = Self.damage(base, seed) else { return nil }
          let path = directory.file("\(seed)")
          try writeRepository(contents, to: path)
          let (isSound, text) = try await Self.judge(path)
          let ours = await Self.ourVerdict(path)
          try Files.removeTree(path)
          // restic 0.14 does not compare a key with its name, later ones do, and so do we: what changed in a key's remarks
          // is damage, if harmless.
          let isRemark = isSound && what.contains(" keys/") && ours.codes == ["VAULT-126"]
          let agree = isSound == ours.isSound || isRemark
          return (
            !ours.isSound,
            agree
              ? nil : "\(what): restic says \(isSound ? "sound" : "damaged") (\(text)), we \(ours); SALVOR_SEED=\(seed)"
          )
        }
      }
      for _ in 0..<6 { next() }
      for try await result in group {
        next()
        guard let result else { continue }
        cases += 1
        if result.isDamaged { damaged += 1 }
        if let problem = result.problem { Issue.record("\(problem)") }
      }
    }
    print("damaged in \(cases) ways: \(damaged) called damaged by both")
    #expect(cases > Self.seeds.count * 9 / 10 && damaged > cases / 2)
  }

  private static func ourVerdict(_ path: String) async -> (isSound: Bool, codes: [String]) {
    do throws(VaultError) {
      let repository = try await Repository.open(
        store: LocalObjectStore(path), password: password, settings: .quick(), loadingIndex: false)
      let report = try await repository.check(readData: true)
      return (report.isSound, report.damage.map(\.report.code))
    } catch { return (false, [error.report.code]) }
  }
}
