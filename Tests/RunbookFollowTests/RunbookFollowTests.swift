import Core
import IO
import Runbooks
import Runtime
import TestSupport
import Testing

/// A generated runbook is followed literally, command by command, by somebody who knows nothing else.
@Suite("Following a runbook", .serialized)
struct RunbookFollowTests {
  private func withBank(
    engines: Bool = false, _ body: (RunbookBank) async throws -> Void
  ) async throws {
    let bank = try await RunbookBank(engines: engines)
    do { try await body(bank) } catch {
      await bank.close()
      throw error
    }
    await bank.close()
  }

  private let calm = [
    "the first payment", "it is so", "written", "whoever approves says so", "nothing of it runs any more",
  ]

  @Test(.timeLimit(.minutes(10)))
  func `every disk is lost, and the page brings the bank back; then to an older moment`() async throws {
    try await withBank { bank in
      try await bank.work(1)
      let before = try await bank.content()
      let first = try await bank.salvor("backup", "-o", "json", is: 0)
      let point = try #require(
        try CanonicalJSON.decode(JSONValue.self, from: Array(first.output.utf8)).array?[0]["id"]?.string)
      let between = SystemTime().now()
      try await bank.work(2)
      let newest = try await bank.content()
      try #require(newest != before)
      try await bank.salvor("backup", is: 0)
      try await bank.salvor("runbook", "write", bank.runbooks, is: 0)
      let page = try bank.page("system.md")

      // Every disk is lost.
      try await bank.loseEverything()
      let knows = calm + ["the data was never wrong"]
      let way = try await NaiveOperator(page: page, path: bank.path, knows: knows).follow(from: "d1")
      #expect(way == ["d1", "d2", "d3", "d5", "p1", "r1", "c1", "c2", "c3", "a1", "a2", "a3", "a4"])
      #expect(try await bank.content() == newest)
      #expect(try await bank.brokenLinks() == "")
      #expect(try await bank.salvor("runs", is: 0).output.contains("released"))

      // The catalog and all state are lost too: the repository and its password are left.
      try await bank.loseEverything()
      try Files.rename(bank.catalog, to: bank.root + "/elsewhere")
      try Files.removeTree(bank.state)
      let bare = try await NaiveOperator(page: page, path: bank.path, knows: knows).follow(from: "d1")
      #expect(bare.starts(with: ["d1", "n1", "d2", "d3", "d5", "p1", "r1", "c1"]) && bare.last == "a4", "\(bare)")
      #expect(try await bank.content() == newest)
      try Files.rename(bank.root + "/elsewhere", to: bank.catalog)

      // The negative control: one step says another point, and the follower's end is not the right one.
      try await bank.loseEverything()
      let wrong = page.replacing("salvor restore --yes", with: "salvor restore --point \(point) --yes")
      let shell = ["SALVOR_CATALOG": bank.catalog, "SALVOR_STATE": bank.state]
      try await NaiveOperator(page: wrong, path: bank.path, knows: knows, fillIns: shell).follow(from: "r1")
      #expect(try await bank.content() != newest, "a wrong point would go unnoticed")

      // Wrong data, since a moment that is known: everybody answers, and it is no false alarm.
      try await CommandRun(
        ["sqlite3", bank.bank.directory + "/data/accounts/accounts.db", "UPDATE accounts SET balance = balance + 1"]
      ).succeeded()
      let later = try await NaiveOperator(
        page: page, path: bank.path, knows: calm + ["the data is wrong"],
        fillIns: ["WHEN": "\(between)"]
      ).follow(from: "d1")
      #expect(later.starts(with: ["d1", "d2", "d3", "d4", "d5", "p3", "r2", "c1"]), "\(later)")
      #expect(try await bank.content() == before)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `without Salvor the page brings the bank back too, with stock restic`() async throws {
    // SQLite, files, PostgreSQL, Redis, MariaDB and NATS.
    try await withBank(engines: true) { bank in
      try await bank.work(3)
      let newest = try await bank.content()
      try await bank.salvor("backup", is: 0)
      try await bank.salvor("runbook", "write", bank.runbooks, "--format", "md", is: 0)
      let page = try bank.page("system.md")
      try await bank.loseEverything()

      // The negative control: bringing back before choosing the point.
      let steps = NaiveOperator.parse(page)
      let (choose, bring) = (try #require(steps["m3"]?.command), try #require(steps["m5"]?.command))
      try #require(choose.contains("POINT_BANK=") && bring.contains("restic restore"))
      let wrong = page.replacing(choose, with: "@").replacing(bring, with: choose).replacing(
        "@\n```", with: bring + "\n```")
      await #expect(throws: NaiveOperator.Lost.self) {
        try await NaiveOperator(page: wrong, path: RunbookBank.usual, knows: calm).follow(from: "m1")
      }

      let way = try await NaiveOperator(page: page, path: RunbookBank.usual, knows: calm).follow(from: "m1")
      #expect(way.first == "m1" && way.count > 12 && Set(way).count == way.count, "\(way)")
      #expect(try await bank.content() == newest)
      #expect(try await bank.brokenLinks() == "")
    }
  }

