import Core
import Foundation
import IO
import TestSupport
import Testing

/// What no engine, shell or script may read as anything but a key.
let hostileKeys = [
  "it's", "a\"b", "back\\slash", "\\'; DROP TABLE transfers; --", "$(touch /tmp/x)", "`id`", "two\nlines", "tab\there",
  "caf\u{E9}", "cafe\u{301}", "-rf", "{key}", "%s", "\u{1F4A3}",
]

/// To Swift two spellings of a letter are one, and a set would have one of them.
func plain(_ text: String) -> String { text.unicodeScalars.map { $0.escaped(asASCII: true) }.joined() }

/// A bank in four stores that agree: PostgreSQL has the truth, SQLite a ledger, Redis a cache, and files are receipts.
final class ReconcileSite: @unchecked Sendable {
  // Used by one task at a time.
  let home: TemporaryDirectory
  let server: PostgreSQLServer
  let redis: RedisServer
  private let program: String

  static let rows = 60

  /// - Parameter more: Documents for the catalog.
  private init(more: (ReconcileSite) -> String) async throws {
    home = try TemporaryDirectory("reconcile")
    program = try CommandRun.product("salvor")
    redis = try await BlockingPool.shared.run { try RedisServer() }
    server = try await PostgreSQLServer.start()
    try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    try Files.createDirectory(home.file("live"))
    try Files.createDirectory(home.file("receipts"))
    try Files.replace(home.file("receipts.lock"), with: [])
    try Files.replace(home.file("salvor.yaml"), with: Array((catalog + more(self)).utf8))
    try await fill()
  }

  static func with(
    more: (ReconcileSite) -> String = { _ in "" }, _ body: (ReconcileSite) async throws -> Void
  ) async throws {
    let site = try await ReconcileSite(more: more)
    let result: Result<Void, any Error>
    do { result = .success(try await body(site)) } catch { result = .failure(error) }
    await site.server.shutDown()
    let redis = site.redis
    await BlockingPool.shared.run { redis.stop(SIGKILL) }
    try result.get()
  }

  private var catalog: String {
    let runAs = PostgreSQLServer.owner == nil ? "" : ", runAs: postgres"
    return """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(home.file("vault"))", password: "file:\(home.file("password"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: bank}
      spec:
        stores:
          - name: bank-db
            postgresql: {dataDirectory: "\(server.data)", port: \(server.port), password: "file:\(server.passwordFile)"\(runAs)}
          - name: ledger
            sqlite: {path: "\(home.file("live/ledger.db"))"}
          - name: cache
            redis: {port: \(redis.port), dataDirectory: "\(redis.dataDirectory)", configFile: "\(redis.configFile)"}
          - name: receipts
            files: {path: "\(home.file("receipts"))", lockFile: "\(home.file("receipts.lock"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Reconciliation
      metadata: {name: ledger-of-transfers}
      spec:
        left: {store: bank-db, query: "SELECT id, amount, note, at FROM transfers", table: transfers}
        right: {store: ledger, query: "SELECT id, amount, note, at FROM transfers", table: transfers}
        key: [id]
        time: at
      ---
      apiVersion: salvor.dev/v1
      kind: Reconciliation
      metadata: {name: cache-of-transfers}
      spec:
        left: {store: bank-db, query: "SELECT 'transfer:' || id AS key, amount AS value FROM transfers"}
        right: {store: cache, query: "SCANVALUES transfer:*", entry: "{key}", value: value}
        key: [key]
      ---
      apiVersion: salvor.dev/v1
      kind: Reconciliation
      metadata: {name: receipts-of-transfers}
      spec:
        left: {store: bank-db, query: "SELECT note AS path FROM transfers WHERE note IS NOT NULL"}
        right: {store: receipts, query: "digests **", file: "{path}"}
        key: [path]
        link: true
        compensate:
          broken-link: [sh, -c, 'printf again > "$2/$1"; printf "%s %s\\n" "$SALVOR_CORRECTION" "$1" >> "$3"; cat >> "$3.input"', sh, "{path}", "\(home.file("receipts"))", "\(home.file("ran"))"]

      """
  }

