import Core
import IO
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

@Suite("bank on PostgreSQL, MariaDB, Redis and NATS", .serialized, .timeLimit(.minutes(10)))
struct EnginesTests {
  @Test func `the same bank runs on servers, outlives their restart, and every rule holds`() async throws {
    let ports = try freePorts(4)
    let bank = try TestBank(["--engines"]) { bank in
      try bank.run([
        "engines", "up", "--directory", bank.root, "--postgresql-port", String(ports), "--redis-port",
        String(ports + 1), "--mariadb-port", String(ports + 2), "--nats-port", String(ports + 3),
      ])
    }
    defer { _ = try? bank.run(["engines", "down", "--directory", bank.root]) }
    try await bank.start()
    let load = try bank.load(seconds: 30)
    try await Task.sleep(for: .milliseconds(1500))
    try bank.run(["engines", "down", "--directory", bank.root])
    try await waitFor(bank.url("ledger", "/health"), status: 503)
    for service in ["sessions", "events", "notices"] {
      try await waitFor(bank.url(service, "/health"), status: 503)
    }
    let before = try bank.acknowledged().count
    #expect(before > 10)
    try bank.run(["engines", "up", "--directory", bank.root])
    try await waitFor(bank.url("gateway", "/health"), status: 200)
    for _ in 0..<200 where try bank.acknowledged().count < before + 20 { try await Task.sleep(for: .milliseconds(50)) }
    #expect(load.stop() == 0)
    let summary = try bank.summary(of: load)
    let declared = try DeclaredBank(bank)
    await declared.expectValid()
    bank.stop()
    #expect(summary.acknowledged >= before + 20, "\(summary)")
    await declared.expectConsistent(rows: Int64(summary.acknowledged))

    let written = try ledger(bank, ports, "SELECT id FROM entries WHERE state IN ('pending', 'posted')")
    let posted = try ledger(bank, ports, "SELECT id FROM entries WHERE state = 'posted'")
    let moved = try bank.rows("accounts", "SELECT id FROM transfers")
    #expect(moved.subtracting(written) == [])
    #expect(posted.subtracting(moved) == [])
    #expect(Set(try bank.acknowledged()).subtracting(posted) == [], "nothing acknowledged was lost in the restart")
    let owned = try ledger(bank, ports, "SELECT customer || ',' || id FROM entries WHERE state = 'posted'")
    let sessions = try self.sessions(bank, ports + 1)
    #expect(!sessions.isEmpty)
    #expect(sessions.subtracting(owned) == [])
    let printed = try ledger(
      bank, ports,
      "SELECT concat_ws(',', customer, id, from_account, to_account, amount) FROM entries WHERE state = 'posted'")
    #expect(try bank.statements().subtracting(printed) == [])
    let notices = try self.notices(bank, ports + 2)
    #expect(notices.subtracting(printed) == [])
    #expect(try bank.statements().subtracting(notices) == [], "what is on paper was told")
    let drawn = try await declared.rows("events-data", "PAYLOADS EVENTS")
    #expect(drawn.subtracting(printed) == [])
    #expect(notices.subtracting(drawn) == [], "what was told was announced")
    #expect(try bank.rows("accounts", "SELECT sum(balance) FROM accounts") == ["5000000"])
  }

  private func ledger(_ bank: TestBank, _ port: Int, _ query: String) throws -> Set<String> {
    let password = try #require(bank.lines("\(bank.root)/secrets/postgresql-bank").first)
    let output = try Program.run(
      [
        "env", "PGPASSWORD=\(password)", "psql", "-h", "127.0.0.1", "-p", String(port), "-U", "bank", "-d", "bank",
        "-XAtq", "-c", query,
      ], in: bank.root)
    return Set(output.split(separator: "\n").map(String.init))
  }

  private func notices(_ bank: TestBank, _ port: Int) throws -> Set<String> {
    let password = try #require(bank.lines("\(bank.root)/secrets/mariadb-bank").first)
    let output = try Program.run(
      [
        "env", "MYSQL_PWD=\(password)", "mariadb", "--no-defaults", "-h", "127.0.0.1", "-P", String(port), "-u", "bank",
        "-BN", "bank", "-e", "SELECT CONCAT_WS(',', customer, id, from_account, to_account, amount) FROM notices",
      ], in: bank.root)
    return Set(output.split(separator: "\n").map(String.init))
  }

  private func sessions(_ bank: TestBank, _ port: Int) throws -> Set<String> {
    let script = """
      local found = {} for _, key in ipairs(redis.call('KEYS', 'session:*')) do
        found[#found + 1] = string.sub(key, 9) .. ',' .. redis.call('HGET', key, 'last_transfer') end return found
      """
    let output = try Program.run(
      ["redis-cli", "-p", String(port), "--raw", "EVAL", script, "0"], in: bank.root)
    return Set(output.split(separator: "\n").map(String.init))
  }
}
