import Core
import Testing

@testable import Catalog

/// A faulty manifest, what is to be said about it, and where.
struct Fault: Sendable, CustomTestStringConvertible {
  var code: DiagnosticCode
  var line: Int
  var column: Int
  /// Must be in message and remedy.
  var says: [String]
  var text: String

  init(_ code: DiagnosticCode, _ line: Int, _ column: Int, _ says: [String], _ text: String) {
    (self.code, self.line, self.column, self.says, self.text) = (code, line, column, says, text)
  }

  var testDescription: String { "\(code) \(says.first ?? "")" }
}

/// The repository takes lines 1 to 4; a service begins at line 5 with `---`, and its spec stands in line 9.
/// A spec begins in column 7.
private let faults: [Fault] = [
  Fault(.syntax, 7, 2, ["indentation"], repository + "---\na: [1, 2\nb: 3\n---\nc: 1\n  d\n: : :\n"),
  Fault(
    .badVersion, 6, 13, ["salvor.dev/v1"], repository + "---\napiVersion: v2\nkind: Service\nmetadata: {name: a}\n"),
  Fault(.badVersion, 6, 1, ["missing"], repository + "---\nkind: Service\nmetadata: {name: a}\n"),
  Fault(
    .unknownKind, 7, 7, ["'Servise'", "did you mean 'Service'"],
    repository + "---\napiVersion: salvor.dev/v1\nkind: Servise\nmetadata: {name: a}\n"),
  Fault(.unknownField, 9, 8, ["'teir'", "did you mean 'tier'"], repository + service("a", "{teir: low}")),
  Fault(
    .unknownField, 9, 1, ["'specs'", "did you mean 'spec'"],
    repository + "---\napiVersion: salvor.dev/v1\nkind: Service\nmetadata: {name: a}\nspecs: 1\n"),
  Fault(.missing, 9, 17, ["'name'"], repository + service("a", "{stores: [{files: {path: /a}}]}")),
  Fault(.missing, 9, 17, ["what it is", "files"], repository + service("a", "{stores: [{name: x}]}")),
  Fault(.missing, 9, 16, ["exec, tcp, http, sql"], repository + service("a", "{ready: [{timeout: 1s}]}")),
  Fault(
    .missing, 9, 21, ["what the query must give"],
    repository + service("a", "{validators: [{name: x, sql: select 1}], stores: [{name: f, files: {path: /f}}]}")),
  Fault(.wrongType, 9, 19, ["expected a list", "a single value"], repository + service("a", "{dependsOn: b}")),
  Fault(.wrongType, 9, 7, ["a list"], repository + service("a", "[]")),
  Fault(.badDuration, 9, 26, ["'15'", "15m"], repository + service("a", "{objectives: {rpo: 15}}")),
  Fault(.badDuration, 9, 26, ["'soon'"], repository + service("a", "{objectives: {rpo: soon}}")),
  Fault(.badName, 8, 18, ["'Le_dger'", "a-z"], repository + service("Le_dger")),
  Fault(.badValue, 9, 14, ["'urgent'", "critical, high"], repository + service("a", "{tier: urgent}")),
  Fault(.badValue, 9, 14, ["did you mean 'critical'"], repository + service("a", "{tier: Critcal}")),
  Fault(.badValue, 9, 22, ["host:port"], repository + service("a", "{ready: [{tcp: 'nowhere'}]}")),
  Fault(.badValue, 9, 15, ["never closed"], repository + service("a", "{start: 'run \"it'}")),
  Fault(.exclusive, 9, 16, ["exec and tcp"], repository + service("a", "{ready: [{exec: x, tcp: 'a:1'}]}")),
  Fault(
    .unknownDriver, 9, 35, ["did you mean 'postgresql'"],
    repository + service("a", "{stores: [{name: x, driver: postgres}]}")),
  Fault(
    .unknownField, 9, 27, ["did you mean 'postgresql'"],
    repository + service("a", "{stores: [{name: x, postgres: {}, files: {path: /a}}]}")),
  Fault(
    .badOption, 9, 35, ["no option 'pth'", "did you mean 'path'"],
    repository + service("a", "{stores: [{name: x, files: {pth: /a}}]}")),
  Fault(.badOption, 9, 34, ["requires option 'path'"], repository + service("a", "{stores: [{name: x, files: {}}]}")),
  Fault(.badValue, 9, 41, ["absolute"], repository + service("a", "{stores: [{name: x, files: {path: a/b}}]}")),
  Fault(.wrongType, 9, 41, ["a whole number"], repository + service("a", "{stores: [{name: x, redis: {port: '1'}}]}")),
  Fault(.duplicateKey, 9, 19, ["'tier'"], repository + service("a", "{tier: low, tier: high}")),
  Fault(.duplicateName, 13, 18, ["'a'", "catalog.yaml:8"], repository + service("a") + service("a")),
  Fault(
    .duplicateName, 9, 54, ["store 'x'"],
    repository + service("a", "{stores: [{name: x, files: {path: /a}}, {name: x, files: {path: /b}}]}")),
  Fault(
    .dangling, 14, 20, ["service 'ledgre'", "did you mean 'ledger'"],
    repository + service("ledger") + service("b", "{dependsOn: [ledgre]}")),
  Fault(
    .cycle, 9, 20, ["a → b → c → a"],
    repository + service("a", "{dependsOn: [b]}") + service("b", "{dependsOn: [c]}") + service("c", "{dependsOn: [a]}")),
  Fault(.cycle, 9, 20, ["a → a"], repository + service("a", "{dependsOn: [a]}")),
  Fault(
    .cycle, 9, 58, ["stores", "x → y → x"],
    repository
      + service(
        "a", "{stores: [{name: x, files: {path: /a}, dependsOn: [y]}, {name: y, files: {path: /b}, dependsOn: [x]}]}")),
  Fault(.noRepository, 5, 24, ["nowhere to go"], service("a", "{stores: [{name: x, files: {path: /a}}]}")),
  Fault(.nothingToProtect, 0, 0, ["no service"], repository),
  Fault(.unsupportedYAML, 9, 12, ["key"], repository + service("a", "{? [x] : y}")),
  Fault(.shellSyntax, 9, 15, ["'|'", "sh, -c"], repository + service("a", "{start: 'a | b'}")),
  Fault(
    .tierInversion, 14, 39, ["critical service 'b'", "low service 'a'"],
    repository + service("a", "{tier: low}") + service("b", "{tier: critical, dependsOn: [   a]}")),
  Fault(
    .nobodyAnswers, 8, 18, ["'a' has no owner and no escalation", "Domain"],
    repository + service("a", "{tier: critical, domain: d}")),
  Fault(
    .nobodyAnswers, 8, 18, ["'a' has no escalation"],
    repository + service("a", "{tier: critical, owner: x, domain: money}")),
  Fault(
    .emptyDomain, 13, 18, ["domain 'mony'", "did you mean 'money'"],
    repository + service("a", "{domain: money}")
      + "---\napiVersion: salvor.dev/v1\nkind: Domain\nmetadata: {name: mony}\n"),
  Fault(.noObjectives, 8, 18, ["no objectives"], repository + service("a")),
  Fault(
    .repositoryInStore, 4, 18, ["store 'x'"], repository + service("a", "{stores: [{name: x, files: {path: /srv}}]}")),
  Fault(
    .repositoryInStore, 4, 18, ["lies inside repository"],
    repository + service("a", "{stores: [{name: x, files: {path: /srv/backup/x}}]}")),
  Fault(
    .passwordInRepository, 3, 18, ["the repository it opens"],
    repository.replacing("file:/run/secrets/repo", with: "file:/srv/backup/../backup/key") + service("a")),
  Fault(
    .passwordInRepository, 3, 18, ["store 'x'"], repository + service("a", "{stores: [{name: x, files: {path: /run}}]}")
  ),
]

