import Core
import IO
import TestSupport

#if canImport(Glibc)
  import Glibc
#endif

/// What must be nowhere in a copy; a line each in the list for `salvor redact scan`.
enum Planted {
  static let person = "Zacharias Quillfeather"
  static let email = "zacharias@quillfeather.test"
  static let card = "4929123456781234"
  static let deleted = "Deletedperson Oldname"
  static let updated = "Beforeupdate Oldname"
  static let large = "Largeobject Secretword"
  static let comment = "Commentary Secretword"
  static let long = "Toastedword Secretword"
  static let all = [person, email, card, deleted, updated, large, comment, long]
}

/// A shop over four engines, with secrets in every corner they have, a repository, and a point of all of it.
final class Shop: @unchecked Sendable {
  // Used by one task at a time.
  let home: TemporaryDirectory
  let postgres: PostgreSQLServer
  let redis: RedisServer
  let program: String

  init() async throws {
    home = try TemporaryDirectory("shop")
    program = try built("salvor")
    postgres = try await PostgreSQLServer.start()
    redis = try await BlockingPool.shared.run { try RedisServer() }
    do {
      try await fill()
      try await take()
    } catch {
      await postgres.shutDown()
      throw error
    }
  }

  /// The processes of the servers in use.
  var servers: [pid_t] { postgres.processes() + [redis.pid].compactMap { $0 } }

  func close() async {
    await postgres.shutDown()
    redis.stop()
  }

  @discardableResult
  func salvor(_ words: String...) async throws -> CommandRun {
    try await CommandRun(
      [program] + words, in: home.path,
      environment: [
        "SALVOR_STATE": home.file("state"), "SALVOR_CATALOG": home.file("salvor.yaml"), "NO_COLOR": "1",
        "PGPASSWORD": PostgreSQLServer.password,
      ])
  }

  func write(_ name: String, _ text: String) throws { try Files.replace(home.file(name), with: Array(text.utf8)) }