  private func fill() async throws {
    try await server.sql(
      "CREATE TABLE transfers (id text PRIMARY KEY, amount text, note text, at timestamptz DEFAULT now() - interval '1 hour')"
    )
    try await ledger(
      "PRAGMA journal_mode=WAL; CREATE TABLE transfers (id TEXT, amount TEXT, note TEXT, at TEXT);")
    let ids = (1...Self.rows).map { "t\($0)" } + hostileKeys
    var (ours, theirs): ([String], [String]) = ([], [])
    for (number, id) in ids.enumerated() {
      let note = id.hasPrefix("t") && number < 20 ? "'\(id).txt'" : "NULL"
      ours.append("(\(text(id)), '\(number)', \(note))")
      theirs.append("(\(text(id)), '\(number)', \(note), '2020-01-01 00:00:00+00')")
      try await cache("SET", "transfer:\(id)", "\(number)")
      if note != "NULL" { try Files.replace(home.file("receipts/\(id).txt"), with: Array(id.utf8)) }
    }
    try await server.sql("INSERT INTO transfers (id, amount, note) VALUES \(ours.joined(separator: ", "))")
    try await ledger("INSERT INTO transfers VALUES \(theirs.joined(separator: ", "))")
  }

  /// A literal that both SQL engines read as it is.
  func text(_ value: String) -> String { "'" + value.replacing("'", with: "''") + "'" }

  // MARK: Running

  private var environment: [String: String] {
    [
      "HOME": home.path, "SALVOR_STATE": home.file("state"), "SALVOR_CATALOG": home.file("salvor.yaml"),
      "NO_COLOR": "1", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    ]
  }

  func salvor(_ words: String...) async throws -> CommandRun {
    try await CommandRun([program] + words, in: home.path, environment: environment)
  }

  func started(_ words: String...) throws -> PipedProcess {
    try PipedProcess([program] + words, in: home.path, environment: environment)
  }

  @discardableResult
  func ledger(_ sql: String) async throws -> String {
    let ran = try await CommandRun(["sqlite3", "-cmd", ".timeout 20000", home.file("live/ledger.db"), sql])
    try ran.succeeded()
    return ran.output
  }

  @discardableResult
  func cache(_ words: String...) async throws -> String {
    let ran = try await CommandRun(["redis-cli", "-p", "\(redis.port)"] + words)
    try ran.succeeded()
    return ran.output
  }

  /// What is found, as `rule kind key`, and the report's id.
  func find(_ words: String...) async throws -> (id: String, found: Set<String>) {
    let ran = try await CommandRun(
      [program, "reconcile", "find", "-o", "json"] + words, in: home.path, environment: environment)
    try #require([0, 4].contains(ran.status), "\(ran.errors)")
    let report = try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))
    let found = (report["findings"]?.array ?? []).map { finding in
      let key = (finding["key"]?.array ?? []).compactMap(\.string).joined(separator: "|")
      return plain("\(finding["rule"]?.string ?? "") \(finding["kind"]?.string ?? "") \(key)")
    }
    #expect(ran.status == (found.isEmpty ? 0 : 4))
    return (report["id"]?.string ?? "", Set(found))
  }

  /// - Returns: The digest to consent to.
  func propose(_ id: String, to name: String = "review") async throws -> String {
    let ran = try await salvor("reconcile", "propose", id, "--to", home.file(name), "-o", "json")
    try ran.succeeded()
    return try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))["digest"]?.string ?? ""
  }

  func apply(_ id: String, _ consent: String) async throws -> (status: Int32, outcome: JSONValue) {
    let ran = try await salvor("reconcile", "apply", id, "--consent", consent, "-o", "json")
    try #require([0, 3].contains(ran.status), "\(ran.errors)")
    return (ran.status, try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8)))
  }
}
