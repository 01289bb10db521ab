import Core
import IO
import TestSupport
import Testing

/// A PostgreSQL server with a database `shop`, a catalog over it, and a repository.
final class DumpSite: Sendable {
  let home: TemporaryDirectory
  let server: PostgreSQLServer
  private let program: String
  var work: String { home.file("work") }

  private init() async throws {
    home = try TemporaryDirectory("dumps")
    program = try CommandRun.product("salvor")
    server = try await PostgreSQLServer.start()
    do { try await fill() } catch {
      await server.shutDown()
      throw error
    }
  }

  private func fill() async throws {
    try Files.createDirectory(work)
    try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    try write(user: PostgreSQLServer.user)
    try await server.sql("CREATE DATABASE shop TEMPLATE template0")
    try await shop(
      "CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL)",
      "INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 50) n",
      """
      CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int NOT NULL REFERENCES customers,
        total numeric NOT NULL CHECK (total > 0))
      """,
      "CREATE INDEX orders_customer ON orders (customer)",
      "INSERT INTO orders (customer, total) SELECT 1 + n % 50, n FROM generate_series(1, 500) n",
      "COMMENT ON TABLE orders IS 'what was ordered'")
  }

  /// Writes the catalog, for who asks the server.
  func write(user: String, more: String = "", server other: PostgreSQLServer? = nil) throws {
    let asked = other ?? server
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
        stores:
          - name: ledger
            postgresql:
              dataDirectory: "\(asked.data)"
              port: \(asked.port)
              user: \(user)
              password: "file:\(server.passwordFile)"
              \(PostgreSQLServer.owner == nil ? "" : "runAs: postgres")
              \(more)
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
  }

  /// Ends with no file of a dump and no unfinished database left, whatever was done.
  static func with(_ body: (DumpSite) async throws -> Void) async throws {
    let site = try await DumpSite()
    let result: Result<Void, any Error>
    do { result = .success(try await body(site)) } catch { result = .failure(error) }
    let files = (try? Files.names(in: site.work).map(\.lossyText)) ?? ["no directory"]
    let drafts = try? await site.server.sql("SELECT datname FROM pg_database WHERE datname LIKE 'salvor%'")
    await site.server.shutDown()
    try result.get()
    #expect(files == [], "files that were left")
    #expect(drafts == "", "databases that were left")
  }

  @discardableResult
  func shop(_ statements: String...) async throws -> String {
    var said: [String] = []
    for statement in statements { said.append(try await server.sql(statement, database: "shop")) }
    return said.filter { !$0.isEmpty }.joined(separator: "\n")
  }

  @discardableResult
  func salvor(_ words: String...) async throws -> CommandRun { try await salvor(words) }

  @discardableResult
  func salvor(_ words: [String]) async throws -> CommandRun {
    try await CommandRun(
      [program] + words, in: home.path, environment: ["SALVOR_STATE": home.file("state"), "NO_COLOR": "1"])
  }

  /// - Returns: What `take` said, read from its JSON.
  @discardableResult
  func take(_ words: String...) async throws -> JSONValue {
    let run = try await salvor(["dump", "take", "ledger", "--work", work, "-o", "json"] + words).succeeded()
    return try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
  }

  func restore(_ words: String...) async throws -> CommandRun {
    try await salvor(["dump", "restore", "ledger", "--work", work] + words)
  }
}
