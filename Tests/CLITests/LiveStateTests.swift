import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("The command line, where live state gets in the way")
struct LiveStateTests {
  @Test(.timeLimit(.minutes(10)))
  func `no room for the restore: nothing is changed`() async throws {
    let site = try await Site()
    try site.write("\(site.statements)/noise", Hex.encode(SystemRandomness().bytes(1 << 20)))
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let disk = try await Disk(site.live, kibibytes: 3000, keeping: true)
    defer { disk.unmount() }
    let before = try await site.fingerprint()
    let ran = try await site.salvor("restore", "--yes", is: 6)
    #expect(ran.out.contains("RESTORE-102") && ran.out.contains("room"), "\(ran)")
    #expect(try await site.fingerprint() == before)
    #expect(try await site.run("find", "live", "-name", ".salvor-*") == "", "nothing is left beside it")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a read-only target: nothing is changed`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try await site.damage()
    try await site.run("sh", "-ec", "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\"", "sh", site.live)
    defer { umount2(site.live, Int32(MNT_DETACH)) }
    let before = try await site.fingerprint()
    let ran = try await site.salvor("restore", "--yes", is: 6)
    #expect(ran.out.contains("read-only"), "\(ran)")
    #expect(try await site.fingerprint() == before)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a long transaction: no point, and the message says who`() async throws {
    let site = try await Site { _ in
      var options = Site.Options()
      options.holdBudget = "300ms"
      return options
    }
    let writer = try await site.waitingWriter()
    defer { writer.signal(SIGKILL) }
    let ran = try await site.salvor("backup", is: 1)
    #expect(ran.err.contains("POINT-101") && ran.err.contains("ledger-db"), "\(ran)")
    #expect(ran.err.contains("next:") && ran.err.contains("holdBudget"), "\(ran)")
    #expect(ran.out == "")
    #expect(try await site.salvor("points", "-o", "json", is: 0).json?.array?.isEmpty == true)
    // Held by nobody, on purpose: a point that says so, and an exit status that does too.
    let fuzzy = try await site.salvor("backup", "--no-hold", "-o", "json")
    #expect(fuzzy.json?.array?.first?["mode"]?.string == "fuzzy", "\(fuzzy)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a validator that fails: the old state is back, and what ran runs`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger = Site.daemon("ledger", in: home)
      options.statements =
        Site.daemon("statements", in: home) + """
            validators:
              - {name: has-a-fourth, exec: [test, -e, "\(home)/live/statements/e4.txt"]}
          """
      return options
    }
    try await site.salvor("backup", is: 0)
    try await site.add("e4", amount: 400)
    try await site.salvor("backup", is: 0)
    let point = try await site.newestPoint()
    try await site.salvor("restore", "--yes", is: 0)
    let before = try await site.fingerprint()
    let running = site.pids()
    #expect(running.count == 2)
    let first = try #require(try await site.salvor("points", "-o", "json", is: 0).json?.array?.first?["id"]?.string)
    #expect(first != point)
    let ran = try await site.salvor("restore", "--point", first, "--yes", "-o", "json", is: 4)
    #expect(ran.json?["state"]?.string == "rolledBack", "\(ran)")
    #expect(ran.json?["failure"]?["summary"]?.string?.contains("has-a-fourth") == true, "\(ran)")
    #expect(try await site.fingerprint() == before)
    #expect(site.pids().count == 2 && Set(site.pids()).isDisjoint(with: running), "they were stopped, and run again")
    // Readable as text too.
    let text = try await site.salvor("restore", "--point", first, "--yes", is: 4)
    #expect(text.out.contains("has-a-fourth") && text.out.contains("rolledBack"), "\(text)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a service that never gets ready: rolled back by itself`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger =
        Site.daemon("ledger", in: home) + """
            ready:
              - {exec: [test, -e, /nonexistent/ready], retries: 3, interval: 50ms}
          """
      return options
    }
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let before = try await site.fingerprint()
    let ran = try await site.salvor("restore", "--yes", is: 4)
    #expect(ran.out.contains("RESTORE-301") && ran.out.contains("ledger is not ready"), "\(ran)")
    #expect(try await site.fingerprint() == before)
    #expect(site.pids().isEmpty, "it did not run before")
  }

  @Test(.timeLimit(.minutes(10)))
  func `an objective that is missed is a status of its own`() async throws {
    let site = try await Site { _ in
      var options = Site.Options()
      options.ledger = "  objectives: {rpo: 1h, rto: 1ms}\n"
      options.statements = "  objectives: {rpo: 1h, rto: 1h}\n"
      return options
    }
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let ran = try await site.salvor("restore", "--yes", is: 5)
    #expect(ran.out.contains("missed") && ran.out.contains("succeeded"), "\(ran)")
    #expect(try await site.entries() == Site.captured)
  }

  @Test(.timeLimit(.minutes(10)))
  func `two restores come off in the opposite order only`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let damaged = try await site.fingerprint()
    let first = try await site.salvor("restore", "--yes", "-q", "-o", "json", is: 0)
    let id = try #require(first.json?["run"]?.string)
    let second = try await site.salvor("restore", "--yes", "-q", "-o", "json", is: 0)
    let newer = try #require(second.json?["run"]?.string)
    try await site.refuses("run", "rollback", id, "--yes", "-q", status: 6, code: "RUN-206", saying: [newer])
    try await site.salvor("run", "rollback", newer, "--yes", "-q", is: 0)
    try await site.salvor("run", "rollback", id, "--yes", "-q", is: 0)
    #expect(try await site.fingerprint() == damaged)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a backup that is interrupted leaves no point, no lock and no waiting writer`() async throws {
    let site = try await Site { _ in
      var options = Site.Options()
      options.holdBudget = "60s"
      return options
    }
    let writer = try await site.waitingWriter()
    let backup = try site.start(["backup"])
    try await site.until("the backup is under way") { try !Files.names(in: site.vault + "/locks").isEmpty }
    try await SystemTime().sleep(for: .milliseconds(300))
    backup.signal(SIGTERM)
    let ran = await backup.wait()
    #expect(ran.status == 130, "\(ran)")
    #expect(ran.out == "")
    writer.signal(SIGKILL)
    #expect(try Files.names(in: site.vault + "/locks").isEmpty)
    #expect(try Files.names(in: site.state + "/scratch").isEmpty)
    #expect(try await site.salvor("points", "-o", "json", is: 0).json?.array?.isEmpty == true)
    try await site.salvor("backup", is: 0)
  }

  @Test(.timeLimit(.minutes(10)))
  func `interrupted in the middle, resumed to the end`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger =
        Site.daemon("ledger", in: home) + """
            ready:
              - {exec: [test, -e, "\(home)/go"], retries: 1000, interval: 50ms}
          """
      return options
    }
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let restore = try site.start(["restore", "--yes"])
    try await site.until("past the swap, waiting at the gate") {
      restore.text.contains("start-service/ledger") && !site.pids().isEmpty
    }
    restore.signal(SIGINT)
    let ran = await restore.wait()
    #expect(ran.status == 130, "\(ran)")
    #expect(ran.err.contains("RUN-101") && ran.err.contains("salvor run resume"), "\(ran)")
    #expect(try Files.names(in: site.vault + "/locks").isEmpty)
    // Nobody else may begin on the same stores.
    try await site.refuses("restore", "--yes", "-q", status: 6, code: "RUN-205", saying: ["salvor run resume"])
    let listed = try await site.salvor("runs", "-o", "json", is: 0)
    #expect(listed.json?.array?.count == 1, "\(listed)")
    try site.write(site.home.file("go"), "")
    let resumed = try await site.salvor("run", "resume", "latest", "-o", "json", is: 0)
    #expect(resumed.json?["state"]?.string == "succeeded", "\(resumed)")
    #expect(try await site.entries() == Site.captured)
    #expect(site.pids().count == 1)
    try await site.salvor("run", "rollback", "latest", "--yes", is: 0)
    #expect(try await site.entries() == ["e2|0"])
  }
}

extension Site {
  func until(_ what: String, _ holds: () async throws -> Bool) async throws {
    let time = SystemTime()
    let start = time.monotonicNanoseconds()
    while try await !holds() {
      try #require(time.monotonicNanoseconds() - start < 300_000_000_000, "\(what), within five minutes")
      try await time.sleep(for: .milliseconds(20))
    }
  }

  /// A program that has the ledger's lock for five minutes. It waits for the lock: whoever looks whether it is taken takes it
  /// for a moment.
  func waitingWriter() async throws -> Program {
    let writer = try Program(
      ["sqlite3", ledger, "-cmd", ".timeout 60000", "-cmd", "BEGIN IMMEDIATE;", "-cmd", ".shell sleep 300"], in: work,
      environment: ["PATH": "/usr/bin:/bin"])
    try await until("the writer has the lock") { try await !canWrite() }
    return writer
  }

  func canWrite() async throws -> Bool {
    let ran = try await Program(
      ["sqlite3", ledger, "BEGIN IMMEDIATE; ROLLBACK;"], in: work, environment: ["PATH": "/usr/bin:/bin"]
    ).wait()
    return ran.status == 0
  }
}