@Suite("What a catalog's reader is told")
struct DiagnosticTests {
  @Test(arguments: faults)
  func `each fault is found where it is, with a way out`(_ fault: Fault) throws {
    let resolution = resolve(fault.text)
    let found = try #require(
      resolution.diagnostics.first { diagnostic in
        diagnostic.code == fault.code.rawValue
          && fault.says.allSatisfy { "\(diagnostic.message) \(diagnostic.remedy ?? "")".contains($0) }
      }, "\(resolution.diagnostics)")
    #expect((found.line, found.column) == (fault.line, fault.column), "\(found)")
    #expect(found.remedy != nil && found.severity == fault.code.severity)
    #expect((resolution.catalog == nil) == (resolution.errors != []))
  }

  @Test func `all faults of all files are found in one pass, sorted`() {
    let files = [
      SourceFile(path: "b.yaml", text: repository + service("a", "{tier: urgent, owner: [], dependsOn: [nobody, B]}")),
      SourceFile(path: "a.yaml", text: service("a") + service("c", "{objectives: {rpo: 5, rto: x}}")),
    ]
    let resolution = Catalog.resolve(files, drivers: drivers)
    #expect(
      resolution.errors.map { "\($0.file):\($0.line) \($0.code)" } == [
        "a.yaml:10 CATALOG-110", "a.yaml:10 CATALOG-110", "b.yaml:8 CATALOG-117", "b.yaml:9 CATALOG-113",
        "b.yaml:9 CATALOG-109", "b.yaml:9 CATALOG-118", "b.yaml:9 CATALOG-111",
      ])
    #expect(throws: CatalogError.self) { try resolution.get() }
  }

  @Test func `a secret written in place of a reference is refused and never repeated`() {
    let secret = "hunter2-correct-horse"
    for text in [
      repository.replacing("file:/run/secrets/repo", with: secret),
      repository.replacing("file:/run/secrets/repo", with: "[\(secret)]"),
      repository.replacing("local:/srv/backup", with: "s3:https://key:\(secret)@host/bucket"),
      repository + service("a", "{stores: [{name: x, postgresql: {database: d, password: \(secret)}}]}"),
      repository + service("a", "{start: {command: x, env: {P: {secret: \(secret)}}}}"),
      repository + service("a", "{ready: [{http: 'http://user:\(secret)@host/'}]}"),
    ] {
      let resolution = resolve(text)
      #expect(resolution.catalog == nil)
      #expect(!resolution.errors.isEmpty && !"\(resolution.diagnostics)".contains(secret), "\(resolution.diagnostics)")
    }
  }

  @Test func `a store in two groups, links outside a group and stores without a policy are told`() {
    let group =
      "---\napiVersion: salvor.dev/v1\nkind: ConsistencyGroup\nmetadata: {name: NAME}\nspec: {stores: [STORES]}\n"
    func groups(_ pairs: (String, String)...) -> String {
      pairs.map { group.replacing("NAME", with: $0).replacing("STORES", with: $1) }.joined()
    }
    let base = bank.replacing(
      "metadata: {name: money}\nspec: {stores: [ledger-db, ledger-cache], services: [statements], holdBudget: 250ms, onOverBudget: record}",
      with: "metadata: {name: money}\nspec: {stores: [ledger-db]}")
    let twice = resolve(base + groups(("other", "ledger-db")))
    #expect(twice.errors.map(\.code) == ["CATALOG-120"])
    let loose = resolve(base + groups(("other", "ledger-cache")))
    #expect(loose.errors == [])
    #expect(loose.diagnostics.filter { $0.code == "CATALOG-154" }.count == 3, "\(loose.diagnostics)")
    let unprotected = resolve(
      bank.replacing(#"spec: {repository: main, schedule: "15 2 * * 1-5"}"#, with: "spec: {stores: [ledger-db]}")
        .replacing("stores: [statement-files]", with: "stores: []"))
    #expect(
      unprotected.diagnostics.filter { $0.code == "CATALOG-156" }.map(\.line) == [59], "\(unprotected.diagnostics)")
    let late = resolve(bank.replacing("schedule: every 1m", with: "schedule: every 1h"))
    #expect(late.diagnostics.map(\.code).contains("CATALOG-157"))
  }

  @Test func `every code that is an error keeps the catalog from being used`() {
    #expect(Set(DiagnosticCode.allCases.map(\.rawValue)).count == DiagnosticCode.allCases.count)
    #expect(DiagnosticCode.allCases.allSatisfy { !$0.help.isEmpty })
  }

  @Test func `the nearest word is found by what a typo does`() {
    #expect(nearest("dependson", in: ["dependsOn", "domain"]) == "dependsOn")
    #expect(nearest("onwer", in: ["owner", "other"]) == "owner", "neighbours swapped")
    #expect(nearest("zzzz", in: ["owner"]) == nil)
    #expect(nearest("", in: ["a"]) == nil)
  }
}
