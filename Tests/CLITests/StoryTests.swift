import Core
import IO
import TestSupport
import Testing

@Suite("The command line, where all is well")
struct StoryTests {
  @Test(.timeLimit(.minutes(10)))
  func `init, validate, backup, restore, as the help says`() async throws {
    let site = try await Site()
    try Files.removeTree(site.catalog)
    let made = try await site.salvor("init", "--sqlite", site.ledger, is: 0)
    #expect(made.out == "")
    #expect(made.err.contains("salvor-password") && made.err.contains("salvor backup"))
    try await site.refuses("init", status: 6, code: "USAGE-301", saying: ["--file"])
    let valid = try await site.salvor("validate", "-o", "json", is: 0)
    #expect(valid.json?["valid"]?.bool == true)
    try await site.salvor("backup", "-q", is: 0)
    try await site.sql("DELETE FROM entries;")
    let restored = try await site.salvor("restore", "--yes", "-q", is: 0)
    #expect(restored.err == "")
    #expect(try await site.entries() == Site.captured)
  }

  @Test(.timeLimit(.minutes(10)))
  func `graph and schema print what they say`() async throws {
    let site = try await Site()
    let tree = try await site.salvor("graph", is: 0)
    #expect(tree.out.contains("ledger") && tree.out.contains("statement-files"))
    #expect(try await site.salvor("graph", "--format", "dot", is: 0).out.hasPrefix("digraph"))
    #expect(try await site.salvor("graph", "--format", "mermaid", is: 0).out.hasPrefix("graph"))
    #expect(try await site.salvor("graph", "--format", "json", is: 0).json != nil)
    #expect(try await site.salvor("schema", is: 0).json?["$schema"] != nil)
    let completion = try await site.salvor("completion", "bash", is: 0)
    #expect(try await site.run("bash", "-n", "-", input: completion.out) == "")
    let version = try await site.salvor("--version", is: 0)
    #expect(version.err == "" && version.out.contains("."))
  }

