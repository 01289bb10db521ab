import Core
import IO
import StateKit
import TestSupport
import Testing
import TrafficContract
import TrafficHAProxy
import TrafficNGINX
import Web

/// Every router keeps the contract, each with a process of its own in front of two servers.
@Suite("Traffic routers", .serialized) struct RouterTests {
  private func keepAll(_ start: @escaping @Sendable () throws -> HTTPRig) async throws {
    let rig = try await BlockingPool.shared.run { try start() }
    for promise in TrafficPromise.allCases {
      do { try await promise.keep(rig) } catch { Issue.record("\(promise.rawValue): \(AnyFailure(error).report)") }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `HAProxy keeps its promises`() async throws {
    try await keepAll { try HTTPRig.haproxy() }
  }

  @Test(.timeLimit(.minutes(10))) func `nginx keeps its promises`() async throws {
    try await keepAll { try HTTPRig.nginx() }
  }

  @Test(.timeLimit(.minutes(10))) func `Envoy keeps its promises`() async throws {
    let root = Files.parent(of: Files.parent(of: Files.parent(of: #filePath)))
    let program = "\(root)/.build/test-tools/bin/envoy"
    try #require(Files.exists(program), "scripts/setup installs Envoy")
    try await keepAll { try HTTPRig.envoy(program) }
  }

  @Test(.timeLimit(.minutes(10))) func `a program keeps its promises`() async throws {
    try await keepAll { try HTTPRig.exec() }
  }

  @Test(.timeLimit(.minutes(10))) func `PgBouncer keeps its promises`() async throws {
    let rig = try await PgBouncerRig.start()
    for promise in TrafficPromise.allCases {
      do { try await promise.keep(rig) } catch { Issue.record("\(promise.rawValue): \(AnyFailure(error).report)") }
    }
    await rig.shutDown()
  }

  @Test(.timeLimit(.minutes(10))) func `clients of PgBouncer see a delay, and nothing else, while service moves`()
    async throws
  {
    let rig = try await PgBouncerRig.start()
    let router = rig.router
    _ = try await router.move(to: "a")
    let answers = try await withThrowingTaskGroup(of: [BackendName?].self) { group in
      for _ in 0..<4 {
        group.addTask {
          var seen: [BackendName?] = []
          while !Task.isCancelled, !(seen.last == "b" && seen.count > 5) {
            seen.append(try await rig.request(waiting: 60))
          }
          return seen
        }
      }
      group.addTask {
        while try await rig.arrivals()["a"] ?? 0 < 8 { try await SystemTime().sleep(for: .milliseconds(10)) }
        #expect(try await router.close("a").backends.allSatisfy { $0.sessions == 0 && !$0.isOpen })
        let before = try await rig.arrivals()
        #expect(try await router.move(to: "b").isAll(at: "b"))
        // Whoever waited has gone there; nobody has come to the old side since.
        #expect(try await rig.arrivals()["a"] == before["a"])
        return []
      }
      return try await group.reduce(into: []) { $0 += $1 }
    }
    #expect(answers.allSatisfy { $0 != nil }, "\(answers)")
    #expect(answers.contains("a") && answers.contains("b"))
    await rig.shutDown()
  }
}
