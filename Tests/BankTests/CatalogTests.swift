import Catalog
import Core
import DriverFiles
import DriverKit
import DriverMariaDB
import DriverNATS
import DriverPostgreSQL
import DriverRedis
import DriverSQLite
import IO
import TestSupport
import Testing
import Validation

/// A bank's own catalog, with drivers on what it declares.
struct DeclaredBank {
  let catalog: Catalog
  let checks: CheckRunner
  let drivers: [StoreName: any DataStoreDriver]

  init(_ bank: TestBank) throws {
    let factories: [any DriverFactory.Type] = [
      FilesDriverFactory.self, SQLiteDriverFactory.self, PostgreSQLDriverFactory.self, RedisDriverFactory.self,
      MariaDBDriverFactory.self, NATSDriverFactory.self,
    ]
    let text = try bank.run(["catalog", "--directory", bank.root])
    let resolution = Catalog.resolve(
      [SourceFile(path: "bank.yaml", text: text)],
      drivers: Dictionary(uniqueKeysWithValues: factories.map { ($0.name, $0.options) }))
    #expect(resolution.errors.isEmpty, "\(resolution.diagnostics.map(\.description).joined(separator: "\n"))")
    catalog = try resolution.get()
    let environment = DriverEnvironment(
      time: SystemTime(), randomness: SystemRandomness(), pool: .shared,
      resolve: { reference throws(AnyFailure) in
        guard case .file(let path) = reference else { throw AnyFailure(DriverError.unsupported("\(reference)")) }
        do { return Secret(try Files.read(path).prefix { $0 != 10 }) } catch { throw AnyFailure(error) }
      })
    var drivers: [StoreName: any DataStoreDriver] = [:]
    for store in catalog.stores {
      let factory = try #require(factories.first { $0.name == store.driver })
      drivers[store.name] = try factory.make(
        StoreConfiguration(name: store.name, options: store.options), in: environment)
    }
    let made = drivers
    self.drivers = drivers
    checks = CheckRunner(
      CheckPorts(
        time: SystemTime(),
        driver: { name in
          guard let driver = made[name] else { throw DriverError.unreachable("store \(name)") }
          return driver
        },
        execute: { _ in throw DriverError.unsupported("commands") },
        get: { url, _ in
          let answer = await ask(url)
          guard answer.status != 0 else { throw DriverError.unreachable(url) }
          return PageAnswer(status: Int(answer.status), body: answer.body)
        }))
  }

  /// Name and verdict of every invariant.
  func verdicts() async -> [String: Verdict] {
    Dictionary(uniqueKeysWithValues: await checks.check(catalog.invariants).map { ($0.name, $0.verdict) })
  }

  /// What a store answers, columns joined by commas.
  func rows(_ store: StoreName, _ query: String) async throws -> Set<String> {
    let result = try await #require(drivers[store]).query(
      query, limit: QueryLimit(rows: 1_000_000, timeout: .seconds(60)))
    return Set(result.rows.map { $0.map { $0 ?? "" }.joined(separator: ",") })
  }

  /// All validators must pass; the services run.
  func expectValid() async {
    for service in catalog.services {
      for report in await checks.validate(service) {
        #expect(report.verdict == .passed, "\(report.subject) \(report.name): \(report.summary)")
      }
    }
  }

  /// All rules hold, five and three more on engines, over at least `rows` rows each; nothing is being written.
  func expectConsistent(rows: Int64) async {
    let reports = await checks.check(catalog.invariants)
    #expect(reports.count == (catalog.stores.count == 4 ? 5 : 8))
    for report in reports {
      #expect(report.verdict == .passed, "\(report.name): \(report.summary)")
      #expect(report.examined >= (report.name.hasPrefix("no-money") ? 1 : rows), "\(report)")
    }
  }
}

@Suite("catalog of a bank", .serialized, .timeLimit(.minutes(10)))
struct CatalogTests {
  @Test func `it is valid, its rules hold, and each rule fails when it is broken`() async throws {
    let bank = try TestBank()
    try await bank.start()
    let summary = try bank.summary(of: bank.load(seconds: 1.5))
    let declared = try DeclaredBank(bank)
    #expect(declared.catalog.services.count == 5 && declared.catalog.stores.count == 4)
    #expect(declared.catalog.groups.map(\.stores.count) == [4])
    await declared.expectValid()
    bank.stop()
    await declared.expectConsistent(rows: Int64(summary.acknowledged))

    func broken() async -> Set<String> { Set(await declared.verdicts().filter { $0.value == .failed }.keys) }
    // An entry that has money moved, a session, a statement behind it, is gone.
    try bank.write("ledger", "CREATE TABLE kept AS SELECT * FROM entries; DELETE FROM entries")
    #expect(
      await broken() == [
        "transfers-are-in-the-ledger", "sessions-show-posted-transfers", "statements-are-of-posted-transfers",
      ])
    try bank.write("ledger", "INSERT INTO entries SELECT * FROM kept; UPDATE entries SET state = 'pending'")
    #expect(await broken() == ["sessions-show-posted-transfers", "statements-are-of-posted-transfers"])
    try bank.write("ledger", "UPDATE entries SET state = 'posted'")
    #expect(await broken() == [])
    try bank.write("accounts", "DELETE FROM transfers WHERE id = (SELECT min(id) FROM transfers)")
    #expect(await broken() == ["posted-entries-have-moved"])
    try bank.write("accounts", "UPDATE accounts SET balance = balance + 1 WHERE id = 'a-0'")
    #expect(await broken() == ["posted-entries-have-moved", "no-money-appears-or-vanishes"])
    try Files.removeTree("\(bank.root)/data/sessions")
    #expect(await declared.verdicts()["sessions-show-posted-transfers"] == .couldNotCheck)
  }
}
