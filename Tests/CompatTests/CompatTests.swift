import Core
import Foundation
import IO
import TestSupport
import Testing

/// Releases tried on the backup of live servers, by the built program.
@Suite("Compat", .serialized, .timeLimit(.minutes(10))) struct CompatTests {
  private static let manifest = """
      stores:
        - store: books
          migrations: migrations/books
          applied: SELECT name FROM schema_migrations
          record: INSERT INTO schema_migrations VALUES ({{migration}})
          down: migrations/books/down
          version: SELECT max(name) FROM schema_migrations
          accepts: [0001_begin]
          leadsTo: 0003_more
          checks:
            - {name: by-customer, query: "SELECT customer, count(*) FROM orders GROUP BY customer", rows: 7}
            - {name: can-be-asked, query: SELECT state FROM orders}
        - store: paper
          migrations: migrations/paper
          checks:
            - {name: notes, query: SELECT count(*) FROM notes, equals: 3}
    """
  private static let good = [
    "migrations/books/0001_begin.sql": "this would fail, and is applied already;",
    "migrations/books/0002_state.sql": """
    -- a comment; with a semicolon
    ALTER TABLE orders ADD COLUMN state text NOT NULL DEFAULT 'new';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
      NEW.state := 'seen;';
      RETURN NEW;
    END $body$;
    """,
    "migrations/books/0003_more.sql": "CREATE INDEX by_state ON orders (state);",
    "migrations/books/down/0002_state.sql": "DROP FUNCTION touch();\nALTER TABLE orders DROP COLUMN state;",
    "migrations/books/down/0003_more.sql": "DROP INDEX by_state;",
    "migrations/paper/1.sql": """
    CREATE TABLE notes (sheet INT, note TEXT);
    CREATE TRIGGER noted AFTER INSERT ON sheets BEGIN
      INSERT INTO notes VALUES (new.id, new.note);
      UPDATE sheets SET note = NULL WHERE id = new.id;
    END;
    INSERT INTO notes SELECT id, note FROM sheets;
    """,
  ]

  @Test func `a good release passes, a bad one is named by file, line and the server's words; live is as it was`()
    async throws
  {
    try await CompatSite.with { site in
      // Last night's data: a customer nobody knows, and two orders of one number to come.
      try await site.server.sql("UPDATE orders SET customer = NULL WHERE id IN (14, 28)")
      try await site.salvor("backup").succeeded()
      let before = try await site.live()

      let release = try site.release("good", Self.manifest, Self.good)
      let run = try await site.salvor(
        "compat", "--release", release, "--junit", site.home.file("good.xml"), "-o", "json")
      #expect(run.status == 1, "six customers and those of none: \(run.output)")
      var better = Self.manifest.replacing("rows: 7", with: "rows: 8")
      let passed = try await site.salvor(
        "compat", "--release", try site.release("better", better, Self.good), "-o", "json")
      try passed.succeeded()
      let report = try CanonicalJSON.decode(JSONValue.self, from: Array(passed.output.utf8))
      let books = try #require(report["stores"]?.array?.first)
      #expect(books["versionBefore"]?.string == "0001_begin" && books["versionAfter"]?.string == "0003_more")
      let cases = (books["cases"]?.array ?? []).map {
        "\($0["kind"]?.string ?? "") \($0["name"]?.string ?? "") \($0["outcome"]?.string ?? "")"
      }
      #expect(
        cases == [
          "schema version before passed", "migration 0001_begin skipped", "migration 0002_state passed",
          "migration 0003_more passed", "schema version after passed", "check by-customer passed",
          "check can-be-asked passed", "down 0003_more passed", "down 0002_state passed", "down schema passed",
        ], "\(cases)")
      #expect(report["invariants"]?.array?.first?["outcome"]?.string == "passed")
      #expect(try await site.live() == before)

      // NOT NULL where there are NULLs; the statement is the second one of its file.
      var files = Self.good
      files["migrations/books/0003_more.sql"] =
        "CREATE INDEX by_state ON orders (state);\n\n/* breaks; on two rows */\nALTER TABLE orders\n  ALTER COLUMN customer SET NOT NULL;\n"
      let broken = try await site.salvor(
        "compat", "--release", try site.release("broken", better, files), "--junit", site.home.file("broken.xml"))
      #expect(broken.status == 1)
      #expect(broken.output.contains("migrations/books/0003_more.sql:4"), "\(broken.output)")
      #expect(broken.output.contains("column \"customer\" of relation \"orders\" contains null values"))
      let xml = String(decoding: try Files.read(site.home.file("broken.xml")), as: UTF8.self)
      #expect(xml.contains("file=\"migrations/books/0003_more.sql\" line=\"4\""), "\(xml)")
      try await CommandRun([
        "python3", "-c", "import sys, xml.dom.minidom as m; m.parse(sys.argv[1])", site.home.file("broken.xml"),
      ]).succeeded()

      // A unique index where there are duplicates, in SQLite; what came before in the script is rolled back.
      files = Self.good
      files["migrations/paper/1.sql"] = "CREATE TABLE notes (n INT);\nCREATE UNIQUE INDEX once ON sheets (note);\n"
      let twice = try await site.salvor("compat", "--release", try site.release("twice", better, files))
      #expect(twice.status == 1)
      #expect(
        twice.output.contains("migrations/paper/1.sql:2: UNIQUE constraint failed: sheets.note"), "\(twice.output)")

      // A way back that leaves something behind.
      files = Self.good
      files["migrations/books/down/0002_state.sql"] = "DROP FUNCTION touch();"
      let half = try await site.salvor("compat", "--release", try site.release("half", better, files))
      #expect(
        half.status == 1 && half.output.contains("another schema: table postgres.public.orders"), "\(half.output)")

      // A version nobody starts from, and a check that fails.
      better = better.replacing("accepts: [0001_begin]", with: "accepts: [0000_none]")
      let late = try await site.salvor(
        "compat", "--release", try site.release("late", better, Self.good), "--store", "books")
      #expect(
        late.status == 1 && late.output.contains("it is 0001_begin; the release starts from 0000_none"),
        "\(late.output)")
      #expect(try await site.live() == before)
    }
  }

  @Test func `a command migrates by what it finds in its environment`() async throws {
    try await CompatSite.with { site in
      try await site.salvor("backup").succeeded()
      let before = try await site.live()
      let manifest = """
          stores:
            - store: books
              run: {command: [sh, ./migrate.sh], env: {EXTRA: yes}}
              checks: [{name: there, query: SELECT n FROM extra, equals: "1"}]
            - store: paper
              run: [sh, -c, "sqlite3 \\"$SALVOR_COPY\\" 'DROP TABLE gone'"]
        """
      let release = try site.release(
        "command", manifest,
        ["migrate.sh": "psql -XAtq -c \"CREATE TABLE extra AS SELECT 1 AS n WHERE '$EXTRA' = 'yes'\"\n"])
      let run = try await site.salvor("compat", "--release", release)
      #expect(
        run.status == 1 && run.output.contains("✓ check there") && run.output.contains("no such table: gone"),
        "\(run.output)\(run.errors)")
      #expect(try await site.live() == before)
      let missing = try await site.salvor("compat", "--release", site.home.file("nowhere"))
      #expect(missing.errors.contains("COMPAT-101"), "\(missing.errors)")
    }
  }
}

