import Catalog
import Core
import Drills
import IO
import Recovery
import Runtime
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Drills on a bank of real engines, which goes on running beside.
@Suite("Drills", .serialized) struct DrillRoomTests {
  private static let week = Duration.seconds(7 * 86_400)

  /// Weeks of drills in compressed time: every level, every fault, and what is left of the proof afterwards.
  @Test(.timeLimit(.minutes(8)))
  func `a programme of drills over the bank notices every fault for its own reason`() async throws {
    let every = "  schedule: every 7d\n  proves: 20d\n"
    let stale =
      "{kind: stale-schema, store: accounts-data, run: [sqlite3, ROOT/bank/data/accounts/accounts.db, "
      + "\"ALTER TABLE accounts RENAME TO old_accounts\"]}"
    let drills =
      DrillBank.document("read", every + "  level: tabletop")
      + DrillBank.document("copies", every + "  level: store\n  stores: [ledger-data, statements-data]")
      + DrillBank.document("one", every + "  level: service\n  services: [accounts]\n  point: oldest")
      + DrillBank.document("gone", every + "  level: region")
      + DrillBank.document(
        "whole",
        every + "  level: system\n  point: random\n  window: 3d\n  faults:\n    - \(stale)"
          + [
            "flipped-byte", "lost-object", "denied-permission", "revoked-key", "wrong-clock", "slow-store", "full-disk",
          ]
          .map { "\n    - \($0)" }.joined() + "\n    - {kind: missing-log, store: accounts-data}")
    try await DrillBank.with(engines: true, basePort: 18_300, drills: drills) { bank in
      try await bank.keepLog(of: "accounts-data")
      func run(_ name: DrillName, _ fault: Drill.Fault? = nil) async throws -> DrillRecord {
        try await bank.runner.run(DrillRunner.Request(bank.drill(name), fault: fault))
      }
      // Nothing was ever measured: nobody can say how long it takes, and nobody says so.
      #expect(try await run("read").verdict == .couldNotRun)
      for name: DrillName in ["copies", "one", "gone", "whole"] {
        let record = try await run(name)
        #expect(record.verdict == .passed, "\(name): \(record.findings)")
        #expect(record.attempts.count >= 5 && record.attempts.allSatisfy { !$0.isReached }, "\(record.attempts)")
        #expect(record.compared > 0)
        if record.level >= .system { #expect(record.results.count == 7 && record.results.allSatisfy(\.isBack)) }
        bank.time.pass(.seconds(3600))
      }
      #expect(try await run("read").verdict == .passed, "now it is known")
      let faults = bank.drill("whole").faults
      #expect(Set(faults.map(\.kind)) == Set(Drill.FaultKind.allCases))
      for fault in faults {
        let record = try await run("whole", fault)
        #expect(record.control?.outcome == .caught, "\(fault.kind): \(record)")
        #expect(record.verdict == .passed)
      }
      let records = try await bank.history.list()
      let score = DrillScore(records)
      #expect(score.planted == Drill.FaultKind.allCases.count && score.share == 1, "\(score)")
      #expect(try await bank.history.kept(in: "vault").count == records.count, "the repository has them too")
      let view = try await Objectives(bank.system, journal: bank.journal).view()
      #expect(
        view.services.allSatisfy { $0.proof == .proven && $0.rtoVerdict == .met && $0.rtoPredictedSeconds != nil })
      #expect(view.domains.count == 3 && view.domains.allSatisfy { $0.rtoVerdict == .met })
      // The bank went on all the while.
      #expect(try await bank.bank.transfers(5, seed: 9, record: bank.root + "/after.txt") == 5)
      bank.time.pass(.seconds(3 * 7 * 86_400))
      let later = try await Objectives(bank.system, journal: bank.journal).view()
      #expect(later.services.allSatisfy { $0.proof == .unproven && $0.rtoVerdict == .unknown }, "too long ago")
      let left = Files.isDirectory(bank.state + "/drills") ? try Files.names(in: bank.state + "/drills") : []
      #expect(left.isEmpty, "\(left)")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a drill that tries to reach production fails, and has tried`() async throws {
    let listener = try Listener()
    let drills =
      DrillBank.document("whole", "  level: system")
        + """
        apiVersion: salvor.dev/v1
        kind: Service
        metadata: {name: outside}
        spec:
          ready: [{tcp: "127.0.0.1:\(listener.port)", retries: 1, interval: 50ms, timeout: 1s}]

        """
    try await DrillBank.with(engines: false, basePort: 18_400, drills: drills) { bank in
      try await bank.point()
      let before = listener.accepted
      #expect(before > 0 || Listener.reaches(listener.port), "from here it can be reached")
      let reached = listener.accepted
      let record = try await bank.runner.run(DrillRunner.Request(bank.drill("whole")))
      let attempt = try #require(record.attempts.first { $0.door == "127.0.0.1:\(listener.port)" })
      #expect(!attempt.isReached && attempt.result == "Connection refused")
      #expect(record.verdict == .failed)
      #expect(
        record.findings.contains { $0.code == "RESTORE-301" && $0.summary.contains("outside") }, "\(record.findings)")
      #expect(listener.accepted == reached, "nobody came")
    }
  }