  private func fill() async throws {
    try await postgres.sql(Self.schema)
    try await postgres.sql(Self.rows)
    // Old versions of rows stay in the pages.
    try await postgres.sql(
      "UPDATE customers SET name = 'After' WHERE email = 'upd@x.test'",
      "DELETE FROM customers WHERE email = 'del@x.test'", "ANALYZE", "CHECKPOINT")
    _ = try await CommandRun(["redis-cli", "-p", "\(redis.port)", "EVAL", Self.keys, "0"]).succeeded()
    _ = try await CommandRun(["sqlite3", home.file("ledger.db"), Self.ledger]).succeeded()
    try Files.createDirectory(home.file("docs"))
    try Files.createDirectory(home.file("docs/invoices"))
    try write("docs/invoices/1.json", #"{"customer":1,"name":"\#(Planted.person)","total":5.50}"#)
    try write("docs/.lock", "")
    try write("docs/list.csv", "id,name\n1,\"\(Planted.person)\"\n")
    try write("docs/app.log", "sent to \(Planted.email) twice\n")
    try write("docs/dump.bin", Planted.card)
    try Files.createDirectory(home.file("docs/\(Planted.person)"))
    guard symlink(Planted.person, home.file("docs/latest")) == 0 else { throw SystemFailure("symlink") }
  }

  private func take() async throws {
    try write("password", "not-a-secret-in-a-test\n")
    try write("key", "a key of a test, thirty-two bytes\n")
    try write("planted.txt", Planted.all.joined(separator: "\n") + "\n")
    try write("salvor.yaml", catalog)
    try write("development.yaml", policy)
    try await salvor("vault", "init", "-r", home.file("repository"), "-p", home.file("password")).succeeded()
    let taken = try await salvor("backup", "-q", "-o", "json")
    try taken.succeeded()
  }

  private var catalog: String {
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
      objectives: {rpo: 15m, rto: 1h}
      stores:
        - {name: accounts, driver: postgresql, options: {dataDirectory: \(postgres.data), port: \(postgres.port), password: "env:PGPASSWORD"}}
        - {name: cache, driver: redis, options: {port: \(redis.port), configFile: \(redis.configFile)}}
        - {name: documents, driver: files, options: {path: \(home.file("docs")), lockFile: .lock}}
        - {name: ledger, driver: sqlite, options: {path: \(home.file("ledger.db"))}}
    ---
    apiVersion: salvor.dev/v1
    kind: ConsistencyGroup
    metadata: {name: all}
    spec: {services: [shop], holdBudget: 30s}

    """
  }

  var policy: String {
    """
    apiVersion: salvor.dev/v1
    kind: RedactionPolicy
    metadata: {name: development}
    spec:
      key: "file:\(home.file("key"))"
      domains: {customer: integer, email: email, number: digits, person: name, secret: text}
      stores:
        accounts:
          tables:
            public.customers:
              id: {pseudonym: customer}
              email: {pseudonym: email}
              name: {pseudonym: person}
              card: {pseudonym: number}
              tags: {elements: {pseudonym: person}}
              profile: {fields: {mail: {pseudonym: email}, n: keep}}
              bio: {pseudonym: secret}
              feeling: keep
            public.orders: {id: keep, customer: {pseudonym: customer}}
            public.people: {name: {pseudonym: person}, card: {pseudonym: number}}
            public.parts: {day: keep, customer: {pseudonym: customer}}
          literals: [" BEGIN RETURN NEW; END ", "2026-01-01", "2027-01-01", "^[0-9]{16}$", glad, sad]
          others: {"sequence public.tickets": drop, "large objects": drop}
        cache:
          keys:
            "customer:{customer}": {fields: {name: {pseudonym: person}, city: keep}}
            "session:{customer}": {pseudonym: email}
            "recent": {elements: {pseudonym: person}}
            "group": {elements: {pseudonym: customer}}
            "board": {elements: {pseudonym: person}}
            "events": {fields: {who: {pseudonym: person}}}
            "db2/note": "null"
        documents:
          paths:
            .lock: keep
            "invoices/{customer}.json": {fields: {customer: {pseudonym: customer}, name: {pseudonym: person}, total: keep}}
            "list.csv": {csv: {id: {pseudonym: customer}, name: {pseudonym: person}}}
            "*.log": {replace: {"[a-z]+@[a-z.]+": {pseudonym: email}}}
            "*.bin": drop
          others: {"link latest": drop}
        ledger:
          tables:
            entries: {id: keep, customer: {pseudonym: customer}, amount: keep, memo: "null"}
            people: {id: {pseudonym: customer}, name: {pseudonym: person}, mail: {pseudonym: email}}

    """
  }

  static let schema = """
    CREATE ROLE app LOGIN PASSWORD 'passwordofarole';
    CREATE TYPE mood AS ENUM ('glad', 'sad');
    CREATE TABLE customers(id bigserial PRIMARY KEY, email varchar(60) NOT NULL UNIQUE, name text NOT NULL,
      card text CHECK (card ~ '^[0-9]{16}$'), tags text[], profile jsonb, bio text, feeling mood DEFAULT 'glad',
      up text GENERATED ALWAYS AS (upper(name)) STORED);
    CREATE TABLE orders(id int PRIMARY KEY, customer bigint NOT NULL REFERENCES customers(id));
    CREATE TABLE people(name text PRIMARY KEY, card numeric UNIQUE);
    CREATE TABLE parts(day date, customer bigint, PRIMARY KEY(day, customer)) PARTITION BY RANGE(day);
    CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE INDEX by_name ON customers(lower(name));
    CREATE VIEW glad AS SELECT id FROM customers WHERE feeling = 'glad';
    CREATE MATERIALIZED VIEW totals AS SELECT name, count(*) AS n FROM orders JOIN customers c ON c.id = customer GROUP BY 1;
    CREATE SEQUENCE tickets;
    COMMENT ON TABLE customers IS '\(Planted.comment)';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
    CREATE TRIGGER touched BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION touch();
    """

  static let rows = """
    INSERT INTO customers(email, name, card, tags, profile, bio) VALUES
      ('\(Planted.email)', '\(Planted.person)', '\(Planted.card)', '{"\(Planted.person)",b}',
        '{"mail": "\(Planted.email)", "n": 12.50}', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i) || '\(Planted.long)'),
      ('ada@x.test', 'Ada', '4929123456781235', NULL, NULL, repeat('\(Planted.long) ', 5000));
    INSERT INTO customers(email, name, card) VALUES ('del@x.test', '\(Planted.deleted)', '4929123456781236'),
      ('upd@x.test', '\(Planted.updated)', '4929123456781237');
    INSERT INTO orders VALUES (1, 1), (2, 1), (3, 2);
    INSERT INTO people VALUES ('\(Planted.person)', \(Planted.card)), ('Ada', 5);
    INSERT INTO parts VALUES ('2026-05-05', 1);
    REFRESH MATERIALIZED VIEW totals;
    SELECT setval('tickets', \(Planted.card)), lo_from_bytea(0, '\(Planted.large)');
    """

  static let keys = """
    redis.call('HSET', 'customer:1', 'name', '\(Planted.person)', 'city', 'Bonn')
    redis.call('SET', 'session:1', '\(Planted.email)', 'EX', 100000)
    redis.call('RPUSH', 'recent', 'Ada', '\(Planted.person)')
    redis.call('SADD', 'group', 1, 2)
    redis.call('ZADD', 'board', 5, '\(Planted.person)')
    redis.call('XADD', 'events', '5-1', 'who', '\(Planted.person)')
    redis.call('SET', 'gone', '\(Planted.deleted)')
    redis.call('DEL', 'gone')
    redis.call('SELECT', 2)
    redis.call('SET', 'note', '\(Planted.person)')
    """

  static let ledger = """
    PRAGMA journal_mode=WAL; PRAGMA secure_delete=OFF;
    CREATE TABLE people(id INTEGER PRIMARY KEY, name TEXT NOT NULL, mail TEXT UNIQUE, CHECK (length(name) > 2));
    CREATE TABLE entries(id INTEGER PRIMARY KEY AUTOINCREMENT, customer INTEGER NOT NULL REFERENCES people(id), amount REAL, memo TEXT);
    CREATE INDEX by_person ON people(name);
    INSERT INTO people VALUES(1, '\(Planted.person)', '\(Planted.email)'), (2, 'Ada', 'a@x.test'), (3, '\(Planted.deleted)', 'd@x.test');
    DELETE FROM people WHERE id = 3;
    INSERT INTO entries VALUES(1, 1, 5.5, 'for \(Planted.person)'), (2, 2, 7.25, NULL);
    """
}

/// A program of this package, next to the test bundle.
func built(_ name: String) throws -> String {
  for place in CommandLine.arguments + ["/proc/self/exe"] {
    guard let resolved = realpath(place, nil) else { continue }
    defer { free(resolved) }
    let candidate = "\(Files.parent(of: String(cString: resolved)))/\(name)"
    if Files.exists(candidate) { return candidate }
  }
  throw SystemFailure("find", path: name, number: ENOENT)
}
