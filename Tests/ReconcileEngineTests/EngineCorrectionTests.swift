import Core
import IO
import TestSupport
import Testing

@Suite("Correcting servers", .serialized) struct EngineCorrectionTests {
  @Test(.timeLimit(.minutes(10)))
  func `PostgreSQL is corrected by what the ledger says`() async throws {
    let rule = """
      ---
      apiVersion: salvor.dev/v1
      kind: Reconciliation
      metadata: {name: transfers-of-ledger}
      spec:
        left: {store: bank-db, query: "SELECT id, amount, note FROM transfers", table: public.transfers}
        right: {store: ledger, query: "SELECT id, amount, note FROM transfers", table: transfers}
        key: [id]
        truth: right

      """
    try await ReconcileSite.with(more: { _ in rule }) { it in
      let planted = try await spoil(it, "transfers-of-ledger") { try await it.server.sql($0) }
      try await mend(it, "transfers-of-ledger", planted)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `MariaDB is corrected, whatever its keys look like`() async throws {
    let server = try await MariaDBServer.start()
    let result: Result<Void, any Error>
    do { result = .success(try await mariaDB(server)) } catch { result = .failure(error) }
    await server.shutDown()
    try result.get()
  }

  private func mariaDB(_ server: MariaDBServer) async throws {
    let runAs = MariaDBServer.owner == nil ? "" : ", runAs: mysql"
    let more = """
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        stores:
          - name: shop-db
            mariadb: {dataDirectory: "\(server.data)", socket: "\(server.socket)", password: "file:\(server.passwordFile)", configFile: "\(server.configFile)"\(runAs)}
      ---
      apiVersion: salvor.dev/v1
      kind: Reconciliation
      metadata: {name: shop-of-transfers}
      spec:
        left: {store: shop-db, query: "SELECT id, amount, note FROM shop.transfers", table: shop.transfers}
        right: {store: bank-db, query: "SELECT id, amount, note FROM transfers", table: transfers}
        key: [id]
        truth: right

      """
    try await server.sql(
      "CREATE TABLE shop.transfers (id VARCHAR(100) COLLATE utf8mb4_bin, amount VARCHAR(100), note VARCHAR(100)) CHARSET utf8mb4",
      "GRANT INSERT, UPDATE, DELETE ON shop.* TO '\(MariaDBServer.user)'@'localhost'")
    try await ReconcileSite.with(more: { _ in more }) { it in
      // All of it is missing, and comes by the corrections themselves.
      let (id, found) = try await it.find("--rule", "shop-of-transfers")
      #expect(found.count == ReconcileSite.rows + hostileKeys.count)
      let (status, outcome) = try await it.apply(id, try await it.propose(id, to: "first"))
      #expect(status == 0 && outcome["after"]?.integer == 0, "\(outcome)")
      #expect(try await server.sql("SELECT COUNT(*) FROM shop.transfers") == "\(found.count)")
      var planted = try await spoil(it, "shop-of-transfers") {
        try await server.sql("SET NAMES utf8mb4", $0.replacing("transfers", with: "shop.transfers"))
      }
      for _ in 1...2 {
        try await server.sql("INSERT INTO shop.transfers SELECT * FROM shop.transfers WHERE id = 't7' LIMIT 1")
      }
      planted.insert("shop-of-transfers duplicate t7")
      try await mend(it, "shop-of-transfers", planted)
      #expect(try await server.sql("SELECT COUNT(*) FROM shop.transfers WHERE id = 't7'") == "1")
    }
  }

  /// Takes away, changes and adds, at the side whose word does not count.
  private func spoil(
    _ it: ReconcileSite, _ rule: String, _ run: (String) async throws -> Void
  ) async throws -> Set<String> {
    var planted: [String] = []
    for (number, key) in hostileKeys.enumerated() where !key.contains("\\") {
      if number.isMultiple(of: 2) {
        try await run("DELETE FROM transfers WHERE id = \(it.text(key))")
        planted.append("\(rule) missing \(key)")
      } else {
        try await run(
          "UPDATE transfers SET amount = \(it.text("x" + key)), note = 'was NULL' WHERE id = \(it.text(key))")
        planted.append("\(rule) changed \(key)")
      }
      try await run("INSERT INTO transfers (id, amount) VALUES (\(it.text("stray" + key)), NULL)")
      planted.append("\(rule) orphan stray\(key)")
    }
    return Set(planted.map(plain))
  }

  private func mend(_ it: ReconcileSite, _ rule: String, _ planted: Set<String>) async throws {
    let (id, found) = try await it.find("--rule", rule)
    #expect(found == planted, "\(found.symmetricDifference(planted).sorted())")
    let (status, outcome) = try await it.apply(id, try await it.propose(id))
    #expect(status == 0 && outcome["made"]?.integer == Int64(planted.count), "\(outcome)")
    #expect(outcome["after"]?.integer == 0, "\(outcome)")
    #expect(try await it.find("--rule", rule).found == [])
  }
}