  /// There is no network inside: what is needed lies there before.
  @Test(.timeLimit(.minutes(10))) func `what lies across a network is fetched first, and that takes its time`()
    async throws
  {
    let drills =
      DrillBank.document("whole", "  level: system") + DrillBank.document("gone", "  level: region")
    try await DrillBank.with(engines: false, basePort: 18_800, drills: drills, remote: true) { bank in
      try await bank.point()
      for name: DrillName in ["whole", "gone"] {
        let record = try await bank.runner.run(DrillRunner.Request(bank.drill(name)))
        #expect(record.verdict == .passed, "\(name): \(record.findings)")
        let fetched = try #require(record.times.fetch)
        #expect(fetched > 0 && record.times.restore ?? 0 > fetched)
        #expect(record.results.count == 5 && record.results.allSatisfy { $0.rtoSeconds ?? 0 > fetched })
      }
      // What it took is part of what is predicted from then on.
      let again = try await bank.runner.run(DrillRunner.Request(bank.drill("whole")))
      #expect(again.verdict == .passed)
      let first = try #require(try await bank.history.list("whole").first?.times.fetch)
      #expect(again.results.allSatisfy { $0.predictedSeconds ?? 0 > first }, "\(again.results)")
      // Damage is found in what was fetched, too.
      let fault = Drill.Fault(kind: .flippedByte)
      let record = try await bank.runner.run(DrillRunner.Request(bank.drill("whole"), fault: fault))
      #expect(record.control?.outcome == .caught, "\(record)")
      #expect(try Files.names(in: bank.state + "/drills").isEmpty)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a drill that is killed leaves nothing`() async throws {
    let drills = DrillBank.document("whole", "  level: system")
    try await DrillBank.with(engines: false, basePort: 18_500, drills: drills) { bank in
      try await bank.point()
      let data = try bank.fingerprint("/bank/data")
      let vault = try bank.fingerprint("/bank-vault")
      let salvor = try CommandRun.product("salvor")
      let state = bank.state
      let process = try PipedProcess(
        [salvor, "drill", "run", "whole", "--catalog", bank.root + "/catalog", "--state", state],
        environment: ["SALVOR_HOST": "test"])
      // Until services of the drill's own run.
      try await waitUntil("the drill is under way") {
        let names = (try? Files.names(in: state + "/drills").map(\.lossyText)) ?? []
        return names.contains { Files.isDirectory("\(state)/drills/\($0)/state/services") }
      }
      #expect(try bank.processes(with: "/drills/drill-") > 0)
      process.kill()
      try await waitUntil("its processes are gone") { try bank.processes(with: "/drills/drill-") == 0 }
      #expect(try !Files.names(in: state + "/drills").isEmpty)
      _ = try await bank.runner.run(DrillRunner.Request(bank.drill("whole")))
      #expect(try Files.names(in: state + "/drills").isEmpty, "the next one cleans up")
      #expect(try bank.fingerprint("/bank/data") == data, "of the bank nothing was touched")
      let after = try bank.fingerprint("/bank-vault")
      #expect(vault.allSatisfy { after[$0.key] == $0.value }, "of the repository neither")
      #expect(after.keys.allSatisfy { !$0.contains("/locks/") })
      // What the one that was not killed wrote: its record, as a snapshot.
      #expect(after.keys.count { $0.contains("/snapshots/") } == vault.keys.count { $0.contains("/snapshots/") } + 1)
    }
  }
}

func waitUntil(_ what: String, _ isSo: () async throws -> Bool) async throws {
  for _ in 0..<1200 {
    if try await isSo() { return }
    try await SystemTime().sleep(for: .milliseconds(50))
  }
  Issue.record("never: \(what)")
}

/// Something of production's that counts who comes.
final class Listener: @unchecked Sendable {
  // Used by one task at a time.
  private let descriptor: Int32
  let port: UInt16
  private var count = 0

  init() throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let (own, size) = (descriptor, length)
    let isListening = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(own, raw, size) == 0 && listen(own, 64) == 0 && getsockname(own, raw, &length) == 0
      }
    }
    guard isListening else { throw SystemFailure("listen", path: "127.0.0.1") }
    port = UInt16(bigEndian: address.sin_port)
  }

  deinit { close(descriptor) }

  /// How many have come.
  var accepted: Int {
    while case let one = accept(descriptor, nil, nil), one >= 0 {
      close(one)
      count += 1
    }
    return count
  }

  static func reaches(_ port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    address.sin_port = port.bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        connect(descriptor, raw, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }
}
