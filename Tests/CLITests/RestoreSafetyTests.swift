import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("The command line, where a restore could do harm")
struct RestoreSafetyTests {
  /// A service that is ready once `<home>/go` exists.
  private static func gated(_ name: String, in home: String, retries: Int = 1000) -> String {
    Site.daemon(name, in: home) + """
        ready:
          - {exec: [test, -e, "\(home)/go"], retries: \(retries), interval: 50ms}

      """
  }

  private func pastSwap(_ restore: Program, of site: Site) async throws {
    try await site.until("past the swap, waiting at the gate") {
      restore.text.contains("start-service/ledger") && !site.pids().isEmpty
    }
  }

  // MARK: What is put back

  @Test(.timeLimit(.minutes(10)))
  func `a kept state that is gone is no rollback`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try await site.damage()
    try await site.salvor("restore", "--yes", is: 0)
    let restored = try await site.fingerprint()
    try await site.run("sh", "-ec", "mkdir aside; mv live/.salvor-statements-* aside/")
    let ran = try await site.salvor("run", "rollback", "latest", "--yes", "-o", "json", is: 1)
    #expect(ran.json?["state"]?.string == "rollbackFailed", "\(ran)")
    #expect(ran.json?["failure"]?["code"]?.string == "DRIVER-608", "\(ran)")
    // Once it is back, the rollback gets through.
    try await site.run("sh", "-ec", "mv aside/.salvor-statements-* live/")
    try await site.salvor("run", "rollback", "latest", "--yes", is: 0)
    #expect(try await site.fingerprint() != restored)
    #expect(try await site.entries() == ["e2|0"])
  }

  @Test(.timeLimit(.minutes(10)))
  func `a rollback needs no repository`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let damaged = try await site.fingerprint()
    try await site.salvor("restore", "--yes", is: 0)
    try Files.removeTree(site.vault)
    try Files.removeTree(site.password)
    try await site.salvor("run", "rollback", "latest", "--yes", is: 0)
    #expect(try await site.fingerprint() == damaged)
  }

  @Test(.timeLimit(.minutes(10)))
  func `what was begun to be released is never rolled back to`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try await site.damage()
    try await site.salvor("restore", "--yes", is: 0)
    let restored = try await site.fingerprint()
    // Something in the kept tree can't be removed: the release fails half-way.
    let kept = try await site.run("sh", "-ec", "echo live/.salvor-statements-*/kept")
    let directory = site.home.file(String(kept.prefix { $0 != "\n" })) + "/stuck"
    let moved = directory.replacing("/kept/stuck", with: ".discarded/kept/stuck")
    try Files.createDirectory(directory)
    try await site.run("mount", "--bind", directory, directory)
    defer { for path in [directory, moved] { umount2(path, Int32(MNT_DETACH)) } }
    let ran = try await site.salvor("run", "release", "latest", "--yes", is: 1)
    #expect(ran.err.contains("stuck"), "\(ran)")
    try await site.refuses("run", "rollback", "latest", "--yes", "-q", status: 6, code: "RUN-102", saying: ["released"])
    #expect(try await site.fingerprint() == restored)
    for path in [directory, moved] { umount2(path, Int32(MNT_DETACH)) }
    try await site.salvor("run", "release", "latest", "--yes", is: 0)
    #expect(try await site.run("find", "live", "-name", ".salvor-*") == "")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a service that was ready must be ready again after a rollback`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger =
        Self.gated("ledger", in: home, retries: 3) + """
            validators:
              - {name: spoils, exec: [sh, -c, "test -e \(home)/good || { rm -f \(home)/go; exit 1; }"]}
          """
      return options
    }
    for name in ["go", "good"] { try site.write(site.home.file(name), "") }
    try await site.salvor("backup", is: 0)
    try await site.salvor("restore", "--yes", is: 0)
    #expect(site.pids().count == 1, "it runs, and is ready")
    let before = try await site.fingerprint()
    try Files.removeTree(site.home.file("good"))
    let ran = try await site.salvor("restore", "--yes", "-o", "json", is: 1)
    #expect(ran.json?["state"]?.string == "rollbackFailed", "it was ready, and isn't: \(ran)")
    #expect(ran.json?["failure"]?["summary"]?.string?.contains("ledger is not ready") == true, "\(ran)")
    #expect(try await site.fingerprint() == before, "the old state is back for all that")
    try site.write(site.home.file("go"), "")
    let again = try await site.salvor("run", "rollback", "latest", "--yes", "-o", "json", is: 0)
    #expect(again.json?["state"]?.string == "rolledBack", "\(again)")
    // One that was not ready before is as it was.
    try Files.removeTree(site.home.file("go"))
    let third = try await site.salvor("restore", "--yes", "-o", "json", is: 4)
    #expect(third.json?["state"]?.string == "rolledBack", "\(third)")
    #expect(site.pids().count == 1)
  }

  // MARK: What is said

  @Test(.timeLimit(.minutes(10)))
  func `content that was not compared is said so, everywhere`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let whole = try await site.salvor("restore", "--yes", is: 0)
    #expect(!whole.out.contains("not compared"))
    try await site.salvor("backup", "--no-digest", is: 0)
    let text = try await site.salvor("restore", "--yes", is: 0)
    #expect(text.out.contains("not compared  ledger-db"), "\(text)")
    #expect(!text.out.contains("not compared  statement-files"), "files are compared by their own digests")
    let json = try await site.salvor("restore", "--yes", "-o", "json", is: 0)
    let comparisons = try #require(json.json?["comparisons"]?.array)
    #expect(comparisons.count == 2)
    let ledger = try #require(comparisons.first { $0["store"]?.string == "ledger-db" })
    let files = try #require(comparisons.first { $0["store"]?.string == "statement-files" })
    #expect(ledger["isCompared"]?.bool == false && files["isCompared"]?.bool == true, "\(json)")
    #expect(files["rows"]?.integer == 5, "three statements, the lock and the directory itself: \(files)")
    let record = try evidence(json)
    let bodies = record.filter { $0["kind"]?.string == "comparison" }
    let verdicts = bodies.map { ($0["subject"]?.string ?? "") + ": " + ($0["body"]?["verdict"]?.string ?? "") }
    #expect(verdicts.sorted() == ["ledger-db: not-compared", "statement-files: equal"])
  }

  @Test(.timeLimit(.minutes(10)))
  func `checks of a step that failed are in the outcome and on record`() async throws {
    let site = try await Site { _ in
      var options = Site.Options()
      options.ledger = """
          validators:
            - {name: holds, exec: ["true"]}
            - {name: has-nine, sql: "SELECT count(*) FROM entries", equals: "9"}
        """
      return options
    }
    try await site.salvor("backup", is: 0)
    let ran = try await site.salvor("restore", "--yes", "-o", "json", is: 4)
    #expect(ran.json?["state"]?.string == "rolledBack", "\(ran)")
    func verdicts(_ list: [JSONValue], _ name: String) -> [String] {
      list.filter { ($0["name"] ?? $0["subject"])?.string?.contains(name) == true }
        .compactMap { ($0["verdict"] ?? $0["body"]?["verdict"])?.string }
    }
    let shown = try #require(ran.json?["checks"]?.array)
    let recorded = try evidence(ran).filter { $0["kind"]?.string == "check" }
    for list in [shown, recorded] {
      #expect(verdicts(list, "has-nine") == ["failed"], "\(ran)")
      #expect(verdicts(list, "holds") == ["passed"], "\(ran)")
    }
  }

  private func evidence(_ ran: Ran) throws -> [JSONValue] {
    let path = try #require(ran.json?["evidence"]?.string)
    let file = try CanonicalJSON.decode(JSONValue.self, from: try Files.read(path))
    return try #require(file["records"]?.array)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a repository that gives no answer is no damaged point`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    let before = try await site.fingerprint()
    let data = site.vault + "/data"
    try Files.rename(data, to: site.vault + "/away")
    // A link to itself: the store fails, and says nothing of what is there.
    try #require(symlink("data", data) == 0)
    for words in [["verify"], ["restore", "--yes", "-q"]] {
      let ran = try await site.start(words).wait()
      #expect(ran.status == 1, "\(ran)")
      #expect(ran.err.contains("error STORE-") && !ran.err.contains("damaged"), "\(ran)")
    }
    try Files.removeTree(data)
    try Files.rename(site.vault + "/away", to: data)
    try await site.salvor("verify", is: 0)
    // A byte that changed in what a store's copy is made of is damage.
    let packs = try await site.run("find", "vault/data", "-type", "f").split(separator: "\n")
    var status: Int32 = 0
    for pack in packs where status != 4 {
      let path = site.home.file(String(pack))
      let bytes = try Files.read(path)
      var hurt = bytes
      for index in hurt.indices.prefix(200) { hurt[index] ^= 0xff }
      try Files.replace(path, with: hurt)
      status = try await site.salvor("verify").status
      if status != 4 { try Files.replace(path, with: bytes) }
    }
    #expect(status == 4, "\(packs.count) packs")
    try await site.refuses("restore", "--yes", "-q", status: 1, code: "POINT-203", saying: ["damaged"])
    #expect(try await site.fingerprint() == before)
  }

  // MARK: Who else is at work

  @Test(.timeLimit(.minutes(10)))
  func `no backup of what a restore has half put in place, and no lock on what it reads no more`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger = Self.gated("ledger", in: home)
      return options
    }
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let restore = try site.start(["restore", "--yes"])
    try await pastSwap(restore, of: site)
    // Whatever becomes of the repository now is none of this run's business.
    try await site.until("the repository's lock is given back") { try Files.names(in: site.vault + "/locks").isEmpty }
    let during = try await site.salvor("backup", is: 6)
    #expect(during.err.contains("RUN-205") && during.err.contains("ledger-db"), "\(during)")
    restore.signal(SIGKILL)
    _ = await restore.wait()
    let after = try await site.salvor("backup", is: 6)
    #expect(after.err.contains("RUN-205") && after.err.contains("salvor run resume"), "half done: \(after)")
    #expect(try await site.salvor("points", "-o", "json", is: 0).json?.array?.count == 1)
    try Files.rename(site.vault, to: site.home.file("away"))
    try site.write(site.home.file("go"), "")
    try await site.salvor("run", "resume", "latest", is: 0)
    try Files.rename(site.home.file("away"), to: site.vault)
    #expect(try await site.entries() == Site.captured)
    try await site.salvor("backup", is: 0)
  }

  @Test(.timeLimit(.minutes(10)))
  func `no restore of what a backup reads; a killed backup keeps nobody waiting`() async throws {
    let site = try await Site { _ in
      var options = Site.Options()
      options.holdBudget = "60s"
      return options
    }
    try await site.salvor("backup", is: 0)
    let writer = try await site.waitingWriter()
    let backup = try site.start(["backup"])
    try await site.until("the backup is under way") { try !Files.names(in: site.vault + "/locks").isEmpty }
    let refused = try await site.salvor("restore", "--yes", "-q", is: 6)
    #expect(refused.err.contains("JOURNAL-206") && refused.err.contains("ledger-db"), "\(refused)")
    #expect(try await site.salvor("runs", "-o", "json", is: 0).json?.array?.isEmpty == true, "nothing was begun")
    backup.signal(SIGKILL)
    _ = await backup.wait()
    writer.signal(SIGKILL)
    _ = await writer.wait()
    try await site.damage()
    try await site.salvor("restore", "--yes", "-q", is: 0)
    #expect(try await site.entries() == Site.captured)
  }

  @Test(.timeLimit(.minutes(10)))
  func `files that somebody has open are not swapped away under them`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let before = try await site.fingerprint()
    let writer = try Program(
      ["sh", "-c", "exec sleep 600 3>>\"$0\"/e1.txt", site.statements], in: site.work,
      environment: ["PATH": "/usr/bin:/bin"])
    let listing = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c \(site.statements)/e1.txt || true"
    try await site.until("the file is open") { try await site.run("sh", "-c", listing) != "0\n" }
    let ran = try await site.salvor("restore", "--yes", "-o", "json", is: 1)
    #expect(ran.json?["state"]?.string == "rolledBack", "\(ran)")
    #expect(ran.json?["failure"]?["code"]?.string == "DRIVER-504", "\(ran)")
    #expect(ran.json?["failure"]?["summary"]?.string?.contains("sleep (process ") == true, "\(ran)")
    #expect(try await site.fingerprint() == before)
    writer.signal(SIGKILL)
    _ = await writer.wait()
    try await site.salvor("restore", "--yes", is: 0)
    #expect(try await site.entries() == Site.captured)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a stop command that says it has stopped what still answers is not believed`() async throws {
    let port = try freePort()
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger = """
          start: [\(Self.server(port, in: home).joined(separator: ", "))]
          stop: [sh, "\(home)/stop"]
          ready:
            - {tcp: "127.0.0.1:\(port)", retries: 200, interval: 50ms}

        """
      return options
    }
    defer {
      if let bytes = try? Files.read(site.home.file("server.pid")),
        let pid = pid_t(String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self))
      {
        kill(pid, SIGKILL)
      }
    }
    try site.write(site.home.file("stop"), "true\n")
    try await site.salvor("backup", is: 0)
    try await site.salvor("restore", "--yes", is: 0)
    try await site.damage()
    let before = try await site.fingerprint()
    let ran = try await site.salvor("restore", "--yes", "-o", "json", is: 1)
    #expect(ran.json?["failure"]?["summary"]?.string?.contains("still passes") == true, "\(ran)")
    #expect(try await site.fingerprint() == before, "nothing was swapped")
    try site.write(site.home.file("stop"), "redis-cli -p \(port) shutdown nosave || true\n")
    try await site.salvor("restore", "--yes", is: 0)
    #expect(try await site.entries() == Site.captured)
  }

  /// A server that listens, and goes on when its start command has ended.
  private static func server(_ port: UInt16, in home: String) -> [String] {
    [
      "redis-server", "--bind", "127.0.0.1", "--port", "\"\(port)\"", "--daemonize", "\"yes\"", "--pidfile",
      "\(home)/server.pid", "--dir", home, "--save", "\"\"",
    ]
  }

  // MARK: Who gets to see what

  @Test(.timeLimit(.minutes(10)))
  func `what Salvor starts sees what was declared for it, and none of Salvor's own secrets`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger = """
          start:
            command: [sh, -c, "echo $$ > \(home)/ledger.pid; env > \(home)/seen; exec sleep 600"]
            env: {DECLARED: yes-it-is}

        """
      return options
    }
    site.environment["SALVOR_TEST_TOKEN"] = "hunter2"
    site.environment["AWS_SECRET_ACCESS_KEY"] = "hunter3"
    try await site.salvor("backup", is: 0)
    try await site.salvor("restore", "--yes", is: 0)
    try await site.until("it has started") { Files.exists(site.home.file("seen")) }
    let seen = String(decoding: try Files.read(site.home.file("seen")), as: UTF8.self)
    #expect(!seen.contains("hunter"), "\(seen)")
    #expect(seen.contains("DECLARED=yes-it-is"))
    let names = Set(seen.split(separator: "\n").compactMap { $0.split(separator: "=").first.map(String.init) })
    // What a program needs, and what the shell adds by itself.
    let usual: Set = [
      "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PWD", "SHLVL", "_", "OLDPWD",
    ]
    #expect(names.subtracting(usual) == ["DECLARED"], "\(names)")
  }
}
