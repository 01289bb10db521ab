import Core
import Testing

@testable import Catalog

@Suite("Resolving a catalog")
struct ResolveTests {
  @Test func `the smallest useful catalog fits on one screen and has sensible defaults`() throws {
    let resolution = resolve(CatalogReference.smallest)
    #expect(resolution.diagnostics == [])
    let catalog = try resolution.get()
    #expect(CatalogReference.smallest.split(separator: "\n").count <= 15)
    let store = try #require(catalog.store("shop-files"))
    #expect(store.repository == "main")
    #expect(store.service == "shop")
    #expect(store.options == ["path": "/srv/shop"])
    #expect(catalog.service("shop")?.tier == .normal)
    let group = try #require(catalog.group(of: "shop-files"))
    #expect(group.isImplicit && group.name == "all" && group.holdBudget == .milliseconds(500))
  }

  @Test func `every field arrives where it belongs`() throws {
    let resolution = resolve(bank)
    #expect(resolution.errors == [])
    let catalog = try resolution.get()
    let ledger = try #require(catalog.service("ledger"))
    #expect(ledger.tier == .critical && ledger.domain == "money" && ledger.owner == "core@bank.example")
    #expect(ledger.objectives == Objectives(rpo: .seconds(60), rto: .seconds(90)))
    #expect(ledger.start?.words == ["systemctl", "start", "the ledger"])
    #expect(ledger.stores == ["ledger-cache", "ledger-db"])
    #expect(ledger.ready.count == 5)
    #expect(ledger.ready[0].question == .tcp(host: "::1", port: 8080))
    #expect(ledger.ready[1].retries == 3 && ledger.ready[1].interval == .seconds(1))
    #expect(ledger.ready[2].question == .http(url: "https://ledger/health", status: 204))
    #expect(
      ledger.validators.map(\.expectation) == [
        .equals("0"), .empty, .rows(3), .status(301), .status(0), .matches("^ok$"),
      ])
    let store = try #require(catalog.store("ledger-db"))
    #expect(
      store.options == [
        "database": "ledger", "port": 5433, "password": "env:PGPASSWORD", "tls": true, "patience": "90s",
      ])
    #expect(store.start?.environment == ["A": .text("1"), "B": .secret(.file("/x"))])
    #expect(store.start?.workingDirectory == "/var/tmp" && store.start?.timeout == .seconds(120))
    #expect(catalog.store("ledger-cache")?.dependsOn == ["ledger-db"])
    #expect(catalog.repository("main")?.location == .local(path: "/srv/backup/main"))
    #expect(catalog.repository("main")?.password == .command("pass show salvor"))
    let group = try #require(catalog.group("money"))
    #expect(group.stores == ["ledger-cache", "ledger-db", "statement-files"] && group.onOverBudget == .record)
    #expect(catalog.policy("nightly")?.schedule == .cron("15 2 * * 1-5"))
    #expect(catalog.policy("nightly")?.stores.count == 3, "no selector means every store")
    #expect(catalog.policy("often")?.retention.keepWithin == .seconds(172_800))
    #expect(catalog.invariant("statements-have-files")?.stores == ["ledger-db", "statement-files"])
    #expect(catalog.invariant("cache-agrees")?.severity == .warning)
    #expect(
      catalog.invariant("zero-sum")?.rule
        == .constant(StoreQuery(store: "ledger-db", query: "select sum(amount) from entries"), equals: "0"))
  }

  @Test func `the digest is that of the canonical JSON, and survives a round trip`() throws {
    let catalog = try resolve(bank).get()
    #expect(String(decoding: catalog.canonicalBytes, as: UTF8.self) == (try CanonicalJSON.text(catalog)))
    #expect(catalog.digest == (try CanonicalJSON.digest(catalog)))
    let again = try CanonicalJSON.decode(Catalog.self, from: CanonicalJSON.encode(catalog))
    #expect(again == catalog)
  }

  @Test func `the digest depends on what is meant, not on files, order or comments`() throws {
    let digest = try resolve(bank).get().digest
    let documents = bank.split(separator: "\n---\n").map(String.init)
    for seed in 1...5 {
      let randomness = SeededRandomness(seed: UInt64(seed))
      var shuffled = documents
      for index in shuffled.indices.reversed() { shuffled.swapAt(index, randomness.below(index + 1)) }
      let files = shuffled.enumerated().map { SourceFile(path: "\($0).yaml", text: "# a comment\n\($1)\n") }
      #expect(try Catalog.resolve(files, drivers: drivers).get().digest == digest)
    }
    let changed = bank.replacing("holdBudget: 250ms", with: "holdBudget: 251ms")
    #expect(try resolve(changed).get().digest != digest)
  }

  @Test func `aliases and merges work inside a document`() throws {
    let catalog = try resolve(
      repository + """
        ---
        apiVersion: salvor.dev/v1
        kind: Service
        metadata: {name: a}
        spec:
          objectives: &common {rpo: 1m, rto: 2m}
          start: &run {command: run it, timeout: 3m}
          stop: {<<: *run, command: end it}
          stores:
            - {name: a-files, files: {path: &place /srv/a}, stop: {<<: *run, timeout: 1s}}
        """
    ).get()
    #expect(catalog.service("a")?.stop == Command(["end", "it"], timeout: .seconds(180)))
    #expect(catalog.store("a-files")?.stop == Command(["run", "it"], timeout: .seconds(1)))
  }

  @Test(arguments: [
    ("a b", ["a", "b"]), ("  a  'b c' ", ["a", "b c"]), (#"a "b \" \\ c" d\ e"#, ["a", #"b " \ c"#, "d e"]),
    (#"a '' """#, ["a", "", ""]), (#"a'b'"c""#, ["abc"]),
  ])
  func `a command line is split as a shell would, and nothing else is done to it`(_ line: String, _ words: [String]) {
    #expect(splitWords(line) == words)
  }

  @Test(arguments: ["a 'b", "a \"b", "a \\"])
  func `an open quote is not guessed at`(_ line: String) { #expect(splitWords(line) == nil) }
}

@Suite("Locations of repositories")
struct LocationTests {
  @Test func `addresses on a network are kept as they are written`() {
    for text in [
      "rest:https://host:8000/path/", "rest:http://127.0.0.1/", "s3:bucket/prefix", "s3:http://h:9000/bucket",
    ] {
      let location = Repository.Location(text)
      #expect(location?.description == text)
      guard case .remote? = location else {
        Issue.record("\(text) is on a network")
        continue
      }
    }
  }

  @Test func `an address with a user in it, or none at all, is no location`() {
    for text in [
      "rest:https://alice:swordfish@host/", "rest:https://alice@host/", "rest:host", "rest:", "s3:", "s3:a b", "ftp:x",
    ] {
      #expect(Repository.Location(text) == nil, "\(text)")
    }
  }
}