  @Test func `a write that was killed is ended by the next, and nobody's files are moved away`() async throws {
    let directory = try TemporaryDirectory("folder")
    let folder = RunbookFolder(directory.file("book"), pool: .shared)
    func edition(_ text: String) throws -> [String: String] {
      let facts = RunbookFacts(
        place: .init(catalog: "/c", state: "/s", toolVersion: text), manifests: Digest.of(text))
      return try Edition(facts, formats: [.md]).sealed().files
    }
    for name in ["one", "two"] { try await folder.write(try edition(name)) }
    // Killed before it took the other's place: what was begun is thrown away.
    try Files.createDirectory(directory.file(".book.new"))
    try Files.replace(directory.file(".book.new/half"), with: [1])
    try await folder.write(try edition("three"))
    // Killed right after: the old one stands beside, and is put where it belongs.
    try Files.rename(directory.file("book/.previous"), to: directory.file(".book.new"))
    try Files.replace(directory.file("book/.arriving"), with: [])
    try await folder.rollBack()
    #expect(try await folder.edition()?.facts.place.toolVersion == "two")
    // Killed while the two changed places.
    try Files.rename(directory.file("book/.previous"), to: directory.file(".book.back"))
    try await folder.rollBack()
    #expect(try await folder.edition()?.facts.place.toolVersion == "three")
    #expect(try Files.names(in: directory.path).map(\.lossyText) == ["book"])

    try Files.replace(directory.file("book/mine.txt"), with: [1])
    await #expect(throws: AnyFailure.self) { try await folder.write(try edition("four")) }
    #expect(Files.exists(directory.file("book/mine.txt")))
    try await RunbookFolder(directory.file("new/below"), pool: .shared).write(try edition("five"))
  }

  @Test(.timeLimit(.minutes(10)))
  func `a page is stale after a manifest or a drill changed, and the edition before comes back`() async throws {
    try await withBank { bank in
      try await bank.work(4)
      try await bank.salvor("backup", is: 0)
      try await bank.salvor("runbook", "write", bank.runbooks, is: 0)
      try await bank.salvor("runbook", "check", bank.runbooks, is: 0)
      let first = try bank.page("system.md")

      // The same again: the same bytes.
      try await bank.salvor("runbook", "write", bank.runbooks, is: 0)
      #expect(try bank.page("system.md") == first)

      let manifest = bank.catalog + "/bank.yaml"
      let text = String(decoding: try Files.read(manifest), as: UTF8.self)
      let changed = text.replacing("head of channels]", with: "head of the branches]")
      try Files.replace(manifest, with: Array(changed.utf8), mode: 0o600)
      let stale = try await bank.salvor("runbook", "check", bank.runbooks, "--offline", is: 1)
      #expect(stale.errors.contains("RUNBOOK-201") && stale.output.contains("Domain channels was changed"), "\(stale)")
      let diff = try await bank.salvor("runbook", "diff", bank.runbooks, is: 0).output
      #expect(
        diff.contains("because Domain channels was changed") && diff.contains("+")
          && diff.contains("head of the branches"))

      // A note survives, an edit is found, and both editions can be had.
      let noted = first.replacing("<!-- notes:restore -->", with: "<!-- notes:restore -->\nCall Ada.")
      try Files.replace(bank.runbooks + "/system.md", with: Array(noted.utf8), mode: 0o644)
      try await bank.salvor("runbook", "write", bank.runbooks, is: 0)
      try await bank.salvor("runbook", "check", bank.runbooks, is: 0)
      #expect(
        try bank.page("system.md").contains("Call Ada.") && bank.page("system.md").contains("head of the branches"))
      try await bank.salvor("runbook", "rollback", bank.runbooks, is: 0)
      #expect(try bank.page("system.md") == noted)
      try await bank.salvor("runbook", "rollback", bank.runbooks, is: 0)
      #expect(try bank.page("system.md").contains("head of the branches"))

      // A drill shows what it takes.
      let drill = """
        apiVersion: salvor.dev/v1
        kind: Drill
        metadata: {name: weekly}
        spec: {level: system}
        """
      try Files.replace(bank.catalog + "/drill.yaml", with: Array(drill.utf8), mode: 0o600)
      try await bank.salvor("runbook", "write", bank.runbooks, is: 0)
      try await bank.salvor("drill", "run", "weekly", is: 0)
      let moved = try await bank.salvor("runbook", "check", bank.runbooks, is: 1)
      #expect(moved.output.contains("ledger was shown to come back, by drill-"), "\(moved)")
      #expect(moved.output.contains("ledger, time in the newest drill: never known, now"), "\(moved)")
      try await bank.salvor("runbook", "write", bank.runbooks, is: 0)
      try await bank.salvor("runbook", "check", bank.runbooks, is: 0)
      #expect(try bank.page("system.md").contains("by drill `"))
      try await bank.salvor("runbook", "check", bank.root + "/nowhere", is: 1)
    }
  }
}
