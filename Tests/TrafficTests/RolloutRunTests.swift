import Core
import Foundation
import IO
import Rollouts
import StateKit
import TestSupport
import Testing
import TrafficContract
import TrafficHAProxy
import Web

/// The built program, an HAProxy, two sides, and somebody who uses them.
final class RolloutSite: Sendable {
  let rig: HTTPRig
  let directory: TemporaryDirectory
  static let program =
    Files.parent(of: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "") + "/salvor"

  /// Blocks.
  ///
  /// - Parameter spec: Lines for the rollout.
  init(_ spec: String) throws {
    let backends = try HTTPBackends(["blue", "green"])
    let rig = try HTTPRig.haproxy(backends) { try HAProxyRouter($0, time: SystemTime()) }
    self.rig = rig
    directory = try TemporaryDirectory("rollout")
    let green = "http://\(backends.address("green"))"
    let flags = directory.file("flags.json")
    let text = """
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec: {owner: shop-team, objectives: {rto: 5m}}
      ---
      apiVersion: salvor.dev/v1
      kind: TrafficRoute
      metadata: {name: shop-web}
      spec:
        haproxy: {socket: \(rig.directory.file("admin.sock")), backend: bank}
        backends: {blue: srv-blue, green: srv-green}
        patience: 6s
      ---
      apiVersion: salvor.dev/v1
      kind: Rollout
      metadata: {name: shop}
      spec:
        route: shop-web
        from: blue
        to: green
        ready: [{http: "\(green)/health", retries: 20}]
        warm: {requests: ["\(green)/warm"], times: 7}
        prime: [touch, \(directory.file("primed"))]
        watch: {errors: 5%, requests: 5}
        interval: 100ms
        patience: 60s
        flags: {source: \(flags), allow: go, record: [go, colour]}
      \(spec.split(separator: "\n").map { "  \($0)" }.joined(separator: "\n"))

      """
    try Files.replace(directory.file("salvor.yaml"), with: Array(text.utf8))
    try allow(true)
  }

  func allow(_ isAllowed: Bool) throws {
    let text = """
      {"flags": {
        "go": {"state": "ENABLED", "variants": {"on": true, "off": false}, "defaultVariant": "\(isAllowed ? "on" : "off")"},
        "colour": {"state": "ENABLED", "variants": {"g": "green"}, "defaultVariant": "g"}}}
      """
    try Files.replace(directory.file("flags.json"), with: Array(text.utf8))
  }

  private func words(_ arguments: [String]) -> [String] {
    [Self.program] + arguments + ["--state", directory.file("state")]
  }

  func salvor(_ arguments: String...) async throws -> CommandRun {
    try await CommandRun(words(arguments), in: directory.path)
  }

  func begin() throws -> PipedProcess {
    try PipedProcess(
      words(["rollout", "start", "shop", "--release", "r7", "--catalog", "salvor.yaml"]), in: directory.path)
  }

  /// Uses the shop until the task is cancelled.
  func use() async -> [BackendName?] {
    var answers: [BackendName?] = []
    while !Task.isCancelled {
      let answer = (try? await rig.request()) ?? nil
      // One that was given up is no answer of the shop's.
      if !Task.isCancelled { answers.append(answer) }
      do { try await SystemTime().sleep(for: .milliseconds(5)) } catch { break }
    }
    return answers
  }

  func weights() async throws -> [BackendName: Int] { try await rig.router.view().weights }

  func wait(_ what: String, until isSo: () async throws -> Bool) async throws {
    for _ in 0..<6000 {
      if try await isSo() { return }
      try await SystemTime().sleep(for: .milliseconds(20))
    }
    Issue.record("waited in vain: \(what)")
  }

  func entries() throws -> [RolloutLogEntry] {
    let folder = directory.file("state/rollouts")
    let logs = try Files.names(in: folder).map(\.lossyText).sorted()
    return try logs.flatMap { try RolloutLogEntry.entries(try Files.read("\(folder)/\($0)")) }
  }
}

@Suite("Rollouts with HAProxy", .serialized) struct RolloutRunTests {
  private func site(_ spec: String) async throws -> RolloutSite {
    let site = try await BlockingPool.shared.run { try RolloutSite(spec) }
    _ = try await site.rig.router.move(to: "blue")
    return site
  }

