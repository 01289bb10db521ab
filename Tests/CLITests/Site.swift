import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// A machine of a user's: live data, a catalog, a repository, a state directory, and the shipped command.
final class Site: @unchecked Sendable {
  // Used by one task at a time.
  let home: TemporaryDirectory
  let program: String
  /// Variables for every command, beside the usual.
  var environment: [String: String] = [:]

  var live: String { home.file("live") }
  var ledger: String { home.file("live/ledger/ledger.db") }
  var statements: String { home.file("live/statements") }
  var vault: String { home.file("vault") }
  var password: String { home.file("password") }
  var state: String { home.file("state") }
  var work: String { home.file("work") }
  var catalog: String { home.file("work/salvor.yaml") }

  /// What the catalog says beyond the least.
  struct Options {
    /// Lines of the services' specs, two blanks deep.
    var ledger = ""
    var statements = ""
    /// Documents of their own.
    var documents = ""
    var holdBudget = "10s"
    var hasInvariant = true
  }

  /// An empty repository, live data of two services, and a catalog of them.
  ///
  /// - Parameter options: Given the site's directory.
  init(_ options: (_ home: String) -> Options = { _ in Options() }) async throws {
    home = try TemporaryDirectory("cli")
    let options = options(home.path)
    program = try Program.built("salvor")
    try Files.createDirectory(work)
    try Files.createDirectory(home.file("live/ledger"))
    try Files.createDirectory(statements)
    try write(catalog, catalogText(options))
    try await sql("PRAGMA journal_mode=WAL; CREATE TABLE entries(id TEXT PRIMARY KEY, amount INTEGER NOT NULL);")
    try write("\(statements)/.lock", "")
    for number in 1...3 { try await add("e\(number)", amount: number * 100) }
    try await create()
  }

  deinit { for pid in pids() { kill(pid, SIGKILL) } }

  private func create() async throws {
    let made = try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", vault, "--password-file", password)
    try #require(made.status == 0, "\(made)")
  }

  func catalogText(_ options: Options) -> String {
    let invariant = """
      ---
      apiVersion: salvor.dev/v1
      kind: Invariant
      metadata: {name: every-entry-has-its-statement}
      spec:
        references:
          from: {store: ledger-db, query: "SELECT id || '.txt', id FROM entries"}
          to: {store: statement-files, query: "lines *.txt"}

      """
    return """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(vault)", password: "file:\(password)"}
      ---
      apiVersion: salvor.dev/v1
      kind: ConsistencyGroup
      metadata: {name: bank}
      spec: {services: [ledger, statements], holdBudget: \(options.holdBudget)}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: ledger}
      spec:
        stores:
          - {name: ledger-db, sqlite: {path: "\(ledger)"}}
      \(options.ledger)
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: statements}
      spec:
        dependsOn: [ledger]
        stores:
          - {name: statement-files, files: {path: "\(statements)", lockFile: .lock}}
      \(options.statements)
      \(options.hasInvariant ? invariant : "")\(options.documents)
      """
  }

  /// A service's line: a process that runs until it is stopped.
  static func daemon(_ name: String, in home: String) -> String {
    "  start: [sh, -c, \"echo $$ > \(home)/\(name).pid; exec sleep 600\"]\n"
  }

  /// The services' processes that run.
  func pids() -> [pid_t] {
    ["ledger", "statements"].compactMap { name in
      guard let bytes = try? Files.read(home.file("\(name).pid"), limitBytes: 32),
        let pid = pid_t(String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)),
        let line = try? Files.read("/proc/\(pid)/cmdline", limitBytes: 4096),
        String(decoding: line, as: UTF8.self).contains("sleep")
      else { return nil }
      return pid
    }
  }

  // MARK: Commands

  func start(_ words: [String]) throws -> Program {
    var variables = ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": home.path, "SALVOR_STATE": state]
    variables.merge(environment) { $1 }
    return try Program([program] + words, in: work, environment: variables)
  }

  func salvor(_ words: String...) async throws -> Ran { try await start(words).wait() }

  /// Runs it and expects an exit status.
  @discardableResult
  func salvor(
    _ words: String..., is status: Int32, _ location: SourceLocation = #_sourceLocation
  ) async throws -> Ran {
    let ran = try await start(words).wait()
    #expect(ran.status == status, "\(ran)", sourceLocation: location)
    return ran
  }

  /// Expects an error with a code and a remedy on standard error, nothing on standard output, and live data untouched.
  @discardableResult
  func refuses(
    _ words: String..., status: Int32, code: String, saying texts: [String] = [],
    _ location: SourceLocation = #_sourceLocation
  ) async throws -> Ran {
    let before = try await fingerprint()
    let ran = try await start(words).wait()
    #expect(ran.status == status, "\(ran)", sourceLocation: location)
    #expect(ran.err.contains("error \(code): "), "\(ran)", sourceLocation: location)
    #expect(ran.err.contains("next:"), "a remedy: \(ran)", sourceLocation: location)
    for text in texts { #expect(ran.err.contains(text), "'\(text)' in \(ran)", sourceLocation: location) }
    #expect(ran.out == "", sourceLocation: location)
    #expect(try await fingerprint() == before, "live data was touched: \(ran)", sourceLocation: location)
    return ran
  }

  /// Runs another program to its end, which must be a good one.
  @discardableResult
  func run(_ words: String..., input: String? = nil) async throws -> String {
    let ran = try await Program(
      words, in: home.path, environment: ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], input: input
    ).wait()
    try #require(ran.status == 0, "\(ran)")
    return ran.out
  }

  // MARK: Live data

  func write(_ path: String, _ text: String) throws { try Files.replace(path, with: Array(text.utf8), mode: 0o644) }

  @discardableResult
  func sql(_ statement: String) async throws -> String { try await run("sqlite3", ledger, statement) }

  func add(_ id: String, amount: Int) async throws {
    try await sql("INSERT INTO entries VALUES('\(id)', \(amount));")
    try write("\(statements)/\(id).txt", id + "\n")
  }

  func damage() async throws {
    try await sql("DELETE FROM entries WHERE id <> 'e2'; UPDATE entries SET amount = 0; VACUUM;")
    try Files.removeTree("\(statements)/e2.txt")
    try write("\(statements)/e1.txt", "scribble\n")
  }

  func entries() async throws -> [String] {
    try await sql("SELECT id, amount FROM entries ORDER BY id;").split(separator: "\n").map(String.init)
  }

  static let captured = ["e1|100", "e2|200", "e3|300"]

  /// Every name, mode and byte of the live data; what a restore keeps beside it aside, and what SQLite's readers leave
  /// behind: an index of the log, and a log with nothing in it.
  func fingerprint() async throws -> String {
    try await run(
      "sh", "-c",
      """
      cd live && find . \\( -name '.salvor-*' -o -name '*-shm' -o -name '*-wal' -empty \\) -prune -o -printf '%P %y %m\\n' | sort
      find . \\( -name '.salvor-*' -o -name '*-shm' -o -name '*-wal' -empty \\) -prune -o -type f -print | sort | xargs -r sha256sum
      """)
  }

  /// The newest point's id.
  func newestPoint() async throws -> String {
    let listed = try await salvor("points", "-o", "json", is: 0)
    return try #require(listed.json?.array?.last?["id"]?.string, "\(listed)")
  }
}
