import Core
import IO
import TestSupport
import Testing

@Suite("Dumps") struct DumpTests {
  private static let content = """
    SELECT count(*), sum(hashtext(o::text)::bigint) FROM orders o
    """

  @Test(.timeLimit(.minutes(10)))
  func `a dropped table comes back, and what the others were given since stays`() async throws {
    try await DumpSite.with { site in
      let before = try await site.shop(Self.content)
      let dump = try await site.take("--database", "shop")
      #expect(dump["dump"]?["isWhole"]?.bool == true)
      try await site.shop(
        "INSERT INTO customers VALUES (51, 'late')", "UPDATE customers SET name = 'other' WHERE id = 1",
        "DROP TABLE orders")
      let plan = try await site.restore("--database", "shop", "--table", "public.orders", "--dry-run").succeeded()
      #expect(plan.output.contains("would bring back") && plan.output.contains("public.orders"))
      #expect(try await site.shop("SELECT to_regclass('orders')") == "", "a plan changes nothing")
      let refused = try await site.restore("--database", "shop", "--table", "public.orders")
      #expect(refused.errors.contains("USAGE-201"), "\(refused.errors)")
      try await site.restore("--database", "shop", "--table", "public.orders", "--yes").succeeded()
      #expect(try await site.shop(Self.content) == before)
      #expect(
        try await site.shop("SELECT count(*), (SELECT name FROM customers WHERE id = 1) FROM customers") == "51|other")
      // With all that belongs to it.
      #expect(
        try await site.shop("SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'") == "2")
      #expect(
        try await site.shop(
          "SELECT contype, convalidated FROM pg_constraint WHERE conrelid = 'orders'::regclass ORDER BY 1")
          == "c|t\nf|t\np|t")
      #expect(try await site.shop("SELECT obj_description('orders'::regclass)") == "what was ordered")
      #expect(
        try await site.shop("INSERT INTO orders (customer, total) VALUES (1, 1) RETURNING id") == "501",
        "its numbers go on")
    }
  }
}

extension DumpTests {
  // MARK: One moment

