import Core
import Testing

@testable import Runbooks

@Suite("Editions of runbooks")
struct EditionTests {
  private func stale(
    _ kept: Edition, _ files: [String: String], facts: RunbookFacts? = nil, at now: Timestamp = Example.moment
  ) -> [Stale] {
    kept.stale(now: now, facts: facts, documents: (facts ?? kept.facts).documents, found: files)
  }

  @Test func `what was just written is current`() throws {
    let (edition, files) = try Edition(Example.facts()).sealed()
    #expect(stale(edition, files, facts: Example.facts()) == [])
  }

  @Test func `a changed, a new and a lost document are named`() throws {
    let (edition, files) = try Edition(Example.facts()).sealed()
    var facts = Example.facts()
    facts.documents = ["Service ledger": Digest.of("other"), "Service mail": Digest.of("m")]
    #expect(
      stale(edition, files, facts: facts).map(\.words) == [
        "Service ledger was changed", "Service mail is new", "Service web is gone",
      ])
  }

  @Test func `a figure that moved makes it stale, and one that only trembled does not`() throws {
    let (edition, files) = try Edition(Example.facts()).sealed()
    var facts = Example.facts()
    facts.figures["ledger"]?.rtoMeasured = 24
    #expect(stale(edition, files, facts: facts) == [])
    facts.figures["ledger"]?.rtoMeasured = 40
    let found = stale(edition, files, facts: facts)
    #expect(found.map(\.kind) == [.figure] && found[0].words.contains("20.0 s before, now 40.0 s"), "\(found)")
    facts.figures["ledger"]?.hasFailed = true
    #expect(stale(edition, files, facts: facts).count == 2)
  }

  @Test func `what was proven is unproven when its time is over`() throws {
    let (edition, files) = try Edition(Example.facts()).sealed()
    let found = stale(edition, files, facts: Example.facts(), at: Example.moment + .seconds(86_400 * 31))
    #expect(found.map(\.kind) == [.proof] && found[0].words.hasPrefix("ledger is unproven since"))
  }

  @Test func `text changed by hand is found, notes aside`() throws {
    let (edition, files) = try Edition(Example.facts()).sealed()
    var changed = files
    let page = try #require(files["system.md"])
    changed["system.md"] = page.replacing("<!-- notes:restore -->", with: "<!-- notes:restore -->\nCall Ada first.")
    #expect(stale(edition, changed) == [])
    let again = try Edition(Example.facts()).sealed(notes: ["system": Notes(in: changed["system.md"] ?? "")])
    #expect(again.files["system.md"] == changed["system.md"], "a note survives where it stood")
    #expect(again.files["system.html"]?.contains("Call Ada first.") == true)
    changed["system.md"] = page.replacing("salvor restore --yes", with: "salvor restore --no-verify --yes")
    #expect(stale(edition, changed).map(\.subject) == ["system.md"])
    changed["system.md"] = nil
    #expect(stale(edition, changed).map(\.words) == ["system.md is gone"])
  }

  @Test func `notes of a section that is gone stay`() {
    let notes = Notes(in: "<!-- notes:old -->\nkeep me\n<!-- /notes -->\n")
    let text = Markdown(notes: notes).render(Example.page(Example.facts()))
    #expect(text.contains("sections that are gone") && text.contains("keep me"))
    #expect(Notes(in: text) == notes)
  }

  @Test func `a difference names the lesson, the drill and the figures`() throws {
    let (kept, files) = try Edition(Example.facts()).sealed()
    var facts = Example.facts()
    facts.drills.append(Example.drill("drill-2", 90, day: 8))
    facts.figures["ledger"] = Example.figures(90)
    let next = Edition(facts)
    let diff = RunbookDiff(kept: kept, old: files, next: next, new: next.render())
    let figures = try #require(diff.changes.first { $0.file == "system.md" && $0.section.hasPrefix("How long") })
    #expect(figures.lessons.map(\.drill) == ["drill-2", "drill-2"])
    #expect(figures.lessons.map(\.kind) == [.runbook, .threshold])
    #expect(figures.lines.contains { $0.hasPrefix("-") && $0.contains("20.0 s") })
    #expect(figures.lines.contains { $0.hasPrefix("+") && $0.contains("1 min 30 s") }, "\(figures.lines)")
    #expect(
      diff.text.contains("because of drill-2: ledger was back after") && diff.text.contains("(20.0 s → 1 min 30 s)"))
    #expect(RunbookDiff(kept: kept, old: files, next: kept, new: kept.render()).changes == [])
  }

  @Test func `findings, controls that were missed and objectives become lessons`() throws {
    var facts = Example.facts()
    var failed = Example.drill("drill-2", 1, day: 2)
    (failed.verdict, failed.results) = ("failed", [])
    failed.findings = [.init(stage: "read", code: "VAULT-121", summary: "a blob is damaged", stores: ["pages"])]
    var missed = Example.drill("drill-3", 1, day: 3)
    (missed.fault, missed.outcome, missed.faultStore, missed.results) = ("stale-schema", "missed", "ledger-db", [])
    facts.drills += [failed, missed]
    let lessons = Lesson.all(of: facts)
    #expect(lessons.map(\.services) == [["web"], ["ledger"]] && lessons.map(\.kind) == [.runbook, .policy])
    let way = try #require(Example.page(facts).steps.first { $0.id == "p2" })
    #expect(way.text.contains { $0.plain.contains("VAULT-121") && $0.plain.contains("drill-2") }, "\(way.text)")
    #expect(Markdown().render(Example.page(facts)).contains("a planted stale-schema was not noticed"))
  }

  @Test func `a unified difference can be put together again`() {
    for seed in UInt64(1)...100 {
      let random = SeededRandomness(seed: seed)
      let old = (0..<random.below(60)).map { _ in "\(random.below(8))" }
      let new =
        random.below(5) == 0
        ? old
        : old.flatMap { line in
          [[line], [], [line, "x"], ["y"]][random.below(9) > 3 ? 0 : random.below(4)]
        }
      #expect(Self.patched(old, UnifiedDiff.hunks(old, new)) == new, "seed \(seed)")
    }
  }

  private static func patched(_ old: [String], _ hunks: [String]) -> [String]? {
    var (result, position) = ([String](), 0)
    for line in hunks {
      if line.hasPrefix("@@") {
        guard let match = line.firstMatch(of: /-(\d+),/), let start = Int(match.1), start - 1 >= position else {
          return nil
        }
        result += old[position..<(start - 1)]
        position = start - 1
        continue
      }
      let text = String(line.dropFirst())
      if line.hasPrefix("+") {
        result.append(text)
      } else {
        guard old[position] == text else { return nil }
        if line.hasPrefix(" ") { result.append(text) }
        position += 1
      }
    }
    return result + old[position...]
  }

  @Test func `the matrix says who is missing, and no cell of it is a formula`() {
    var facts = Example.facts()
    facts.services[0].duties.owner = "=cmd|'/c calc'!A1"
    let matrix = Matrix(facts)
    #expect(matrix.rows[0].missing == [] && matrix.rows[1].missing == ["owner", "approvers", "escalation", "impact"])
    #expect(matrix.csv.contains("\"'=cmd|") && matrix.csv.hasSuffix("\r\n"))
    #expect(matrix.rows[0].approvers == ["head of payments"], "what the domain says counts for its services")
  }
}
