import Core
import IO
import TestSupport
import Testing

@Suite("The command line, with a catalog or arguments that are wrong")
struct WrongCatalogTests {
  @Test(.timeLimit(.minutes(10)))
  func `broken YAML is refused at its line and column`() async throws {
    let site = try await Site()
    try site.write(site.catalog, "apiVersion: salvor.dev/v1\nkind: Service\nmetadata: {name: x\nspec: {}\n")
    let validated = try await site.salvor("validate", is: 2)
    #expect(validated.out.contains("salvor.yaml:4:"), "\(validated)")
    let json = try await site.salvor("validate", "-o", "json", is: 2)
    #expect(json.json?["diagnostics"]?.array?.first?["line"]?.integer == 4, "\(json)")
    for words in [["backup"], ["restore", "--yes"], ["points"], ["verify"], ["graph"]] {
      let ran = try await site.start(words).wait()
      #expect(ran.status == 2 && ran.out == "", "\(ran)")
      #expect(ran.err.contains("CATALOG-100") && ran.err.contains("salvor.yaml:4:"), "\(ran)")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `an unknown field, a wrong driver and a wrong name are all told at once`() async throws {
    let site = try await Site()
    var text = String(decoding: try Files.read(site.catalog), as: UTF8.self)
    text = text.replacing("dependsOn: [ledger]", with: "dependsOn: [leger]")
    text = text.replacing("holdBudget", with: "holdBugdet").replacing("sqlite:", with: "sqllite:")
    try site.write(site.catalog, text)
    let ran = try await site.salvor("validate", is: 2)
    for name in ["'holdBudget'", "'ledger'", "'sqlite'"] { #expect(ran.out.contains("did you mean \(name)"), "\(ran)") }
    try await site.refuses("backup", status: 2, code: "CATALOG-100", saying: ["salvor validate"])
  }

  @Test(.timeLimit(.minutes(10)))
  func `arguments that make no sense`() async throws {
    let site = try await Site()
    try await site.refuses("restore", "legder", "--yes", status: 2, code: "PLAN-002", saying: ["salvor graph"])
    try await site.refuses("backup", "nogroup", status: 2, code: "PLAN-004")
    try await site.refuses(
      "restore", "--point", "20200101", "--yes", status: 2, code: "POINT-201", saying: ["salvor points"])
    try await site.refuses("points", "20200101", status: 2, code: "POINT-201")
    try await site.refuses("run", "show", "latest", status: 2, code: "RUN-201")
    try await site.refuses("restore", "--yes", status: 1, code: "POINT-203", saying: ["salvor backup"])
    try await site.refuses("validate", "-c", "nowhere.yaml", status: 2, code: "CATALOG-001", saying: ["salvor init"])
    let wrong: [[String]] = [
      ["restore", "--at", "yesterday"], ["restore", "--point", "a", "--at", "2026-01-01T00:00:00Z"],
      ["backup", "--hold-budget", "fast"],
      ["frobnicate"], ["restore", "--frobnicate"], ["graph", "--format", "png"], ["backup", "-o", "xml"], ["run"],
      ["evidence"],
      ["plan"],
    ]
    for words in wrong {
      let ran = try await site.start(words).wait()
      if words.count > 1 || words == ["frobnicate"] {
        #expect(ran.status == 2 && ran.out == "" && !ran.err.isEmpty, "\(ran)")
      } else {
        #expect(ran.out.contains("USAGE") || ran.err.contains("USAGE"), "\(ran)")
      }
    }
  }
}
