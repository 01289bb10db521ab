import Core
import Failover
import Foundation
import IO
import Runtime
import StateKit
import TestSupport
import Testing
import TrafficContract
import TrafficHAProxy

/// Routers as the agent that conducts a failover moves them.
@Suite("Traffic in a failover", .serialized) struct FailoverTrafficTests {
  private func machine(_ directory: TemporaryDirectory) -> Machine {
    Machine(environment: [:], name: "test", stateDirectory: directory.path)
  }

  @Test(.timeLimit(.minutes(10))) func `the old side is closed and cut, the new one opened, and it is a fact`()
    async throws
  {
    let rig = try await BlockingPool.shared.run { try HTTPRig.haproxy() }
    let traffic = FailoverTraffic([rig.router], host: machine(rig.directory), budget: .seconds(30))
    _ = try await rig.router.move(to: "a")
    let epoch = Fence(7)
    let untold = try #require(await traffic.facts?.first)
    #expect(untold.objection("b", epoch)?.text == "route bank hasn't been told")

    let session = try await rig.session()
    await traffic.close("a", epoch)
    #expect(await session.ends())
    #expect(try await rig.request() == nil)
    let closed = try #require(await traffic.facts?.first)
    #expect(closed.open == [] && closed.objection("b", epoch)?.text == "route bank goes nowhere")

    await traffic.open("b", epoch)
    let open = try #require(await traffic.facts?.first)
    #expect(open.open == ["b"] && open.objection("b", epoch) == nil)
    // What was true under another epoch, or of another member, is no answer.
    #expect(open.objection("b", Fence(8)) != nil && open.objection("a", epoch) != nil)
    #expect(try await rig.request() == "b")
  }

  @Test(.timeLimit(.minutes(10))) func `a router that stands still delays nothing beyond its budget, and is unknown`()
    async throws
  {
    let rig = try await BlockingPool.shared.run { try HTTPRig.haproxy() }
    let traffic = FailoverTraffic([rig.router], host: machine(rig.directory), budget: .milliseconds(300))
    _ = try await rig.router.move(to: "a")
    try await rig.freeze(true)
    await traffic.close("a", Fence(7))
    await traffic.open("b", Fence(7))
    let facts = try #require(await traffic.facts?.first)
    #expect(facts.open == nil && facts.why != nil)
    #expect(facts.objection("b", Fence(7))?.text.contains("isn't known") == true)
    try await rig.freeze(false)
    // Told again, it does it.
    let patient = FailoverTraffic([rig.router], host: machine(rig.directory), budget: .seconds(30))
    await patient.open("b", Fence(7))
    #expect(await patient.facts?.first?.open == ["b"])
  }

  @Test(.timeLimit(.minutes(10))) func `HAProxy reads what it was told from the state file after a restart`()
    async throws
  {
    let rig = try await BlockingPool.shared.run { try HTTPRig.haproxy() }
    _ = try await rig.router.move(to: "b")
    let second = try await BlockingPool.shared.run { () throws -> ServerProcess in
      // Another process of the same configuration, at another port: what a restart begins with.
      let port = try freePort()
      let text = String(decoding: try Files.read(rig.directory.file("haproxy.cfg")), as: UTF8.self)
        .replacingOccurrences(of: "admin.sock", with: "second.sock")
        .replacingOccurrences(of: "127.0.0.1:\(rig.port)", with: "127.0.0.1:\(port)")
      try Files.replace(rig.directory.file("second.cfg"), with: Array(text.utf8))
      return try ServerProcess(port: port, ["haproxy", "-db", "-f", rig.directory.file("second.cfg")])
    }
    // It listens at its port before it does at its socket.
    while !Files.exists(rig.directory.file("second.sock")) { try await SystemTime().sleep(for: .milliseconds(5)) }
    let router = try HAProxyRouter(
      HAProxySettings(
        route: "bank", socket: rig.directory.file("second.sock"), backend: "bank",
        servers: [("a", "srv-a"), ("b", "srv-b")]), time: SystemTime())
    #expect(try await router.view().isAll(at: "b"))
    await BlockingPool.shared.run { _ = second.end() }
  }
}