@Suite("Compare", .serialized, .timeLimit(.minutes(10))) struct CompareTests {
  @Test func `the newest point is passed over where its copy is damaged, as for a restore`() async throws {
    try await CompatSite.with { site in
      func newest() async throws -> String {
        let points = try await site.salvor("points", "-o", "json").succeeded()
        let list = try CanonicalJSON.decode(JSONValue.self, from: Array(points.output.utf8)).array ?? []
        let ids = list.compactMap { $0["id"]?.string }
        return try #require(ids.max())
      }
      try await site.salvor("backup").succeeded()
      let good = try await newest()
      let before = Set(try site.packs())
      try await site.sqlite("CREATE TABLE large (b BLOB); INSERT INTO large VALUES (randomblob(3000000))")
      try await site.salvor("backup").succeeded()
      let damaged = try await newest()
      #expect(damaged > good)
      // The largest of the new packs is what the new row is in.
      func size(_ path: String) -> Int { (try? Files.read(path).count) ?? 0 }
      let new = try site.packs().filter { !before.contains($0) }
      let pack = try #require(new.max { size($0) < size($1) })
      var bytes = try Files.read(pack)
      bytes[bytes.count / 2] ^= 1
      chmod(pack, 0o600)
      try Files.replace(pack, with: bytes)
      for words in [["compare"], ["compare", "--live"]] {
        let run = try await site.salvor(words + ["-o", "json"])
        #expect([0, 4].contains(run.status), "\(run.errors)")
        let report = try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
        #expect(report["point"]?.string == good, "\(words)")
        #expect(run.errors.contains("passed over \(damaged)"), "\(run.errors)")
      }
      // Whoever names it has it, and is told.
      #expect(try await site.salvor("compare", "--point", damaged).status == 1)
    }
  }

  @Test func `same, changed, new, gone and laid out otherwise are told apart`() async throws {
    try await CompatSite.with { site in
      try await site.salvor("backup").succeeded()
      try await site.salvor("compare").succeeded()
      let same = try await site.salvor("compare", "--live", "--exact")
      #expect(same.status == 0, "\(same.output)\(same.errors)")
      let first = try await site.salvor("points", "-o", "json").succeeded()
      let id = try #require(
        try CanonicalJSON.decode(JSONValue.self, from: Array(first.output.utf8)).array?.first?["id"]?.string)

      try await site.server.sql("INSERT INTO orders VALUES (999, 'x', 1)")
      let changed = try await site.salvor("compare", "--live")
      #expect(
        changed.status == 0 && changed.output.contains("postgres.public.orders: 200 rows, then 201"),
        "\(changed.output)")
      #expect(try await site.salvor("compare", "--live", "--exact").status == 4)
      #expect(try await site.salvor("compare", "--live", "--exact", "paper").status == 0)

      try await site.sqlite("CREATE TABLE more (n INT); ALTER TABLE sheets ADD COLUMN pages INT")
      try await site.server.sql("DROP TABLE schema_migrations", "ALTER TABLE orders ALTER total TYPE double precision")
      let different = try await site.salvor("compare", "--live")
      #expect(different.status == 4)
      for text in [
        "table:more: new, with 0 rows", "laid out otherwise: table sheets",
        "postgres.public.schema_migrations: gone, with 1 rows", "laid out otherwise: table postgres.public.orders",
      ] { #expect(different.output.contains(text), "\(text) in \(different.output)") }

      try await site.salvor("backup").succeeded()
      let both = try await site.salvor("points", "-o", "json").succeeded()
      let second = try #require(
        try CanonicalJSON.decode(JSONValue.self, from: Array(both.output.utf8)).array?.last?["id"]?.string)
      #expect(second != id)
      let between = try await site.salvor("compare", "--point", id, "--with", second, "-o", "json")
      #expect(between.status == 4, "\(between.errors)")
      let report = try CanonicalJSON.decode(JSONValue.self, from: Array(between.output.utf8))
      #expect(report["reference"]?.string == second && report["point"]?.string == id)
      let tables = (report["stores"]?.array ?? []).flatMap { $0["tables"]?.array ?? [] }.map {
        "\($0["name"]?.string ?? "") \($0["state"]?.string ?? "")"
      }
      #expect(
        tables == [
          "postgres.public.orders changed", "postgres.public.schema_migrations gone", "table:more new",
          "table:sheets changed",
        ], "\(tables)")
    }
  }
}

