import Core
import DriverKit
import IO
import TestSupport
import Testing

@testable import DriverPostgreSQL

#if canImport(Glibc)
  import Glibc
#endif

/// Clocks of three machines, of which only the agent's own can be relied on.
@Suite("What a server says of its peers") struct PeerWatchTests {
  private let b = MemberName(unchecked: "b")
  private let c = MemberName(unchecked: "c")

  @Test func `a peer is there for as long as its words change, whatever its clock says`() {
    var watch = PeerWatch()
    // An hour behind, and standing still.
    watch.listed("b=100.5=10,c=3700.5=10", position: 10, needed: 1, at: 1000)
    #expect(watch.attached(at: 1000, fresh: 1000) == [b, c])
    watch.listed("b=100.5=10,c=3701.5=20", position: 20, needed: 1, at: 2500)
    #expect(watch.attached(at: 2500, fresh: 1000) == [c])
    // Its clock goes back: that is a word too.
    watch.listed("b=50.0=20,c=3702.5=20", position: 20, needed: 1, at: 2600)
    #expect(watch.attached(at: 2600, fresh: 1000) == [b, c])
    watch.listed("c=3702.6=20", position: 20, needed: 1, at: 2700)
    #expect(watch.attached(at: 2700, fresh: 1000) == [c])
  }

  @Test func `what too few have confirmed has an age and a size`() {
    var watch = PeerWatch()
    watch.listed("b=1=100,c=1=100", position: 100, needed: 1, at: 1000)
    #expect(watch.lag(at: 1000) == (0, 0))
    watch.listed("b=1=100,c=1=100", position: 150, needed: 1, at: 1200)
    watch.listed("b=1=100,c=1=100", position: 180, needed: 1, at: 1400)
    #expect(watch.lag(at: 1500) == (300, 80))
    // One is enough; of two both are needed.
    watch.listed("b=2=160,c=1=100", position: 180, needed: 1, at: 1600)
    #expect(watch.lag(at: 1600) == (200, 20))
    watch.listed("", position: 180, needed: 1, at: 5000)
    #expect(watch.lag(at: 5000) == (3600, 20))
    watch.listed("c=9=180", position: 180, needed: 1, at: 5100)
    #expect(watch.lag(at: 5100) == (0, 0))
    var both = PeerWatch()
    both.listed("b=1=100,c=1=50", position: 100, needed: 2, at: 1000)
    #expect(both.lag(at: 1100) == (100, 50))
  }

  @Test func `how long nothing was heard is counted here`() {
    var watch = PeerWatch()
    #expect(watch.heard("7", age: 300, at: 1000) == 300)
    #expect(watch.heard("7", age: -3_600_000, at: 1500) == 800)
    #expect(watch.heard("8", age: 3_600_000, at: 1600) == 0)
    #expect(watch.heard(nil, age: nil, at: 1700) == nil)
    #expect(watch.heard("8", age: nil, at: 1800) == 0)
  }
}

@Suite("PostgreSQL as one of several", .serialized) struct MemberServerTests {
  @Test(.timeLimit(.minutes(5)))
  func `a server that stands still is looked at for a second, and ended all the same`() async throws {
    let server = try await PostgreSQLServer.start()
    let password = Secret(PostgreSQLServer.password)
    let environment = DriverEnvironment(time: SystemTime(), randomness: SystemRandomness(), pool: .shared) { _ in
      password
    }
    let name = MemberName(unchecked: "a")
    var settings = PostgreSQLMemberSettings(
      name: name, peers: [.init(name: name, host: "127.0.0.1", port: server.port)])
    (settings.dataDirectory, settings.password) = (server.data, SecretReference("env:UNUSED"))
    let member = PostgreSQLMember(settings, in: environment)
    #expect(try await member.facts().role == .primary)
    #expect(await member.sight(of: name) == .serves)
    let postmaster = try #require(server.processes().first)
    let all = [postmaster] + children(of: postmaster)
    for process in all { kill(process, SIGSTOP) }
    let (sight, took) = await SystemTime().measure { await member.sight(of: name) }
    #expect(sight == .silent)
    #expect(took < .seconds(5))
    try await member.stop(inOrder: false)
    #expect(!isLive(server.data))
    #expect(await member.sight(of: name) == .refused)
    for process in all { kill(process, SIGCONT) }
    #expect(try await member.facts().role == .stopped)
    await server.shutDown()
  }
}
