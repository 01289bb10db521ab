import Core
import IO
import TestSupport
import Testing

/// A PostgreSQL server and an SQLite file with a catalog over both, a repository, and room for releases.
final class CompatSite: Sendable {
  let home: TemporaryDirectory
  let server: PostgreSQLServer
  private let program: String
  var file: String { home.file("live/paper.db") }

  private init(more: String) async throws {
    home = try TemporaryDirectory("compat")
    program = try CommandRun.product("salvor")
    server = try await PostgreSQLServer.start()
    do { try await fill(more) } catch {
      await server.shutDown()
      throw error
    }
  }

  private func fill(_ more: String) async throws {
    try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    let runAs = PostgreSQLServer.owner == nil ? "" : ", runAs: postgres"
    let catalog = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(home.file("vault"))", password: "file:\(home.file("password"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        \(more)
        stores:
          - name: books
            postgresql: {dataDirectory: "\(server.data)", port: \(server.port), password: "file:\(server.passwordFile)"\(runAs)}
          - name: paper
            sqlite: {path: "\(file)"}
      ---
      apiVersion: salvor.dev/v1
      kind: Invariant
      metadata: {name: sheets-have-orders}
      spec:
        references:
          from: {store: paper, query: SELECT order_id FROM sheets}
          to: {store: books, query: SELECT id FROM orders}
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
    try Files.createDirectory(home.file("live"))
    try await server.sql(
      "CREATE TABLE schema_migrations (name text PRIMARY KEY)", "INSERT INTO schema_migrations VALUES ('0001_begin')",
      "CREATE TABLE orders (id int PRIMARY KEY, customer text, total numeric)",
      "INSERT INTO orders SELECT n, 'c' || n % 7, n FROM generate_series(1, 200) n")
    try await sqlite(
      "PRAGMA journal_mode=WAL; CREATE TABLE sheets (id INTEGER PRIMARY KEY, order_id INT, note TEXT);"
        + "INSERT INTO sheets VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'b')")
  }

  /// - Parameter more: Lines for the service.
  static func with(more: String = "tier: normal", _ body: (CompatSite) async throws -> Void) async throws {
    let site = try await CompatSite(more: more)
    let result: Result<Void, any Error>
    do { result = .success(try await body(site)) } catch { result = .failure(error) }
    // Nothing is left of what was brought back to be looked at.
    let left = try Files.names(in: Files.parent(of: site.server.data)).map(\.lossyText).filter {
      $0.hasPrefix(".salvor")
    }
    let besideFile = try Files.names(in: site.home.file("live")).map(\.lossyText).filter { $0.hasPrefix(".salvor") }
    await site.server.shutDown()
    try result.get()
    #expect(left.isEmpty && besideFile.isEmpty, "\(left) \(besideFile)")
  }

  func catalog() throws -> String { String(decoding: try Files.read(home.file("salvor.yaml")), as: UTF8.self) }

  func write(_ catalog: String) throws { try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8)) }

  @discardableResult
  func sqlite(_ sql: String) async throws -> String {
    try await CommandRun(["sqlite3", "-cmd", ".timeout 20000", file, sql]).succeeded().output
  }

  /// Every pack of the repository.
  func packs() throws -> [String] {
    let data = home.file("vault/data")
    return try Files.names(in: data).flatMap { folder in
      try Files.names(in: "\(data)/\(folder.lossyText)").map { "\(data)/\(folder.lossyText)/\($0.lossyText)" }
    }
  }

  @discardableResult
  func salvor(_ words: String...) async throws -> CommandRun { try await salvor(words) }

  @discardableResult
  func salvor(_ words: [String]) async throws -> CommandRun {
    try await CommandRun(
      [program] + words, in: home.path, environment: ["SALVOR_STATE": home.file("state"), "NO_COLOR": "1"])
  }

  /// What is live, as its engines tell it.
  func live() async throws -> String {
    try await server.sql(
      "SELECT count(*), sum(hashtext(o::text)) FROM orders o", "SELECT * FROM schema_migrations ORDER BY 1",
      "SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    ) + (try await sqlite("SELECT * FROM sheets; SELECT sql FROM sqlite_schema"))
  }

  /// Writes files below `name`, and names the directory.
  func release(_ name: String, _ manifest: String, _ files: [String: String]) throws -> String {
    let directory = home.file(name)
    for (path, text) in files {
      try Files.createDirectory(Files.parent(of: "\(directory)/\(path)"))
      try Files.replace("\(directory)/\(path)", with: Array(text.utf8))
    }
    try Files.createDirectory(directory)
    let head = "apiVersion: salvor.dev/v1\nkind: Release\nmetadata: {name: \(name)}\nspec:\n"
    try Files.replace("\(directory)/release.yaml", with: Array((head + manifest).utf8))
    return directory
  }
}
