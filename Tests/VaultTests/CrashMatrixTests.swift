import Core
import IO
import ObjectStoreFaulty
import ObjectStoreMemory
import Synchronization
import TestSupport
import Testing

@testable import Vault

/// How an act ends at its n-th operation.
enum CrashKind: String, CaseIterable, Sendable {
  /// The process ends before or after the operation took effect.
  case before, after
  /// The store leaves the first bytes of an object under its name, which it promised not to.
  case torn
  /// The machine loses power: of what was under way, any part may have happened.
  case power
  /// The same, on a store that also tears.
  case tornPower

  var isTorn: Bool { self == .torn || self == .tornPower }
}

/// Every act on a repository crashes at each of its operations, one after the other, under a scheduler with a seed.
@Suite("Crashed at every operation")
struct CrashMatrixTests {
  struct Outcome: Sendable {
    var hasCrashed: Bool
    var survivors: [ObjectName: [UInt8]]
    var problems: [String]
  }

  private static func crash(_ scene: CrashScene, _ kind: CrashKind, at number: Int, seed: UInt64) throws -> Outcome {
    let time = SimulatedTime()
    return try SeededExecutor(seed: seed).run(on: time) {
      let ledger = Ledger(scene.snapshots)
      let settings = CrashScene.settings(seed, life: 3, time)
      var (hasCrashed, survivors): (Bool, [ObjectName: [UInt8]])
      switch kind {
      case .before, .after, .torn:
        let memory = MemoryObjectStore(contents: scene.contents, checksNames: false)
        let chance = SeededRandomness(seed: seed &+ UInt64(number))
        let fault: Fault =
          kind == .before ? .crashBefore : kind == .after ? .crashAfter : .tornPut(bytes: chance.below(60))
        let store = FaultyObjectStore(memory, .at(number, fault))
        let end = await Result.of { try await scene.carryOut(store, ledger, settings) }
        (hasCrashed, survivors) = (store.hasCrashed, memory.contents)
        if !hasCrashed { try end.get() }
      case .power, .tornPower:
        let store = UnsyncedObjectStore(
          contents: scene.contents, losingPowerAt: number, seed: seed, tears: kind == .tornPower)
        let end = await Result.of { try await scene.carryOut(store, ledger, settings) }
        (hasCrashed, survivors) = (store.hasLostPower, store.survivors)
        if !hasCrashed { try end.get() }
      }
      let problems = try await scene.problems(
        survivors, ledger, isTorn: kind.isTorn, CrashScene.settings(seed, life: 4, time))
      return Outcome(hasCrashed: hasCrashed, survivors: survivors, problems: problems)
    }
  }

  @Test func `a seed gives the same scene and the same calls every time`() async throws {
    let (one, two) = (try CrashScene.make(.prune), try CrashScene.make(.prune))
    #expect(one.contents == two.contents)
    let first = try Self.crash(one, .power, at: 40, seed: 3)
    let second = try Self.crash(two, .power, at: 40, seed: 3)
    #expect(first.survivors == second.survivors)
  }

  @Test(.timeLimit(.minutes(10)), arguments: CrashAct.allCases, CrashKind.allCases)
  func `what was acknowledged comes back, wherever it crashed`(_ act: CrashAct, _ kind: CrashKind) async throws {
    let samples = try await simulationPool.run { () throws(AnyFailure) in
      do { return try Self.crashEverywhere(act, kind) } catch { throw AnyFailure(error) }
    }
    // restic judges some of what is left; what is torn it calls damaged, and rightly so.
    guard !kind.isTorn, act != .repairIndex, act != .password else { return }
    for (place, contents) in samples {
      let directory = try TemporaryDirectory("crash")
      try writeRepository(contents, to: directory.file("repository"))
      let restic = Restic(repository: directory.file("repository"))
      try await restic.run("unlock")
      let judged = await restic.attempt(["check", "--read-data"])
      #expect(judged.status == 0, "restic at \(place): \(judged.errors)")
    }
  }

  private static func crashEverywhere(
    _ act: CrashAct, _ kind: CrashKind
  ) throws -> [(place: String, contents: [ObjectName: [UInt8]])] {
    let scene = try CrashScene.make(act)
    var samples: [(String, [ObjectName: [UInt8]])] = []
    for round in 0..<CrashOptions.rounds {
      let seed = CrashOptions.seed &+ round
      var crashes = 0
      for number in 1... {
        let place = "\(act) \(kind) \(number), SALVOR_SEED=\(seed)"
        let outcome: Outcome
        do { outcome = try crash(scene, kind, at: number, seed: seed) } catch {
          Issue.record("\(place): \(error)")
          continue
        }
        #expect(outcome.problems == [], "\(place)")
        guard outcome.hasCrashed else { break }
        crashes += 1
        if number % 13 == 5 { samples.append((place, outcome.survivors)) }
      }
      #expect(crashes >= 4, "an act has more operations than \(crashes)")
      print("crashed \(crashes) times: \(act), \(kind), seed \(seed)")
    }
    return samples
  }
}

extension Result where Success == Void, Failure == any Error {
  static func of(_ body: () async throws -> Void) async -> Self {
    do { return .success(try await body()) } catch { return .failure(error) }
  }
}