  /// Money that moves from one table to the other while they are dumped is in one of them.
  @Test(.timeLimit(.minutes(10))) func `a dump is of one moment while writes go on`() async throws {
    try await DumpSite.with { site in
      try await site.shop(
        "CREATE TABLE here (id int PRIMARY KEY, amount bigint)",
        "CREATE TABLE there (id int PRIMARY KEY, amount bigint)",
        "CREATE TABLE moves (id bigint GENERATED ALWAYS AS IDENTITY, amount int)",
        "INSERT INTO here SELECT n, 1000 FROM generate_series(1, 2000) n",
        "INSERT INTO there SELECT n, 1000 FROM generate_series(1, 2000) n")
      let script = site.home.file("move.sql")
      try Files.replace(
        script,
        with: Array(
          """
          \\set a random(1, 2000)
          \\set x random(1, 10)
          BEGIN;
          UPDATE here SET amount = amount - :x WHERE id = :a;
          UPDATE there SET amount = amount + :x WHERE id = :a;
          INSERT INTO moves (amount) VALUES (:x);
          COMMIT;
          """.utf8), mode: 0o644)
      let target = "host=127.0.0.1 port=\(site.server.port) user=\(PostgreSQLServer.user) dbname=shop"
      let stop = site.home.file("stop")
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          while !Files.exists(stop) {
            try await PostgreSQLServer.command(
              PostgreSQLServer.program("pgbench"), ["-n", "-c", "2", "-t", "5000", "-f", script, target],
              asOwner: false,
              environment: ["PGPASSWORD": PostgreSQLServer.password])
          }
        }
        // Begun once writers are at it.
        while try await site.shop("SELECT count(*) > 0 FROM moves") != "t" {
          try await SystemTime().sleep(for: .milliseconds(20))
        }
        do {
          try await site.take("--database", "shop")
          let atEnd = try await site.shop("SELECT count(*) FROM moves")
          while try await site.shop("SELECT count(*) > \(atEnd) FROM moves") != "t" {
            try await SystemTime().sleep(for: .milliseconds(20))
          }
        } catch {
          try Files.replace(stop, with: [])
          throw error
        }
        try Files.replace(stop, with: [])
        try await group.waitForAll()
      }
      try await site.restore("--database", "shop", "--into", "back", "--yes").succeeded()
      let sums = """
        SELECT (SELECT sum(amount) FROM here) + (SELECT sum(amount) FROM there),
          (SELECT sum(amount) FROM there) - 2000000 = (SELECT coalesce(sum(amount), 0) FROM moves)
        """
      #expect(try await site.server.sql(sums, database: "back") == "4000000|t")
      let (then, now) = (
        try await site.server.sql("SELECT count(*) FROM moves", database: "back"),
        try await site.shop("SELECT count(*) FROM moves")
      )
      #expect(try #require(Int(then)) > 0 && Int(then) ?? 0 < Int(now) ?? 0, "writes went on: \(then), \(now)")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a second dump adds what changed`() async throws {
    try await DumpSite.with { site in
      try await site.shop(
        "CREATE TABLE facts AS SELECT n, md5(n::text) || md5((n + 1)::text) AS a FROM generate_series(1, 100000) n")
      let first = try await site.take("--database", "shop")
      try await site.shop("UPDATE facts SET a = 'changed' WHERE n = 50000")
      let second = try await site.take("--database", "shop")
      let (a, b) = (first["addedBytes"]?.integer ?? 0, second["addedBytes"]?.integer ?? .max)
      let size = second["sizeBytes"]?.integer ?? 0
      #expect(size > 6_000_000 && b < size / 4 && b < a, "first \(a), second \(b), of \(size)")
    }
  }

  // MARK: Names

  private static let names = [
    "-t", "--clean", "Odd.Name", "with \"quotes\" and 'more'", "*", "a|b$c(?d)", "back\\slash", " blank ", "ünïcode",
    "line\nbreak",
  ]

  @Test(.timeLimit(.minutes(10)))
  func `names of databases and tables may hold anything`() async throws {
    try await DumpSite.with { site in
      let databases = ["a=b host=nowhere", "postgresql://nowhere/x", "-d", "it's \\ \"odd\""]
      func sql(_ text: String, _ database: String = "postgres") async throws -> String {
        // psql's own words for where to connect are not what is tried here.
        try await PostgreSQLServer.command(
          PostgreSQLServer.program("psql"), ["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text], asOwner: false,
          environment: [
            "PGPASSWORD": PostgreSQLServer.password, "PGHOST": "127.0.0.1", "PGPORT": "\(site.server.port)",
            "PGUSER": PostgreSQLServer.user, "PGDATABASE": database,
          ])
      }
      func quoted(_ name: String) -> String { "\"" + name.replacing("\"", with: "\"\"") + "\"" }
      for database in databases {
        _ = try await sql("CREATE DATABASE \(quoted(database)) TEMPLATE template0")
        _ = try await sql("CREATE SCHEMA \"s.s\"", database)
        for (number, name) in Self.names.enumerated() {
          _ = try await sql(
            "CREATE TABLE \"s.s\".\(quoted(name)) AS SELECT \(number) AS n; CREATE TABLE \(quoted(name)) AS SELECT -1 AS n",
            database)
        }
        // Each by itself, and nothing else with it.
        let words = Self.names.map { "--table=\"s.s\".\(quoted($0))" }
        let run = try await site.salvor(
          ["dump", "take", "ledger", "--work", site.work, "-o", "json", "--database=\(database)"] + words)
        try run.succeeded()
        let dump = try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
        #expect(dump["dump"]?["tables"]?.array?.compactMap { $0["name"]?.string }.sorted() == Self.names.sorted())
        #expect(dump["dump"]?["tables"]?.array?.allSatisfy { $0["schema"]?.string == "s.s" } == true)
        let back = "back of " + database
        let restored = try await site.salvor(
          [
            "dump", "restore", "ledger", "--work", site.work, "--database=\(database)", "--into=\(back)", "--yes",
          ] + words)
        try restored.succeeded()
        for (number, name) in Self.names.enumerated() {
          #expect(try await sql("SELECT n FROM \"s.s\".\(quoted(name))", back) == "\(number)", "\(name) in \(database)")
        }
        #expect(try await sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", back) == "0")
      }
    }
  }

  // MARK: Into what is there

  @Test(.timeLimit(.minutes(10)))
  func `what is there is dropped on an explicit word only, and nothing that leans on it`() async throws {
    try await DumpSite.with { site in
      let before = try await site.shop(Self.content)
      try await site.take("--database", "shop", "--table", "orders")
      try await site.shop(
        "DELETE FROM orders WHERE id > 10", "CREATE VIEW big AS SELECT id FROM orders WHERE total > 5")
      let refused = try await site.restore("--database", "shop", "--table", "orders", "--yes")
      #expect(refused.status != 0 && refused.errors.contains("DUMP-204") && refused.errors.contains("public.orders"))
      let leaning = try await site.restore("--database", "shop", "--table", "orders", "--replace", "--yes")
      #expect(leaning.errors.contains("DUMP-106") && leaning.errors.contains("view public.big"), "\(leaning.errors)")
      #expect(try await site.shop("SELECT count(*) FROM orders") == "10", "in one transaction or not at all")
      try await site.shop("DROP VIEW big")
      try await site.restore("--database", "shop", "--table", "orders", "--replace", "--yes").succeeded()
      #expect(try await site.shop(Self.content) == before)
      // What it points to has lost a row: nothing is left half-way.
      try await site.shop("DROP TABLE orders", "DELETE FROM customers WHERE id = 7")
      let broken = try await site.restore("--database", "shop", "--table", "orders", "--yes")
      #expect(broken.errors.contains("DUMP-106") && broken.errors.contains("orders_customer_fkey"), "\(broken.errors)")
      #expect(try await site.shop("SELECT to_regclass('orders')") == "")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `part of a dump comes back beside with what it needs, and names what stays behind`() async throws {
    try await DumpSite.with { site in
      try await site.shop(
        "CREATE EXTENSION citext", "CREATE SCHEMA stock", "CREATE TYPE stock.state AS ENUM ('new', 'sent')",
        "CREATE FUNCTION stock.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := NEW.note || ''!''; RETURN NEW; END'",
        """
        CREATE TABLE stock.parts (id int, at int, state stock.state DEFAULT 'new', note citext,
          customer int REFERENCES customers, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)
        """,
        "CREATE TABLE stock.parts_1 PARTITION OF stock.parts FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE stock.parts_2 PARTITION OF stock.parts FOR VALUES FROM (10) TO (20)",
        "CREATE TRIGGER touch BEFORE INSERT ON stock.parts FOR EACH ROW EXECUTE FUNCTION stock.touch()",
        "INSERT INTO stock.parts SELECT n, n % 20, 'sent', 'note', 1 FROM generate_series(1, 100) n",
        "CREATE VIEW stock.sent AS SELECT id FROM stock.parts WHERE state = 'sent'",
        "CREATE TABLE other (n int)", "INSERT INTO other VALUES (1)")
      try await site.take("--database", "shop")
      let words = ["--database", "shop", "--table", "stock.parts", "--into", "beside", "-o", "json"]
      let plan = try await site.salvor(["dump", "restore", "ledger", "--work", site.work, "--dry-run"] + words)
      let json = try CanonicalJSON.decode(JSONValue.self, from: Array(plan.succeeded().output.utf8))["plan"]
      #expect(
        json?["tables"]?.array?.compactMap(\.string) == ["stock.parts", "stock.parts_1", "stock.parts_2"])
      #expect(json?["makesDatabase"]?.bool == true)
      let left = json?["left"]?.array?.compactMap(\.string) ?? []
      #expect(left.contains { $0.contains("VIEW stock sent") }, "\(left)")
      #expect(left.contains { $0.contains("FK CONSTRAINT stock parts") }, "customers are not there: \(left)")
      try await site.salvor(["dump", "restore", "ledger", "--work", site.work, "--yes"] + words).succeeded()
      let tables =
        "SELECT string_agg(c.oid::regclass::text, ' ' ORDER BY c.oid::regclass::text) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v') AND n.nspname IN ('public', 'stock')"
      #expect(try await site.server.sql(tables, database: "beside") == "stock.parts stock.parts_1 stock.parts_2")
      #expect(
        try await site.server.sql(
          "INSERT INTO stock.parts VALUES (1000, 5, DEFAULT, 'Late') RETURNING state, note = 'LATE!', tableoid::regclass",
          "SELECT count(*) FROM stock.parts", database: "beside") == "new|t|stock.parts_1\n101")
      #expect(try await site.shop("SELECT count(*) FROM stock.parts") == "100", "the live one is as it was")
    }
  }

  // MARK: What is missing

  @Test(.timeLimit(.minutes(10))) func `roles and extensions that are missing are named`() async throws {
    try await DumpSite.with { site in
      try await site.server.sql("CREATE ROLE \"Shop Keeper\"", "CREATE ROLE reader")
      try await site.shop(
        "CREATE EXTENSION citext", "CREATE TABLE goods (name citext[])", "ALTER TABLE goods OWNER TO \"Shop Keeper\"",
        "GRANT SELECT ON goods TO reader")
      try await site.take("--database", "shop")
      try await site.shop("DROP TABLE goods", "DROP EXTENSION citext")
      try await site.server.sql("DROP ROLE \"Shop Keeper\"", "DROP ROLE reader")
      let roles = try await site.restore("--database", "shop", "--table", "goods", "--yes")
      #expect(
        roles.errors.contains("DUMP-205") && roles.errors.contains("'Shop Keeper'") && roles.errors.contains("'reader'")
      )
      #expect(!roles.errors.contains("'\(PostgreSQLServer.user)'"))
      let extensions = try await site.restore("--database", "shop", "--table", "goods", "--no-owner", "--yes")
      #expect(extensions.errors.contains("DUMP-206") && extensions.errors.contains("'citext'"), "\(extensions.errors)")
      // A table that has nothing to do with them.
      try await site.shop("DROP TABLE orders")
      try await site.restore("--database", "shop", "--table", "orders", "--yes").succeeded()
      try await site.shop("CREATE EXTENSION citext")
      try await site.restore("--database", "shop", "--table", "goods", "--no-owner", "--yes").succeeded()
      #expect(
        try await site.shop("SELECT tableowner FROM pg_tables WHERE tablename = 'goods'") == PostgreSQLServer.user)
      let whole = try await site.restore("--database", "shop", "--into", "back", "--yes")
      #expect(whole.errors.contains("DUMP-205"))
      try await site.restore("--database", "shop", "--into", "back", "--no-owner", "--yes").succeeded()
    }
  }

  @Test(.timeLimit(.minutes(10))) func `what can't be is refused before anything is done`() async throws {
    try await DumpSite.with { site in
      func errors(_ words: String...) async throws -> String {
        let run = try await site.salvor(["dump"] + words + ["--work", site.work])
        #expect(run.status != 0)
        return run.errors
      }
      #expect(try await errors("take", "ledger", "--database", "shopp").contains("DUMP-102"))
      for name in ["nothing", "public.nothing", "orders; DROP TABLE orders", "\"", "orders_customer", "pg_class"] {
        let said = try await errors("take", "ledger", "--database", "shop", "--table", "orders", "--table=\(name)")
        #expect(said.contains("DUMP-103"), "\(name): \(said)")
      }
      #expect(try await errors("restore", "ledger", "--database", "shop", "--yes").contains("DUMP-201"))
      #expect(try await errors("take", "nothing", "--database", "shop").contains("no store"))
      try await site.take("--database", "shop", "--table", "orders")
      #expect(
        try await errors("restore", "ledger", "--database", "shop", "--yes").contains("DUMP-201"), "it is not whole")
      #expect(
        try await errors("restore", "ledger", "--database", "shop", "--table", "customers", "--yes").contains(
          "DUMP-203"))
      #expect(
        try await errors(
          "restore", "ledger", "--database", "shop", "--table", "orders", "--at", "2020-01-01T00:00:00Z", "--yes"
        ).contains("DUMP-201"))
      // A program that is older than the server.
      let bin = site.home.file("bin")
      try Files.createDirectory(bin)
      try site.write(user: PostgreSQLServer.user, more: "binDirectory: \"\(bin)\"")
      #expect(try await errors("take", "ledger", "--database", "shop").contains("DUMP-104"))
      for name in ["pg_dump", "pg_restore"] {
        try Files.replace(
          "\(bin)/\(name)", with: Array("#!/bin/sh\necho '\(name) (PostgreSQL) 14.9 (Debian)'\n".utf8), mode: 0o755)
      }
      let old = try await errors("take", "ledger", "--database", "shop")
      #expect(old.contains("DUMP-104") && old.contains("14.9"), "\(old)")
      let restore = try await errors("restore", "ledger", "--database", "shop", "--table", "orders", "--yes")
      #expect(restore.contains("DUMP-104"), "\(restore)")
    }
  }

  /// With a small file system at `--work`, which nobody else sees.
  @Test(.timeLimit(.minutes(10))) func `a place without room is refused, and nothing is written`() async throws {
    try await DumpSite.with { site in
      func cramped(_ words: String...) async throws -> CommandRun {
        try await CommandRun(
          [
            "unshare", "-rm", "bash", "-ec", "mount -t tmpfs -o size=1m none \"$0\"; exec \"$@\"", site.work,
            CommandRun.product("salvor"), "dump",
          ] + words + ["--work", site.work], in: site.home.path,
          environment: ["SALVOR_STATE": site.home.file("state"), "NO_COLOR": "1"])
      }
      let refused = try await cramped("take", "ledger", "--database", "shop")
      #expect(refused.errors.contains("DUMP-105"), "\(refused.errors)")
      try await site.shop("CREATE TABLE facts AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n")
      try await site.take("--database", "shop")
      let whole = try await cramped("restore", "ledger", "--database", "shop", "--into", "back", "--yes")
      #expect(whole.errors.contains("DUMP-105"), "\(whole.errors)")
      #expect(try await site.server.sql("SELECT count(*) FROM pg_database WHERE datname = 'back'") == "0")
      // What is asked for fits, and nothing else is fetched.
      try await cramped("restore", "ledger", "--database", "shop", "--table", "orders", "--into", "back", "--yes")
        .succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM orders", database: "back") == "500")
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a role that may read is enough`() async throws {
    try await DumpSite.with { site in
      try await site.server.sql(
        "CREATE ROLE reader LOGIN PASSWORD '\(PostgreSQLServer.password)'", "GRANT pg_read_all_data TO reader")
      try site.write(user: "reader")
      try await site.take("--database", "shop")
      let denied = try await site.restore("--database", "shop", "--into", "back", "--yes")
      #expect(denied.errors.contains("DRIVER-203"), "\(denied.errors)")
      try await site.server.sql("ALTER ROLE reader CREATEDB")
      try await site.restore("--database", "shop", "--into", "back", "--no-owner", "--yes").succeeded()
      #expect(try await site.server.sql("SELECT count(*) FROM orders", database: "back") == "500")
    }
  }

  // MARK: In the repository

  @Test(.timeLimit(.minutes(10))) func `a dump is no recovery point, and retention counts it by itself`() async throws {
    try await DumpSite.with { site in
      for _ in 1...2 { try await site.take("--database", "shop") }
      try await site.take("--database", "shop", "--table", "orders")
      let points = try await site.salvor("points", "-o", "json").succeeded().output
      #expect(try CanonicalJSON.decode([JSONValue].self, from: Array(points.utf8)).isEmpty)
      let nothing = try await site.salvor("restore", "--yes")
      #expect(nothing.status != 0 && !nothing.errors.contains("DUMP"))
      let backup = try await site.salvor("backup", "-o", "json").succeeded()
      #expect(backup.output.contains("\"point\"") || backup.output.contains("\"id\""))
      #expect(!backup.output.contains("dump.json"), "nothing of a dump is taken for an earlier copy")
      let repository = ["-r", site.home.file("vault"), "-p", site.home.file("password")]
      try await site.salvor(["vault", "forget", "--keep-last", "1"] + repository).succeeded()
      let left = try CanonicalJSON.decode(
        [JSONValue].self,
        from: Array(try await site.salvor("dump", "list", "ledger", "-o", "json").succeeded().output.utf8))
      #expect(left.map { $0["dump"]?["isWhole"]?.bool } == [true, false], "one of each kind")
      let id = String(left[0]["id"]?.string?.prefix(10) ?? "")
      let tag = try await site.salvor(["vault", "tag", "--remove", "salvor-dump", id] + repository)
      #expect(tag.status != 0, "the tag that it is found by stays")
      #expect(try await site.salvor("dump", "list", "--id", id).succeeded().output.contains("public.customers"))
    }
  }
}

extension DumpTests {
  // MARK: Cancelled

  /// Commands of programs of PostgreSQL's that work on files below `place`.
  private static func programs(_ place: String) throws -> [String] {
    try Files.names(in: "/proc").map(\.lossyText).filter { Int($0) != nil }.compactMap { process in
      (try? Files.read("/proc/\(process)/cmdline", limitBytes: 1 << 20)).map { String(decoding: $0, as: UTF8.self) }
    }.filter { $0.contains("/pg_") && $0.contains(place) }
  }

  /// Starts the program, waits until one of its sessions waits for a lock, and ends it.
  private func interrupt(_ site: DumpSite, _ words: [String]) async throws -> PipedProcess {
    let process = try PipedProcess(
      [CommandRun.product("salvor"), "dump"] + words, in: site.home.path,
      environment: ["SALVOR_STATE": site.home.file("state"), "NO_COLOR": "1"])
    let deadline = SystemTime().monotonicNanoseconds() + Duration.seconds(400).wholeNanoseconds
    let waits =
      "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'salvor dump' AND wait_event_type = 'Lock'"
    while try await site.server.sql(waits) == "0" {
      guard process.isRunning, SystemTime().monotonicNanoseconds() < deadline else {
        throw CommandRun.Failed(description: "it ended: \(process.errors)")
      }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    let lines = try Self.programs(site.work)
    #expect(!lines.isEmpty && lines.allSatisfy { !$0.contains(PostgreSQLServer.password) }, "no secret is an argument")
    process.terminate()
    _ = await BlockingPool.shared.run { process.wait() }
    return process
  }

  @Test(.timeLimit(.minutes(10))) func `what is cancelled leaves nothing behind`() async throws {
    try await DumpSite.with { site in
      let before = try await site.shop(Self.content)
      try await site.take("--database", "shop")
      let held = site.home.file("held")
      let target = "host=127.0.0.1 port=\(site.server.port) user=\(PostgreSQLServer.user) dbname=shop"
      // A session that keeps the table to itself until it is told to stop.
      let keeper = try PipedProcess(
        [PostgreSQLServer.program("psql"), "-XAtq", target], environment: ["PGPASSWORD": PostgreSQLServer.password])
      defer { keeper.end() }
      keeper.write(Array("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE;\n\\! touch '\(held)'\n".utf8))
      while !Files.exists(held) { try await SystemTime().sleep(for: .milliseconds(20)) }
      let common = ["ledger", "--work", site.work, "--database", "shop"]
      let dump = try await interrupt(site, ["take"] + common)
      #expect(dump.wait() != 0 && dump.errors.contains("CORE-001"), "\(dump.errors)")
      let restore = try await interrupt(site, ["restore", "--table", "orders", "--replace", "--yes"] + common)
      #expect(restore.wait() != 0, "\(restore.errors)")
      #expect(try Self.programs(site.work).isEmpty, "no program goes on")
      keeper.write(Array("ROLLBACK;\n".utf8))
      keeper.end()
      _ = await BlockingPool.shared.run { keeper.wait() }
      #expect(try await site.shop(Self.content) == before)
      let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'salvor%'"
      while try await site.server.sql(sessions) != "0" { try await SystemTime().sleep(for: .milliseconds(50)) }
      let list = try await site.salvor("dump", "list", "-o", "json").succeeded().output
      #expect(try CanonicalJSON.decode([JSONValue].self, from: Array(list.utf8)).count == 1, "no half of a dump")
      try await site.restore("--database", "shop", "--into", "back", "--yes").succeeded()
      #expect(try await site.server.sql(Self.content, database: "back") == before)
    }
  }

  /// A database that is being made has its name once it is whole.
  @Test(.timeLimit(.minutes(10))) func `a new database is there whole, or not at all`() async throws {
    try await DumpSite.with { site in
      // A check that finds its table where the session looks, and a restore looks nowhere.
      try await site.shop(
        "CREATE FUNCTION known(int) RETURNS bool LANGUAGE sql AS 'SELECT count(*) > 0 FROM customers WHERE id = $1'",
        "CREATE TABLE odd (n int CHECK (known(n)))", "INSERT INTO odd VALUES (9)")
      try await site.take("--database", "shop")
      for tables in [[], ["--table", "odd"]] {
        let run = try await site.salvor(
          ["dump", "restore", "ledger", "--work", site.work, "--database", "shop", "--into", "back", "--yes"] + tables)
        #expect(run.errors.contains("DUMP-106") && run.errors.contains("customers"), "\(run.errors)")
      }
      #expect(try await site.server.sql("SELECT count(*) FROM pg_database WHERE datname = 'back'") == "0")
      try await site.restore("--database", "shop", "--table", "orders", "--into", "back", "--yes").succeeded()
      // And one that is there is never taken for a new one.
      try await site.server.sql("CREATE TABLE own (n int)", database: "back")
      let again = try await site.restore("--database", "shop", "--table", "orders", "--into", "back", "--yes")
      #expect(again.errors.contains("DUMP-204"))
      try await site.restore("--database", "shop", "--table", "customers", "--into", "back", "--yes").succeeded()
      #expect(
        try await site.server.sql("SELECT count(*) FROM customers", "SELECT count(*) FROM own", database: "back")
          == "50\n0")
    }
  }
}

#if canImport(Glibc)
  import Glibc
#endif

extension DumpTests {
  // MARK: A standby

  /// A standby can be dumped, so that the primary is spared; it can't be copied, and can't be restored into: both say so.
  @Test(.timeLimit(.minutes(10))) func `a standby is dumped, and refuses the rest`() async throws {
    try await DumpSite.with { site in
      let standby = try await site.server.standby()
      let result: Result<Void, any Error>
      do {
        try await site.shop("INSERT INTO customers VALUES (51, 'came by the log')")
        while try await standby.sql("SELECT count(*) FROM customers", database: "shop") != "51" {
          try await SystemTime().sleep(for: .milliseconds(50))
        }
        result = .success(try await self.useStandby(site, standby))
      } catch { result = .failure(error) }
      await standby.shutDown()
      try result.get()
    }
  }

  private func useStandby(_ site: DumpSite, _ standby: PostgreSQLServer) async throws {
    try site.write(user: PostgreSQLServer.user, server: standby)
    let dump = try await site.take("--database", "shop")
    #expect(dump["dump"]?["position"]?["value"]?.string?.contains("/") == true)
    let copy = try await site.salvor("backup")
    #expect(copy.status != 0 && copy.errors.contains("standby"), "\(copy.errors)")
    let refused = try await site.restore("--database", "shop", "--into", "back", "--yes")
    #expect(refused.errors.contains("DRIVER-204") && refused.errors.contains("standby"), "\(refused.errors)")
    // Into the primary, under the same name in the catalog.
    try site.write(user: PostgreSQLServer.user)
    try await site.restore("--database", "shop", "--into", "back", "--yes").succeeded()
    #expect(try await site.server.sql("SELECT count(*) FROM customers", database: "back") == "51")
  }
}
