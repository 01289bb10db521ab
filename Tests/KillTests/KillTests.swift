import Core
import Foundation
import IO
import TestSupport
import Testing

/// How often, and from which seed on: `SALVOR_KILLS`, `SALVOR_SEED`.
struct KillOptions {
  /// Of backups, and of restores as many again.
  var kills: Int
  var seed: UInt64

  static let current: KillOptions = {
    let environment = ProcessInfo.processInfo.environment
    return KillOptions(
      kills: max(2, (environment["SALVOR_KILLS"].flatMap { Int($0) } ?? 8) / 2),
      seed: environment["SALVOR_SEED"].flatMap { UInt64($0) } ?? 1)
  }()

  /// What to type to see the same again.
  func again(_ suite: String) -> Comment {
    "SALVOR_SEED=\(seed) SALVOR_KILLS=\(kills * 2) swift test --filter \(suite)"
  }
}

@Suite("Salvor killed", .serialized)
struct SalvorKillTests {
  let options = KillOptions.current

  @Test(.timeLimit(.minutes(10)))
  func `a backup killed at any moment harms nothing and nobody`() throws {
    let again = options.again("SalvorKillTests")
    let shop = try ShopSystem()
    defer { shop.shutDown() }
    var loop = BackupKills(shop, seed: options.seed)
    do {
      try loop.run(kills: options.kills)
    } catch {
      Issue.record("\(error)\nafter \(loop.story.joined(separator: ", "))", severity: .error)
      Issue.record(again)
      return
    }
    #expect(loop.problems.isEmpty, "\(loop.problems.joined(separator: "\n"))\n\(again)")
    #expect(loop.kills == options.kills, again)
    print(
      "backups killed: \(loop.kills) (\(loop.story.joined(separator: ", "))); longest order \(loop.longestWrite.brief)")
  }

  @Test(.timeLimit(.minutes(15)))
  func `a restore killed at any moment can be taken up or undone`() throws {
    let again = options.again("SalvorKillTests")
    let shop = try ShopSystem()
    defer { shop.shutDown() }
    var loop = RestoreKills(shop, seed: options.seed)
    do {
      try loop.run(kills: options.kills)
    } catch {
      Issue.record("\(error)\nafter \(loop.story.joined(separator: ", "))", severity: .error)
      Issue.record(again)
      return
    }
    #expect(loop.problems.isEmpty, "\(loop.problems.joined(separator: "\n"))\n\(again)")
    #expect(loop.kills >= options.kills, again)
    print("restores killed: \(loop.kills) (\(loop.story.joined(separator: ", ")))")
  }
}
