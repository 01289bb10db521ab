import Core
import GRDBSQLite
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("bank on embedded stores", .serialized, .timeLimit(.minutes(10)))
struct BankTests {
  /// What must hold in every consistent cut, checked on the files themselves.
  private func expectConsistent(_ bank: TestBank) throws {
    let moved = try bank.rows("accounts", "SELECT id, from_account, to_account, amount FROM transfers")
    let written = try bank.rows(
      "ledger", "SELECT id, from_account, to_account, amount FROM entries WHERE state IN ('pending', 'posted')")
    let posted = try bank.rows(
      "ledger", "SELECT id, from_account, to_account, amount FROM entries WHERE state = 'posted'")
    #expect(moved.subtracting(written) == [], "every transfer is in the ledger")
    #expect(posted.subtracting(moved) == [], "every posted entry has moved")
    let owned = try bank.rows("ledger", "SELECT customer, id FROM entries WHERE state = 'posted'")
    let sessions = try bank.rows("sessions", "SELECT customer, last_transfer FROM sessions")
    #expect(sessions.subtracting(owned) == [], "every session shows a posted transfer")
    let printed = try bank.rows(
      "ledger", "SELECT customer, id, from_account, to_account, amount FROM entries WHERE state = 'posted'")
    #expect(try bank.statements().subtracting(printed) == [], "every statement is of a posted transfer")
    #expect(try bank.rows("accounts", "SELECT sum(balance) FROM accounts") == ["5000000"])
  }

  @Test func `what was acknowledged is on disk, and every rule holds`() async throws {
    let bank = try TestBank()
    try await bank.start()
    let summary = try bank.summary(of: bank.load(seconds: 3))
    let stats = await ask(bank.url("gateway", "/stats"))
    bank.stop()
    #expect(summary.failed == 0, "\(summary)")
    #expect(summary.acknowledged > 20, "\(summary)")
    #expect(stats.body.contains("\"totalCents\":5000000"), "\(stats)")
    let acknowledged = try bank.acknowledged()
    #expect(acknowledged.count == summary.acknowledged)
    #expect(Set(acknowledged).count == acknowledged.count, "every id is new")
    let posted = try bank.rows("ledger", "SELECT id FROM entries WHERE state = 'posted'")
    #expect(Set(acknowledged).subtracting(posted) == [])
    #expect(try bank.statements().count == summary.acknowledged)
    try expectConsistent(bank)
  }

  @Test func `a killed service is started again and the load goes on`() async throws {
    let bank = try TestBank()
    try await bank.start()
    let load = try bank.load(seconds: 30)
    try await Task.sleep(for: .seconds(1))
    bank.kill("ledger")
    try await waitFor(bank.url("gateway", "/health"), status: 503)
    let before = try bank.acknowledged().count
    try await bank.start(["ledger"])
    try await waitFor(bank.url("gateway", "/health"), status: 200)
    for _ in 0..<200 where try bank.acknowledged().count < before + 20 { try await Task.sleep(for: .milliseconds(50)) }
    // SIGTERM: what has begun is finished, and the summary printed.
    #expect(load.stop() == 0)
    let summary = try bank.summary(of: load)
    bank.stop()
    #expect(summary.acknowledged >= before + 20, "\(summary)")
    #expect(summary.failed > 0, "the outage was felt")
    let posted = try bank.rows("ledger", "SELECT id FROM entries WHERE state = 'posted'")
    #expect(Set(try bank.acknowledged()).subtracting(posted) == [])
    try expectConsistent(bank)
  }

