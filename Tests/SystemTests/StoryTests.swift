import Console
import Core
import Demo
import IO
import Recovery
import Runtime
import Synchronization
import TestSupport
import Testing

/// The demo is a system test: it fails by itself if any of its claims doesn't hold.
@Suite(.serialized) struct StoryTests {
  @Test(.timeLimit(.minutes(5)), arguments: [false, true])
  func `a bank is captured under load, destroyed, and comes back to one moment`(_ engines: Bool) async throws {
    let program = try CommandRun.product("salvor-bank")
    let directory = try TemporaryDirectory("story")
    var options = Story.Options(bank: program)
    options.engines = engines
    options.directory = directory.file("demo")
    options.interval = .seconds(2)
    options.basePort = engines ? 18_200 : 18_100
    let machine = Machine(environment: ["PATH": "/usr/bin:/bin:/usr/sbin:/sbin"], name: "test", stateDirectory: "")
    let lines = Mutex<[String]>([])
    let story = Story(options, host: machine, style: .plain) { line in lines.withLock { $0.append(line) } }
    let outcome = try await story.run()
    #expect(outcome.points.count == 3)
    for point in outcome.points {
      #expect(
        point.mode == .barrier && point.stores.count == (engines ? 6 : 4) && !point.hasStoresOutside, "\(point.remarks)"
      )
      #expect(point.pause > .zero && point.pause < .seconds(20))
    }
    #expect(
      outcome.naiveBroken > 0 && outcome.naiveHealthy == (engines ? 7 : 5), "green health checks, and broken links")
    #expect(outcome.broken == 0)
    #expect(outcome.restore.rejected.contains { $0.why.contains("ledger-data") }, "the damaged point is refused")
    #expect(outcome.restore.services.count == (engines ? 7 : 5))
    #expect(outcome.evidenceVerified && outcome.tampering.contains("record"))
    #expect(outcome.transfersAfter > 0)
    #expect(!Files.exists(directory.file("demo")), "it cleans up after itself")
    #expect(!lines.withLock { $0.joined() }.contains("\u{1B}"), "no escape code without a terminal")
  }
}