  /// What users were answered while `body` went on.
  private func whileUsed(_ site: RolloutSite, _ body: () async throws -> Void) async throws -> [BackendName?] {
    try await withThrowingTaskGroup(of: [BackendName?].self) { group in
      group.addTask { await site.use() }
      do { try await body() } catch {
        group.cancelAll()
        throw error
      }
      group.cancelAll()
      return try await group.reduce(into: []) { $0 += $1 }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `killed in the middle it goes on, and nobody is refused`() async throws {
    let site = try await site("steps: [20, 60, 100]\ndwell: 1s\nkeep: 300ms")
    let answers = try await whileUsed(site) {
      let first = try site.begin()
      try await site.wait("the second step") { try await site.weights() == ["blue": 40, "green": 60] }
      first.kill()
      // Traffic stays as it is while nobody is there.
      #expect(try await site.weights() == ["blue": 40, "green": 60])
      let resumed = try await site.salvor("rollout", "resume", "latest")
      #expect(resumed.status == 0, "\(resumed.errors)")
      #expect(try await site.weights() == ["blue": 0, "green": 100])
    }
    #expect(
      answers.count > 50 && answers.allSatisfy { $0 != nil }, "\(answers.count { $0 == nil }) of \(answers.count)")
    #expect(Files.exists(site.directory.file("primed")))
    let entries = try site.entries()
    // It had nothing when it was begun.
    #expect(entries.first?.facts.route?.weights == ["blue": 100, "green": 0])
    #expect(entries.map(\.decision.rule).contains(.passed) && entries.allSatisfy { $0.replayed() == $0.decision })
    let context = try #require(entries.last?.facts.context)
    #expect(context == ["flag.go": "true", "flag.colour": "green", "release": "r7"])
    let explained = try await site.salvor("rollout", "explain", "latest")
    #expect(explained.output.contains("R-051") && explained.output.contains("release=r7"))
    let status = try await site.salvor("rollout", "status", "latest")
    #expect(status.output.contains("succeeded"))

    // And back again, long after.
    let back = try await site.salvor("rollout", "abort", "latest")
    #expect(back.status == 0, "\(back.errors)")
    #expect(try await site.weights() == ["blue": 100, "green": 0])
  }

  @Test(.timeLimit(.minutes(10))) func `failures of the new side lead back by themselves`() async throws {
    let site = try await site("steps: [30, 100]\ndwell: 60s")
    _ = try await whileUsed(site) {
      let rollout = try site.begin()
      try await site.wait("the first step") { try await site.weights()["green"] == 30 }
      try site.rig.backends.fail("green")
      let status = await BlockingPool.shared.run { rollout.wait() }
      #expect(status == 4, "\(rollout.errors)")
      #expect(try await site.weights() == ["blue": 100, "green": 0])
    }
    let entries = try site.entries()
    // Broken, or not ready any more: its ready check is answered with 500, too.
    #expect(entries.contains { $0.decision.rule == .broken || $0.decision.rule == .unready })
    #expect(entries.last?.decision.rule == .returned && entries.allSatisfy { $0.replayed() == $0.decision })
    let again = try await site.salvor("rollout", "status", "latest", "-o", "json")
    #expect(again.output.contains("rolledBack"))
  }

  @Test(.timeLimit(.minutes(10))) func `a switch that is thrown, and an operator elsewhere, lead back`() async throws {
    let site = try await site("steps: [30, 100]\ndwell: 600s")
    _ = try await whileUsed(site) {
      let first = try site.begin()
      try await site.wait("the first step") { try await site.weights()["green"] == 30 }
      let second = try await site.salvor("rollout", "start", "shop", "--catalog", "salvor.yaml")
      #expect(second.status != 0 && second.errors.contains("ROLLOUT-103"), "\(second.errors)")
      try Files.replace(site.directory.file("flags.json"), with: [])
      #expect(await BlockingPool.shared.run { first.wait() } == 4)
      #expect(try site.entries().contains { $0.decision.rule == .switchedOff })
      #expect(try await site.weights() == ["blue": 100, "green": 0])

      // Nothing is begun while it can't be read.
      let denied = try await site.salvor("rollout", "start", "shop", "--catalog", "salvor.yaml")
      #expect(denied.status == 4 && denied.errors.contains("R-010"), "\(denied.errors)")
      try site.allow(true)
      let third = try site.begin()
      try await site.wait("the first step") { try await site.weights()["green"] == 30 }
      let aborted = try await site.salvor("rollout", "abort", "latest")
      #expect(aborted.status == 0, "\(aborted.errors)")
      #expect(await BlockingPool.shared.run { third.wait() } == 4)
      #expect(try await site.weights() == ["blue": 100, "green": 0])
    }
  }

  @Test(.timeLimit(.minutes(10))) func `what a user types shows what routers say`() async throws {
    let site = try await site("steps: [100]\ndwell: 1s")
    let shown = try await site.salvor("traffic", "show", "--catalog", "salvor.yaml")
    #expect(shown.output.contains("blue  open weight 100") && shown.output.contains("green  closed"), "\(shown.output)")
    let moved = try await site.salvor("traffic", "move", "shop-web", "green", "--catalog", "salvor.yaml")
    #expect(moved.status == 0 && moved.output.contains("green  open"), "\(moved.errors)")
    #expect(try await site.rig.request() == "green")
    try await site.rig.freeze(true)
    let silent = try await site.salvor("traffic", "show", "--catalog", "salvor.yaml")
    try await site.rig.freeze(false)
    #expect(silent.status == 3 && silent.output.contains("unknown"))
    let plan = try await site.salvor("rollout", "start", "shop", "--dry-run", "--catalog", "salvor.yaml")
    #expect(plan.output.contains("100 % to green") && plan.output.contains("only while flag go is on"))
    #expect(try await site.weights() == ["blue": 0, "green": 100])
  }
}