@Suite("Compare MariaDB", .serialized, .timeLimit(.minutes(10))) struct MariaDBCompareTests {
  @Test func `tables of a live MariaDB are compared with what came back`() async throws {
    let server = try await MariaDBServer.start()
    let result: Result<Void, any Error>
    do { result = .success(try await compare(server)) } catch { result = .failure(error) }
    await server.shutDown()
    try result.get()
  }

  private func compare(_ server: MariaDBServer) async throws {
    let home = try TemporaryDirectory("compare-maria")
    let program = try CommandRun.product("salvor")
    func salvor(_ words: String...) async throws -> CommandRun {
      try await CommandRun(
        [program] + words, in: home.path, environment: ["SALVOR_STATE": home.file("state"), "NO_COLOR": "1"])
    }
    try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    let runAs = MariaDBServer.owner == nil ? "" : ", runAs: mysql"
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
          - name: shop-db
            mariadb: {dataDirectory: "\(server.data)", socket: "\(server.socket)", password: "file:\(server.passwordFile)", configFile: "\(server.configFile)"\(runAs)}
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
    try await server.sql(
      "CREATE TABLE shop.orders (n INT PRIMARY KEY)", "CREATE TABLE shop.kinds (n INT PRIMARY KEY)",
      "INSERT INTO shop.orders VALUES (1), (2)")
    try await salvor("backup").succeeded()
    let same = try await salvor("compare", "--live", "--exact")
    #expect(same.status == 0 && same.output.contains("2 of 2 tables the same"), "\(same.output)\(same.errors)")
    try await server.sql("INSERT INTO shop.orders VALUES (3)")
    let changed = try await salvor("compare", "--live")
    #expect(changed.status == 0 && changed.output.contains("shop.orders: 2 rows, then 3"), "\(changed.output)")
    try await server.sql("DROP TABLE shop.kinds")
    #expect(try await salvor("compare", "--live").status == 4)
  }
}