  @Test(.timeLimit(.minutes(10)))
  func `from backup to release, with the state a rollback puts back byte for byte`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger =
        Site.daemon("ledger", in: home) + """
            validators:
              - {name: has-entries, sql: "SELECT count(*) FROM entries", equals: "3"}
          """
      options.statements = Site.daemon("statements", in: home)
      return options
    }
    // Backup, in every form; a dry run takes nothing.
    let dry = try await site.salvor("backup", "--dry-run", "-o", "json", is: 0)
    #expect(dry.json?.array?.count == 1)
    #expect(try await site.salvor("points", "-o", "json", is: 0).json?.array?.isEmpty == true)
    let table = try await site.salvor("backup", is: 0)
    #expect(table.out.contains("ledger-db") && table.out.contains("barrier"))
    let json = try await site.salvor("backup", "-o", "json", is: 0)
    #expect(json.json?.array?.first?["stores"]?["ledger-db"] != nil)
    let yaml = try await site.salvor("backup", "bank", "--output", "yaml", is: 0)
    #expect(yaml.out.hasPrefix("- ") && yaml.out.contains("ledger-db:"))
    for ran in [table, json, yaml] { #expect(!ran.out.contains("\u{1B}") && !ran.err.contains("\u{1B}")) }

    let listed = try await site.salvor("points", is: 0)
    #expect(listed.out.split(separator: "\n").count == 4)
    let id = try await site.newestPoint()
    #expect(try await site.salvor("points", id, is: 0).out.contains("statement-files"))
    #expect(try await site.salvor("verify", "--all", "-o", "json", is: 0).json?.array?.count == 6)
    let plan = try await site.salvor("plan", "restore", "-o", "json", is: 0)
    #expect(plan.json?["pointID"]?.string == id)
    let pristine = try await site.fingerprint()
    #expect(try await site.salvor("restore", "--dry-run", is: 0).out.contains("critical path"))
    #expect(try await site.fingerprint() == pristine)

    // Consent is asked for, and there is nobody to ask.
    try await site.damage()
    let damaged = try await site.fingerprint()
    try await site.refuses("restore", status: 6, code: "USAGE-201", saying: ["--yes"])
    #expect(try await site.salvor("runs", "-o", "json", is: 0).json?.array?.isEmpty == true)

    let restored = try await site.salvor("restore", "--yes", "-o", "json", is: 0)
    #expect(restored.json?["state"]?.string == "succeeded", "\(restored)")
    #expect(try await site.entries() == Site.captured)
    #expect(try Files.read("\(site.statements)/e2.txt") == Array("e2\n".utf8))
    #expect(site.pids().count == 2)

    // Back to the damage, byte for byte; and again to the point.
    let rolledBack = try await site.salvor("run", "rollback", "latest", "--yes", "-o", "json", is: 0)
    #expect(rolledBack.json?["state"]?.string == "rolledBack", "\(rolledBack)")
    #expect(try await site.fingerprint() == damaged)
    #expect(site.pids().isEmpty, "nothing ran before")
    try await site.refuses("run", "release", "nosuchrun", "--yes", status: 2, code: "RUN-201", saying: ["salvor runs"])
    let again = try await site.salvor("restore", "--yes", is: 0)
    #expect(again.out.contains("succeeded") && again.out.contains("evidence "))
    #expect(try await site.entries() == Site.captured)

    let shown = try await site.salvor("run", "show", "latest", "-o", "json", is: 0)
    #expect(shown.json?["steps"]?.array?.allSatisfy { $0["state"]?.string == "succeeded" } == true, "\(shown)")
    try await site.salvor("run", "show", "latest", is: 0)
    let released = try await site.salvor("run", "release", "latest", "--yes", "-o", "json", is: 0)
    #expect(released.json?.array?.count == 2)
    let first = try #require(rolledBack.json?["run"]?.string)
    #expect(rolledBack.json?["run"] != nil && again.out.contains("salvor run release "))
    try await site.salvor("run", "release", first, "--yes", is: 0)
    let kept = try await site.run("find", "live", "-name", ".salvor-*")
    #expect(kept == "", "what was kept is gone: \(kept)")
    let late = try await site.salvor("run", "rollback", "latest", "--yes", is: 6)
    #expect(late.err.contains("RUN-102"), "\(late)")
    let runs = try await site.salvor("runs", "-o", "json", is: 0)
    #expect(runs.json?.array?.count == 2)
    try await site.salvor("runs", is: 0)

    try await evidence(of: site)
  }

  /// As signed: fine. With one byte changed: exit status 4, and the record is named.
  private func evidence(of site: Site) async throws {
    let folder = site.state + "/evidence"
    let name = try #require(
      try Files.names(in: folder).map(\.lossyText).first { $0.hasPrefix("recovery-") && $0.contains("succeeded") })
    let path = "\(folder)/\(name)"
    #expect(try await site.salvor("evidence", "verify", path, "-o", "json", is: 0).json?["records"]?.integer ?? 0 > 5)
    let key = try await site.salvor("evidence", "key", is: 0)
    try site.write(site.home.file("other.pub"), key.out)
    try await site.salvor("evidence", "verify", path, "--key", site.home.file("other.pub"), is: 0)
    let text = String(decoding: try Files.read(path), as: UTF8.self)
    #expect(text.contains("ledger-db"))
    try site.write(site.home.file("changed.json"), text.replacing("\"title\":\"restore", with: "\"title\":\"Restore"))
    let changed = try await site.salvor("evidence", "verify", site.home.file("changed.json"), is: 4)
    #expect(changed.out == "")
    #expect(changed.err.contains("EVIDENCE-") && changed.err.contains("run"), "\(changed)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `deleted data comes back, and with it the directories`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try Files.removeTree(site.statements)
    try Files.removeTree(site.ledger)
    try await site.salvor("restore", "--yes", is: 0)
    #expect(try await site.entries() == Site.captured)
    #expect(try Files.names(in: site.statements).count == 4)
    try await site.salvor("run", "rollback", "latest", "--yes", is: 0)
    #expect(!Files.exists(site.statements) && !Files.exists(site.ledger), "as it was: not there")
  }

  @Test(.timeLimit(.minutes(10)))
  func `everything is lost but the repository and its password`() async throws {
    let site = try await Site()
    try await site.salvor("backup", is: 0)
    try Files.rename(site.vault, to: site.home.file("usb"))
    try Files.rename(site.password, to: site.home.file("note"))
    for path in [site.state, site.work] { try Files.removeTree(path) }
    try Files.removeTree(site.live)
    try Files.createDirectory(site.work)
    try Files.createDirectory(site.live)
    try await site.refuses(
      "init", "--from", "local:/nowhere", "--password-file", site.home.file("note"), status: 1, code: "VAULT-102")
    try await site.refuses(
      "init", "--from", site.home.file("usb"), "--password-file", site.home.file("none"), status: 1, code: "SECRET-101")
    let back = try await site.salvor(
      "init", "--from", "local:../usb", "--password-file", site.home.file("note"), is: 0)
    #expect(back.err.contains("salvor restore"), "\(back)")
    #expect(try Files.names(in: site.work).map(\.lossyText) == ["salvor"])
    try await site.refuses(
      "init", "--from", site.home.file("usb"), "--password-file", site.home.file("note"), status: 6, code: "USAGE-301")
    try await site.salvor("validate", is: 0)
    // Where a store's directory is to be is not guessed: a disk may not be mounted yet.
    let early = try await site.salvor("restore", "--yes", is: 6)
    #expect(early.out.contains("there is no directory \(site.live)/ledger"), "\(early)")
    try Files.createDirectory("\(site.live)/ledger")
    try await site.salvor("restore", "--yes", is: 0)
    #expect(try await site.entries() == Site.captured)
    #expect(try Files.read("\(site.statements)/e3.txt") == Array("e3\n".utf8))
  }

  @Test(.timeLimit(.minutes(10)))
  func `one service comes back alone, and nothing else is touched`() async throws {
    let site = try await Site { home in
      var options = Site.Options()
      options.ledger = Site.daemon("ledger", in: home)
      return options
    }
    try await site.salvor("backup", is: 0)
    try await site.damage()
    let before = try Files.read("\(site.statements)/e1.txt")
    try await site.refuses(
      "restore", "ledger", "--yes", "-q", status: 6, code: "PLAN-106",
      saying: ["every-entry-has-its-statement", "statement-files", "--allow-broken-links"])
    let plan = try await site.salvor("plan", "restore", "ledger", is: 6)
    #expect(plan.out.contains("every-entry-has-its-statement"))
    let restored = try await site.salvor("restore", "ledger", "--allow-broken-links", "--yes", is: 0)
    #expect(restored.err.contains("every-entry-has-its-statement"), "it is warned of: \(restored)")
    #expect(try await site.entries() == Site.captured)
    #expect(try Files.read("\(site.statements)/e1.txt") == before)
    #expect(!Files.exists("\(site.statements)/e2.txt"))
    let kept = try await site.run("find", "live", "-maxdepth", "1", "-name", ".salvor-*")
    #expect(kept == "", "nothing was laid beside the statements: \(kept)")
  }
}