  @Test func `a hold delays writers and fails none`() async throws {
    let bank = try TestBank()
    try await bank.start()
    let load = try bank.load(seconds: 3, rate: 40)
    try await Task.sleep(for: .seconds(1))
    var handle: OpaquePointer?
    defer { sqlite3_close_v2(handle) }
    try #require(sqlite3_open("\(bank.root)/data/accounts/accounts.db", &handle) == SQLITE_OK)
    sqlite3_busy_timeout(handle, 5000)
    let lock = try File("\(bank.root)/data/statements/.salvor-hold", O_RDWR)
    try #require(sqlite3_exec(handle, "BEGIN IMMEDIATE", nil, nil, nil) == SQLITE_OK)
    try #require(flock(lock.descriptor, LOCK_EX) == 0)
    try await Task.sleep(for: .milliseconds(100))
    let count = try bank.acknowledged().count
    try await Task.sleep(for: .milliseconds(700))
    #expect(try bank.acknowledged().count == count, "nothing is acknowledged while writers wait")
    #expect(await ask(bank.url("gateway", "/stats")).status == 200, "readers don't wait")
    #expect(await ask(bank.url("gateway", "/health")).status == 200)
    try #require(sqlite3_exec(handle, "ROLLBACK", nil, nil, nil) == SQLITE_OK)
    try #require(flock(lock.descriptor, LOCK_UN) == 0)
    let summary = try bank.summary(of: load)
    bank.stop()
    #expect(summary.failed == 0, "\(summary)")
    #expect(summary.acknowledged > count)
    #expect(summary.latencyMaxMilliseconds > 700)
    try expectConsistent(bank)
  }

  @Test func `a service whose files are gone says so, and finds them when they are back`() async throws {
    let bank = try TestBank()
    try await bank.start()
    let transfer = #"{"from":"a-1","to":"a-2","amount":5,"customer":"c-1"}"#
    #expect(await ask(bank.url("gateway", "/transfers"), post: transfer).status == 201)
    for service in ["accounts", "statements"] {
      let path = "\(bank.root)/data/\(service)"
      try Files.rename(path, to: "\(path).away")
      try await waitFor(bank.url(service, "/health"), status: 503)
      try await waitFor(bank.url("gateway", "/health"), status: 503)
      let refused = await ask(bank.url("gateway", "/transfers"), post: transfer)
      #expect(refused.status == 503 && refused.body.contains("BANK-103"), "\(refused)")
      #expect(!Files.exists(path), "nothing is made up in their place")
      try Files.rename("\(path).away", to: path)
      try await waitFor(bank.url("gateway", "/health"), status: 200)
      #expect(await ask(bank.url("gateway", "/transfers"), post: transfer).status == 201)
    }
    bank.stop()
    try expectConsistent(bank)
  }

  @Test func `what can't be is refused and booked as rejected`() async throws {
    let bank = try TestBank(["--opening-balance-cents", "100"])
    try await bank.start()
    let gateway = bank.url("gateway", "/transfers")
    for (body, status) in [
      (#"{"from":"a-1","to":"a-2","amount":101,"customer":"c-1"}"#, 409),
      (#"{"from":"a-1","to":"a-none","amount":1,"customer":"c-1"}"#, 409),
      (#"{"from":"a-1","to":"a-1","amount":1,"customer":"c-1"}"#, 409),
      (#"{"from":"a-1","to":"a-2","amount":0,"customer":"c-1"}"#, 409),
      (#"{"from":"a-1","to":"a-2","amount":1,"customer":"../c"}"#, 409),
      (#"{"from":"a-1"}"#, 409),
      (#"{"from":"a-1","to":"a-2","amount":100,"customer":"c-1"}"#, 201),
    ] as [(String, UInt)] {
      let answer = await ask(gateway, post: body)
      #expect(answer.status == status, "\(body): \(answer)")
    }
    #expect(await ask(bank.url("gateway", "/accounts/a-2")).body == #"{"balance":200,"id":"a-2"}"#)
    #expect(await ask(bank.url("gateway", "/accounts/a-none")).status == 404)
    bank.stop()
    #expect(try bank.rows("ledger", "SELECT state, count(*) FROM entries GROUP BY 1") == ["posted,1", "rejected,2"])
    #expect(try bank.rows("accounts", "SELECT sum(balance), count(*) FROM accounts") == ["5000,50"])
  }

  @Test func `the gate of the statements fails as often as asked, then passes`() async throws {
    let bank = try TestBank(["--fail-first-ready", "2"])
    try await bank.start(["statements"])
    var answers: [UInt] = []
    for _ in 0..<4 { answers.append(await ask(bank.url("statements", "/ready")).status) }
    #expect(answers == [503, 503, 200, 200])
    bank.stop()
  }
}
