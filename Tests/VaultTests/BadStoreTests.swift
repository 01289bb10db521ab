import Core
import IO
import ObjectStoreFaulty
import ObjectStoreMemory
import TestSupport
import Testing

@testable import Vault

/// What a store does at one call, and goes on as if nothing had been.
enum Misbehaviour: String, CaseIterable, Sendable {
  case failure, lostAnswer, slow, bitFlip, truncated, otherBytes, lie

  var fault: Fault {
    switch self {
    case .failure: .failure(.unavailable("busy"))
    case .lostAnswer: .lostAnswer(.unavailable("the line went dead"))
    case .slow: .delay(.seconds(20))
    case .bitFlip: .bitFlip
    case .truncated: .truncated(bytes: 9)
    case .otherBytes: .otherBytes
    case .lie: .lie
    }
  }
}

@Suite("Bad stores")
struct BadStoreTests {
  /// Off the threads that other tests wait for.
  private static func off<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await simulationPool.run { () throws(AnyFailure) in
      do { return try body() } catch { throw AnyFailure(error) }
    }
  }

  /// How many calls an act makes if all goes well.
  private static func calls(_ scene: CrashScene, _ seed: UInt64) throws -> Int {
    let time = SimulatedTime()
    return try SeededExecutor(seed: seed).run(on: time) {
      let store = FaultyObjectStore(MemoryObjectStore(contents: scene.contents, checksNames: false))
      try await scene.carryOut(store, Ledger(scene.snapshots), CrashScene.settings(seed, life: 3, time))
      return store.calls
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: CrashAct.allCases, Misbehaviour.allCases)
  func `one bad call loses nothing in silence`(_ act: CrashAct, _ bad: Misbehaviour) async throws {
    try await Self.off {
      let scene = try CrashScene.make(act)
      let seed = CrashOptions.seed
      let calls = try Self.calls(scene, seed)
      for number in 1...calls {
        let place = "\(act), \(bad) at call \(number), SALVOR_SEED=\(seed)"
        let time = SimulatedTime()
        do {
          let problems = try SeededExecutor(seed: seed).run(on: time) {
            let ledger = Ledger(scene.snapshots)
            let memory = MemoryObjectStore(contents: scene.contents, checksNames: false)
            let store = FaultyObjectStore(memory, .at(number, bad.fault), time: time)
            let end = await Result.of {
              try await scene.carryOut(store, ledger, CrashScene.settings(seed, life: 3, time))
            }
            if bad == .slow { try end.get() }
            // A put that never was can be found by reading only; by the next check at the latest.
            let isLie = bad == .lie
            return try await scene.problems(
              memory.contents, ledger, isTorn: isLie, mayLoseIncoming: isLie && (act == .backup || act == .copy),
              CrashScene.settings(seed, life: 4, time))
          }
          #expect(problems == [], "\(place)")
        } catch { Issue.record("\(place): \(error)") }
      }
      #expect(calls > 6)
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: CrashAct.allCases, [0, 1, 2] as [UInt64])
  func `a store that is behind loses nothing, or it is said`(_ act: CrashAct, _ round: UInt64) async throws {
    try await Self.off {
      let scene = try CrashScene.make(act)
      for seed in (CrashOptions.seed &+ round * 100)..<(CrashOptions.seed &+ round * 100 &+ 12 * CrashOptions.rounds) {
        let time = SimulatedTime()
        let problems = try SeededExecutor(seed: seed).run(on: time) {
          let ledger = Ledger(scene.snapshots)
          let memory = MemoryObjectStore(contents: scene.contents, checksNames: false)
          let chance = SeededRandomness(seed: seed)
          let store = LaggingObjectStore(memory, listing: chance.below(20), reading: chance.below(4), seed: seed)
          for life in 3...5 {
            _ = await Result.of {
              try await scene.carryOut(store, ledger, CrashScene.settings(seed, life: life, time))
            }
          }
          return try await scene.problems(
            memory.contents, ledger, isTorn: false, CrashScene.settings(seed, life: 6, time))
        }
        #expect(problems == [], "\(act), SALVOR_SEED=\(seed)")
      }
    }
  }

  @Test func `a prune of a store that is behind takes nothing in silence`() async throws {
    try await Self.off {
      let (backup, prune) = (try CrashScene.make(.backup), try CrashScene.make(.prune))
      var (refused, lost, whole) = (0, 0, 0)
      for number in 0..<(60 * CrashOptions.rounds) {
        let seed = CrashOptions.seed &* 1000 &+ number
        let time = SimulatedTime()
        let end = try SeededExecutor(seed: seed).run(on: time) { () -> (isRefused: Bool, isLost: Bool, isSaid: Bool) in
          let ledger = Ledger(backup.snapshots)
          let memory = MemoryObjectStore(contents: backup.contents)
          let store = LaggingObjectStore(
            memory, listing: 30, reading: 0, kinds: [.snapshot, .index, .data], seed: seed)
          try await backup.carryOut(store, ledger, CrashScene.settings(seed, life: 3, time))
          let run = await Result.of {
            try await prune.carryOut(store, ledger, CrashScene.settings(seed, life: 4, time))
          }
          let after = try await Repository.open(
            store: memory, password: password, settings: CrashScene.settings(seed, life: 5, time))
          let isSaid = try await !after.check(readData: true).isSound
          var isLost = false
          for (id, picture) in ledger.snapshots {
            let found = try? await after.picture(after.loadSnapshot(id).tree)
            if found != picture { isLost = true }
          }
          return ((try? run.get()) == nil, isLost, isSaid)
        }
        if end.isRefused { refused += 1 }
        if end.isLost { lost += 1 } else { whole += 1 }
        #expect(!end.isLost || end.isSaid, "SALVOR_SEED=\(CrashOptions.seed), \(number)")
      }
      print("prunes of a store that is behind: \(refused) refused, \(lost) took something and a check said so")
      // A store must list what it took; what can be noticed without that, is.
      #expect(refused > whole / 3 && lost < 20 * Int(CrashOptions.rounds))
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: 0..<6 as Range<UInt64>)
  func `many lives, each ending as it may, lose nothing`(_ number: UInt64) async throws {
    try await Self.off {
      let acts: [CrashAct] = [.backup, .forget, .tag, .prune, .copy]
      var scenes: [CrashAct: CrashScene] = [:]
      for act in acts { scenes[act] = try CrashScene.make(act) }
      let known = scenes
      let base = try #require(known[.backup])
      let seed = CrashOptions.seed &* 100 &+ number
      let time = SimulatedTime()
      let (problems, crashes) = try SeededExecutor(seed: seed).run(on: time) {
        let chance = SeededRandomness(seed: seed)
        let ledger = Ledger(base.snapshots)
        var contents = base.contents
        var (problems, crashes): ([String], Int) = ([], 0)
        for life in 0..<(30 * Int(CrashOptions.rounds)) where problems.isEmpty {
          guard let scene = known[acts[chance.below(acts.count)]] else { continue }
          let store = UnsyncedObjectStore(contents: contents, losingPowerAt: 1 + chance.below(150), seed: chance.next())
          let flaky = FaultyObjectStore(
            store,
            .random(seed: chance.next(), probability: 0.02) {
              $0.chance(0.5) ? .failure(.unavailable("busy")) : .lostAnswer(.unavailable("gone"))
            })
          _ = await Result.of {
            try await scene.carryOut(flaky, ledger, CrashScene.settings(seed, life: 10 + life, time))
          }
          contents = store.hasLostPower ? store.survivors : store.everything
          if store.hasLostPower { crashes += 1 }
          problems = try await base.problems(
            contents, ledger, isTorn: false, CrashScene.settings(seed, life: 500 + life, time)
          ).map { "life \(life), \(scene.act): \($0)" }
        }
        return (problems, crashes)
      }
      #expect(problems == [], "SALVOR_SEED=\(CrashOptions.seed)")
      #expect(crashes > 1)
      print("lived 30 times, the power went \(crashes) times, seed \(seed)")
    }
  }
}
