import Core
import IO
import Redaction
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite(.serialized) struct RedactionEngineTests {
  func withShop(_ body: (Shop) async throws -> Void) async throws {
    let shop = try await Shop()
    let result: Result<Void, any Error>
    let servers = shop.servers
    do { result = .success(try await body(shop)) } catch { result = .failure(error) }
    // Those in use are asked for nothing, and go on as the same processes.
    #expect(servers.count == 2 && shop.servers == servers)
    await shop.close()
    try result.get()
  }

  /// Which of the planted values are in any file below, by nothing but the bytes.
  func found(in directory: String) throws -> Set<String> {
    let scan = SecretScan(Planted.all)
    var found: Set<String> = []
    var open = [directory]
    while let path = open.popLast() {
      for name in try Files.names(in: path) {
        let place = "\(path)/\(name.lossyText)"
        var information = stat()
        guard lstat(place, &information) == 0 else { continue }
        for hit in scan.hits(in: name.bytes) { found.insert(Planted.all[hit.value]) }
        if information.st_mode & S_IFMT == S_IFDIR { open.append(place) }
        if information.st_mode & S_IFMT == S_IFREG {
          for hit in scan.hits(in: try Files.read(place)) { found.insert(Planted.all[hit.value]) }
        }
      }
    }
    return found
  }

  @Test(.timeLimit(.minutes(10)))
  func `a delivered cluster is read as the role that it has`() async throws {
    let home = try TemporaryDirectory("renamed")
    let server = try await PostgreSQLServer.start()
    do { try await redactRenamed(server, home) } catch { Issue.record("\(error)") }
    await server.shutDown()
  }

  private func redactRenamed(_ server: PostgreSQLServer, _ home: TemporaryDirectory) async throws {
    // As initdb -U boss would have made it.
    try await server.sql(
      "CREATE TABLE people (name text PRIMARY KEY)", "INSERT INTO people VALUES ('\(Planted.person)')",
      "CREATE ROLE helper SUPERUSER LOGIN PASSWORD '\(PostgreSQLServer.password)'")
    try await PostgreSQLServer.command(
      PostgreSQLServer.program("psql"),
      [
        "-XAtq", "-h", "127.0.0.1", "-p", "\(server.port)", "-U", "helper", "-d", "postgres", "-c",
        "ALTER ROLE postgres RENAME TO boss",
      ], asOwner: false, environment: ["PGPASSWORD": PostgreSQLServer.password])
    func write(_ name: String, _ text: String) throws { try Files.replace(home.file(name), with: Array(text.utf8)) }
    try write("password", "not-a-secret-in-a-test\n")
    try write("key", "a key of a test, thirty-two bytes\n")
    try write("planted.txt", Planted.person + "\n")
    try write(
      "salvor.yaml",
      """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(home.file("repository"))", password: "file:\(home.file("password"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        stores:
          - {name: accounts, driver: postgresql, options: {dataDirectory: \(server.data), port: \(server.port), user: boss, password: "env:PGPASSWORD"}}

      """)
    func policy(_ action: String) -> String {
      """
      apiVersion: salvor.dev/v1
      kind: RedactionPolicy
      metadata: {name: development}
      spec:
        key: "file:\(home.file("key"))"
        domains: {person: name}
        stores: {accounts: {tables: {public.people: {name: \(action)}}}}

      """
    }
    func salvor(_ words: String...) async throws -> CommandRun {
      try await CommandRun(
        [try built("salvor")] + words, in: home.path,
        environment: [
          "SALVOR_STATE": home.file("state"), "SALVOR_CATALOG": home.file("salvor.yaml"), "NO_COLOR": "1",
          "PGPASSWORD": PostgreSQLServer.password,
        ])
    }
    try await salvor("vault", "init", "-r", home.file("repository"), "-p", home.file("password")).succeeded()
    try await salvor("backup", "-q").succeeded()
    for (action, status, directory) in [("{pseudonym: person}", Int32(0), "clean"), ("keep", 4, "kept")] {
      try write("policy.yaml", policy(action))
      let copy = try await salvor("redact", "copy", "-q", "--policy", "policy.yaml", "--to", home.file(directory))
      try #require(copy.status == 0, "\(copy)")
      let scan = try await salvor("redact", "scan", "-q", home.file(directory), "--for", "planted.txt")
      #expect(scan.status == status && scan.output.contains("accounts"), "\(scan)")
      let facts = String(decoding: try Files.read(home.file(directory) + "/redaction.json"), as: UTF8.self)
      #expect(facts.contains("\"role\" : \"boss\"") || facts.contains("\"role\": \"boss\""), "\(facts)")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `nothing that was planted is anywhere in the copy, and joins and constraints still hold`() async throws {
    try await withShop { shop in
      // The scanner is right: it sees what queries don't.
      let live = try found(in: shop.postgres.data)
      #expect(
        live.isSuperset(of: [Planted.person, Planted.deleted, Planted.updated, Planted.large, Planted.comment]),
        "\(live)")
      #expect(
        try await shop.postgres.sql(
          "SELECT count(*) FROM customers WHERE name IN ('\(Planted.deleted)', '\(Planted.updated)')") == "0")

      let out = shop.home.file("out")
      let suggested = try await shop.salvor("redact", "suggest", "-q")
      #expect(suggested.status == 0 && suggested.output.contains("customers"), "\(suggested)")
      let check = try await shop.salvor("redact", "check", "-q", "--policy", "development.yaml")
      #expect(check.status == 0, "\(check)")
      let copy = try await shop.salvor("redact", "copy", "-q", "--policy", "development.yaml", "--to", out)
      try #require(copy.status == 0, "\(copy)")
      #expect(try found(in: out) == [])
      let scan = try await shop.salvor("redact", "scan", "-q", out, "--for", "planted.txt")
      #expect(scan.status == 0 && scan.output.contains("accounts, cache, documents, ledger"), "\(scan)")
      // Nothing of what was restored is left.
      #expect(try Files.names(in: shop.home.path).map(\.lossyText).allSatisfy { !$0.hasPrefix(".salvor-") })

      let id = try await ledger(out)
      try await accounts(out, id)
      try await cache(out, id)
      let invoice = String(decoding: try Files.read("\(out)/documents/docs/invoices/\(id).json"), as: UTF8.self)
      #expect(
        invoice.hasPrefix("{\"customer\":\(id),\"name\":\"") && invoice.hasSuffix("\"total\":5.50}"), "\(invoice)")
      #expect(!Files.exists("\(out)/documents/docs/dump.bin") && !Files.exists("\(out)/documents/docs/latest"))
    }
  }

  /// - Returns: What customer 1 is called in the copy.
  private func ledger(_ out: String) async throws -> String {
    let file = "\(out)/ledger/ledger.db"
    func ask(_ sql: String) async throws -> String {
      try await CommandRun(["sqlite3", file, sql]).succeeded().output.split(separator: "\n").joined(separator: ";")
    }
    #expect(try await ask("PRAGMA integrity_check; PRAGMA foreign_key_check") == "ok")
    #expect(try await ask("SELECT amount FROM entries JOIN people p ON p.id = customer ORDER BY 1") == "5.5;7.25")
    #expect(try await ask("SELECT seq FROM sqlite_sequence WHERE name = 'entries'") == "2")
    let refused = try await CommandRun(["sqlite3", file, "INSERT INTO people VALUES(9, 'x', NULL)"])
    #expect(refused.status != 0 && refused.errors.contains("CHECK"))
    return try await ask("SELECT customer FROM entries WHERE id = 1")
  }

  private func accounts(_ out: String, _ id: String) async throws {
    let data = "\(out)/accounts/data"
    let room = try TemporaryDirectory("room")
    if let owner = PostgreSQLServer.owner { chown(room.path, owner.userID, owner.groupID) }
    func run(_ program: String, _ words: String...) async throws -> String {
      try await PostgreSQLServer.command(PostgreSQLServer.program(program), words, asOwner: true)
    }
    _ = try await run(
      "pg_ctl", "-D", data, "-w", "-l", room.file("log"), "-o",
      "-c listen_addresses='' -c unix_socket_directories=\(room.path)", "start")
    let result: Result<Void, any Error>
    do {
      func ask(_ sql: String) async throws -> String {
        try await run("psql", "-XAtq", "-h", room.path, "-U", "postgres", "-c", sql)
      }
      #expect(try await ask("SELECT customer FROM orders WHERE id = 1") == id)
      #expect(
        try await ask("SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer JOIN totals USING (name)")
          == "3")
      #expect(try await ask("SELECT count(*) FROM parts JOIN customers ON id = customer WHERE up = upper(name)") == "1")
      #expect(
        try await ask("SELECT count(*) FROM customers c JOIN people p ON p.name = c.name AND p.card::text = c.card")
          == "1")
      #expect(
        try await ask(
          "SELECT profile->>'mail' = email AND tags[1] = name AND profile->>'n' = '12.50' FROM customers WHERE id = \(id)"
        ) == "t")
      #expect(
        try await ask(
          "SELECT count(*), count(*) FILTER (WHERE convalidated) FROM pg_constraint WHERE conrelid >= 16384") == "9|9")
      #expect(
        try await ask(
          "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid >= 16384 AND indrelid::regclass::text NOT LIKE 'pg_toast%'"
        ) == "8")
      #expect(try await ask("SELECT nextval('customers_id_seq') > max(id) FROM customers") == "t")
      #expect(try await ask("SELECT last_value FROM tickets") == "1")
      #expect(try await ask("SELECT count(*) FROM pg_authid WHERE rolname = 'app' AND rolpassword IS NULL") == "1")
      await #expect(throws: (any Error).self) { try await ask("INSERT INTO orders VALUES (9, 9)") }
      await #expect(throws: (any Error).self) { try await ask("UPDATE customers SET card = 'x'") }
      result = .success(())
    } catch { result = .failure(error) }
    _ = try await run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    try result.get()
  }

  private func cache(_ out: String, _ id: String) async throws {
    let room = try TemporaryDirectory("room")
    try await CommandRun(["cp", "\(out)/cache/data/dump.rdb", room.path]).succeeded()
    let socket = room.file("s")
    let server = try await CommandRun(
      [
        "redis-server", "--port", "0", "--unixsocket", socket, "--dir", room.path, "--save", "", "--daemonize", "yes",
        "--pidfile", room.file("pid"),
      ])
    try server.succeeded()
    func ask(_ words: String...) async throws -> String {
      let run = try await CommandRun(["redis-cli", "-s", socket] + words)
      return run.output.split(separator: "\n").joined(separator: " ")
    }
    while try await ask("PING") != "PONG" {}
    #expect(try await ask("DBSIZE") == "6")
    let name = try await ask("HGET", "customer:\(id)", "name")
    #expect(try await ask("HGET", "customer:\(id)", "city") == "Bonn" && !name.isEmpty)
    #expect(try await ask("LINDEX", "recent", "1") == name)
    #expect(try await ask("ZSCORE", "board", name) == "5")
    #expect(try await ask("SISMEMBER", "group", id) == "1")
    #expect(try await ask("XRANGE", "events", "-", "+") == "5-1 who \(name)")
    #expect(Int(try await ask("TTL", "session:\(id)")) ?? 0 > 90_000)
    #expect(try await ask("-n", "2", "STRLEN", "note") == "0")
    _ = try await ask("SHUTDOWN", "NOSAVE")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a rule that keeps is seen, what no rule speaks of delivers nothing, and a killed run leaves nothing`()
    async throws
  {
    try await withShop { shop in
      // The negative control: one column of one store.
      try shop.write("kept.yaml", shop.policy.replacing("mail: {pseudonym: email}}\n", with: "mail: keep}\n"))
      let kept = shop.home.file("kept")
      try await shop.salvor("redact", "copy", "-q", "--policy", "kept.yaml", "--to", kept, "--store", "ledger")
        .succeeded()
      let seen = try await shop.salvor("redact", "scan", "-q", kept, "--for", "planted.txt")
      #expect(
        seen.status == 4 && seen.output.contains("line 2 as it is") && !seen.output.contains("zacharias"), "\(seen)")
      #expect(try found(in: kept) == [Planted.email])

      // What an UPDATE in place would have delivered: no query finds it, the bytes hold it.
      let place = shop.home.file("in-place")
      try Files.createDirectory(place)
      try await CommandRun(["cp", shop.home.file("ledger.db"), "\(place)/ledger.db"]).succeeded()
      try await CommandRun(
        [
          "sqlite3", "\(place)/ledger.db",
          "PRAGMA secure_delete=OFF; UPDATE people SET name = 'x' || id || 'y', mail = id; UPDATE entries SET memo = NULL",
        ]).succeeded()
      #expect(
        try await CommandRun(["sqlite3", "\(place)/ledger.db", ".dump"]).output.contains("Quillfeather") == false)
      #expect(try found(in: place).contains(Planted.person))

      // A column nobody thought of.
      try shop.write("short.yaml", shop.policy.replacing("amount: keep, ", with: ""))
      let short = try await shop.salvor(
        "redact", "copy", "-q", "--policy", "short.yaml", "--to", shop.home.file("short"))
      #expect(
        short.status != 0 && short.errors.contains("REDACT-102") && short.errors.contains("entries.amount"), "\(short)")
      #expect(!Files.exists(shop.home.file("short")))

      // Killed on the way.
      let killed = shop.home.file("killed")
      try await CommandRun(
        [
          "bash", "-c",
          """
          \(shop.program) redact copy -q --policy development.yaml --to \(killed) --store ledger --store documents --store cache & child=$!
          until ls -d .salvor-redact-killed-*/made/*/* 2>/dev/null >&2 || ! kill -0 $child 2>/dev/null; do :; done
          kill -9 $child; wait $child; true
          """,
        ], in: shop.home.path,
        environment: ["SALVOR_STATE": shop.home.file("state"), "SALVOR_CATALOG": shop.home.file("salvor.yaml")]
      ).succeeded()
      #expect(!Files.exists(killed))
      let left = try #require(
        try Files.names(in: shop.home.path).map(\.lossyText).first { $0.hasPrefix(".salvor-redact-killed-") })
      try await shop.salvor("redact", "copy", "-q", "--policy", "development.yaml", "--to", killed, "--store", "ledger")
        .succeeded()
      #expect(try Files.names(in: shop.home.path).map(\.lossyText).allSatisfy { !$0.hasPrefix(".salvor-") })
      #expect(try found(in: killed) == [])
      // Its servers went with it.
      let works = try await CommandRun(["bash", "-c", "readlink /proc/[0-9]*/cwd | grep -F '\(left)' | wc -l"])
      #expect(works.output == "0\n")
    }
  }
}

extension RedactionEngineTests {
  @Test(.timeLimit(.minutes(10)))
  func `what is made of a learned shape holds nothing real, loads, and is the same for the same seed`() async throws {
    try await withShop { shop in
      let learned = try await shop.salvor(
        "synthesize", "learn", "-q", "--to", "profile.json", "--link",
        "ledger:people.id=accounts:public.customers.id", "--store", "accounts", "--store", "ledger")
      try #require(learned.status == 0, "\(learned)")
      for name in ["one", "two"] {
        try await shop.salvor(
          "synthesize", "make", "--profile", "profile.json", "--seed", "7", "--scale", "10", "--to", name
        ).succeeded()
      }
      try await CommandRun(["diff", "-r", shop.home.file("one"), shop.home.file("two")]).succeeded()
      let place = shop.home.file("scanned")
      try Files.createDirectory(place)
      try await CommandRun(["cp", "-r", shop.home.file("one"), shop.home.file("profile.json"), place]).succeeded()
      #expect(try found(in: place) == [])
      let file = shop.home.file("made.db")
      try await CommandRun(["sqlite3", file, ".bail on", ".read \(shop.home.file("one"))/ledger/load.sql"]).succeeded()
      let checked = try await CommandRun(
        [
          "sqlite3", file,
          "PRAGMA integrity_check; PRAGMA foreign_key_check; SELECT count(*), max(id) <= 30 FROM people",
        ]).succeeded()
      #expect(checked.output == "ok\n20|1\n", "\(checked)")
      try await shop.postgres.sql("CREATE DATABASE made TEMPLATE template0")
      try await PostgreSQLServer.command(
        PostgreSQLServer.program("psql"),
        [
          "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", "\(shop.postgres.port)", "-U", "postgres", "-d",
          "made", "-f", "\(shop.home.file("one"))/accounts/load.sql",
        ],
        asOwner: false, environment: ["PGPASSWORD": PostgreSQLServer.password])
      #expect(
        try await shop.postgres.sql(
          "SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer", database: "made") == "30")
    }
  }
}
