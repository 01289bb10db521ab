import Catalog
import Core
import IO
import LeaseContract
import LeasePostgreSQL
import Runtime
import StateKit
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// A server with a database for leases, and a role that may do nothing but keep them.
private struct LeaseDatabase {
  static let password = "agents-own"
  let server: PostgreSQLServer

  init(prepared: Bool = true, settings: [String] = ["fsync = on"]) async throws {
    server = try await PostgreSQLServer.start(settings: settings)
    try await server.sql("CREATE ROLE keeper LOGIN", "CREATE ROLE salvor LOGIN PASSWORD '\(Self.password)'")
    try await server.sql("CREATE DATABASE leases OWNER keeper TEMPLATE template0")
    if prepared { try await prepare() }
  }

  func prepare() async throws {
    // Its owner is no superuser.
    try await server.sql("SET ROLE keeper; \(LeaseSchema.script(for: "salvor"))", database: "leases")
  }

  var address: String { "postgres://salvor@127.0.0.1:\(server.port)/leases" }

  func store(_ change: (inout PostgreSQLLeaseSettings) -> Void = { _ in }) throws -> PostgreSQLLeaseStore {
    var settings = PostgreSQLLeaseSettings(address: address)
    settings.password = { () async throws(AnyFailure) in Secret(Self.password) }
    settings.timeLimit = .seconds(20)
    change(&settings)
    return try PostgreSQLLeaseStore(settings)
  }

  func copy(_ from: String, _ to: String) async throws {
    try await PostgreSQLServer.command("rm", ["-rf", to], asOwner: false)
    try await PostgreSQLServer.command("cp", ["-a", from, to], asOwner: false)
  }

  /// The server becomes what a standby of it would have become.
  func failOver() async throws {
    try await server.stop()
    let signal = server.data + "/standby.signal"
    try Files.replace(signal, with: [])
    if let owner = PostgreSQLServer.owner { chown(signal, owner.userID, owner.groupID) }
    try await server.start()
  }
}

@Suite("Leases in PostgreSQL", .serialized) struct PostgreSQLLeaseTests {
  private let seat: SeatName = "bank"

  private func thrown<T>(_ body: () async throws -> T) async -> LeaseError? {
    do { _ = try await body() } catch { return error as? LeaseError }
    return nil
  }

  private func isUnsuited(_ error: LeaseError?) -> Bool { if case .unsuited? = error { true } else { false } }
  private func isForgetful(_ error: LeaseError?) -> Bool { if case .forgetful? = error { true } else { false } }
  private func isUnavailable(_ error: LeaseError?) -> Bool { if case .unavailable? = error { true } else { false } }

  @Test(.timeLimit(.minutes(10)))
  func `PostgreSQL keeps its promises as a lease store`() async throws {
    let database = try await LeaseDatabase()
    let store = try database.store()
    let time = SystemTime()
    for promise in LeasePromise.allCases {
      try await promise.keep(store, period: .seconds(3)) { try await time.sleep(for: $0) }
    }
    await database.server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `a tenure outlives the server's crash, and its fence is never given again`() async throws {
    let database = try await LeaseDatabase()
    let store = try database.store()
    let tenure = try await store.take(seat, as: "a", for: .seconds(600))
    try await store.write([7], under: tenure)
    try await database.server.stop(mode: "immediate")
    #expect(isUnavailable(await thrown { try await store.view(seat) }))
    try await database.server.start()
    // The connection that was idle is gone, and nobody is told.
    #expect(try await store.view(seat).tenure?.fence == tenure.fence)
    try await store.renew(tenure)
    #expect(try await store.view(seat).record == [7])
    try await store.release(tenure)
    #expect(try await store.take(seat, as: "b", for: .seconds(5)).fence > tenure.fence)
    await database.server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `an old copy of the server's files is known by who saw it newer`() async throws {
    let database = try await LeaseDatabase()
    let store = try database.store()
    try await store.release(try await store.take(seat, as: "a", for: .seconds(600)))
    try await database.server.stop()
    let kept = try database.server.ownDirectory("kept")
    try await database.copy(database.server.data, kept)
    try await database.server.start()
    let newer = try await store.take(seat, as: "b", for: .seconds(600))
    try await database.server.stop()
    try await database.copy(kept, database.server.data)
    try await database.server.start()

    #expect(isForgetful(await thrown { try await store.view(seat) }))
    #expect(isForgetful(await thrown { try await store.take(seat, as: "c", for: .seconds(5)) }))
    // A new process knows what the agent's disk remembers.
    let fresh = try database.store { $0.floors = [seat: newer.fence] }
    #expect(isForgetful(await thrown { try await fresh.view(seat) }))
    #expect(isForgetful(await thrown { try await fresh.take(seat, as: "c", for: .seconds(5)) }))
    // One that never saw it can't know; what it is given is no higher than what was given before.
    let innocent = try database.store()
    #expect(try await innocent.take(seat, as: "d", for: .seconds(5)).fence <= newer.fence)
    await database.server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `a standby is refused, and so is what it becomes, until a person has said from where it goes on`() async throws {
    let database = try await LeaseDatabase()
    let store = try database.store()
    let tenure = try await store.take(seat, as: "a", for: .seconds(600))
    try await database.failOver()
    #expect(isUnsuited(await thrown { try await store.view(seat) }))
    try await database.server.sql("SELECT pg_promote()")
    for store in [store, try database.store()] {
      #expect(isForgetful(await thrown { try await store.view(seat) }))
      #expect(isForgetful(await thrown { try await store.write([1], under: tenure) }))
      #expect(isForgetful(await thrown { try await store.take(seat, as: "b", for: .seconds(5)) }))
    }
    try await database.server.sql("SET ROLE keeper; SELECT salvor_failover.accept(1000)", database: "leases")
    let next = try await store.take(seat, as: "b", for: .seconds(600))
    #expect(next.fence > Fence(1000))
    #expect(await thrown { try await store.write([1], under: tenure) } == .lapsed(seat, fence: tenure.fence))
    await database.server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `what hangs ends in time`() async throws {
    let database = try await LeaseDatabase()
    let store = try database.store { $0.timeLimit = .seconds(3) }
    let tenure = try await store.take(seat, as: "a", for: .seconds(600))
    // Somebody sits on the row.
    async let sits = database.server.sql(
      "BEGIN; SELECT 1 FROM salvor_failover.seat FOR UPDATE; SELECT pg_sleep(600)", database: "leases")
    while try await database.server.sql(
      "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND wait_event = 'PgSleep'") != "1"
    {
      try await Task.sleep(for: .milliseconds(20))
    }
    #expect(isUnavailable(await thrown { try await store.renew(tenure) }))
    // Looking needs no lock.
    #expect(try await store.view(seat).tenure?.holder == "a")
    try await database.server.sql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
    )
    _ = try? await sits
    try await store.renew(tenure)

    // A server that stands still answers nobody, neither on an open connection nor on a new one.
    let processes = try await database.server.sql(
      "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'salvor-lease'")
    let stopped = database.server.processes() + processes.split(separator: " ").compactMap { pid_t($0) }
    for process in stopped { kill(process, SIGSTOP) }
    #expect(isUnavailable(await thrown { try await store.renew(tenure) }))
    let fresh = try database.store { $0.timeLimit = .seconds(1) }
    #expect(isUnavailable(await thrown { try await fresh.view(seat) }))
    let cancelled = Task { try await store.renew(tenure) }
    cancelled.cancel()
    #expect(await thrown { try await cancelled.value } == .cancelled)
    for process in stopped { kill(process, SIGCONT) }
    try await store.renew(tenure)
    await database.server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `the agents' role can do nothing but keep leases`() async throws {
    let database = try await LeaseDatabase()
    let store = try database.store()
    _ = try await store.take(seat, as: "a", for: .seconds(600))
    for statement in [
      "UPDATE salvor_failover.seat SET fence = 0", "DELETE FROM salvor_failover.seat",
      "SELECT * FROM salvor_failover.seat", "SELECT salvor_failover.accept(5)",
      "UPDATE salvor_failover.store SET lineage = 'x'", "SELECT salvor_failover.lock_seat('bank', 0)",
      "CREATE TABLE salvor_failover.mine ()",
    ] {
      await #expect(throws: PostgreSQLServer.CommandFailed.self, "\(statement)") {
        try await database.server.sql("SET ROLE salvor; \(statement)", database: "leases")
      }
    }
    // Prepared once more it is as it was.
    try await database.prepare()
    #expect(try await store.view(seat).tenure?.holder == "a")
    await database.server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `what can't keep leases is told apart from what can't be reached`() async throws {
    let unprepared = try await LeaseDatabase(prepared: false)
    let unready = try unprepared.store()
    let error = await thrown { try await unready.view(seat) }
    #expect(isUnsuited(error) && error?.report.summary.contains("lease-schema") == true)
    await unprepared.server.shutDown()
    let loose = try await LeaseDatabase(settings: [])
    let unsafe = try loose.store()
    let fsync = await thrown { try await unsafe.take(seat, as: "a", for: .seconds(5)) }
    #expect(isUnsuited(fsync) && fsync?.report.summary.contains("fsync") == true)
    await loose.server.shutDown()
    #expect(isUnavailable(await thrown { try await unsafe.view(seat) }))
  }

  @Test(.timeLimit(.minutes(10)))
  func `the database that is failed over keeps no leases, under whatever address`() async throws {
    let database = try await LeaseDatabase()
    let host = Machine(environment: ["PASSWORD": LeaseDatabase.password], name: "test", stateDirectory: "/nonexistent")
    func place(_ address: String) -> LeasePlace {
      var place = LeasePlace([address])
      place.password = .environment("PASSWORD")
      return place
    }
    func policy(_ address: String) -> FailoverPolicy {
      FailoverPolicy(
        name: "bank", members: [.init(name: "a", address: address), .init(name: "b", address: "10.0.0.2:5432")])
    }
    let member = policy("localhost:\(database.server.port)")
    #expect(throws: LeaseError.self) { try Registry.leases(at: place(database.address), for: member, host: host) }
    // Through a proxy it would have another address; it is known by what is in the data directory.
    let elsewhere = try Registry.leases(
      at: place(database.address), for: policy("10.0.0.1:5432"), dataDirectory: database.server.data, host: host)
    #expect(isUnsuited(await thrown { try await elsewhere.view(seat) }))
    let apart = try Registry.leases(at: place(database.address), for: policy("10.0.0.1:5432"), host: host)
    #expect(try await apart.view(seat) == SeatView())
    await database.server.shutDown()
  }

  @Test(arguments: [
    "postgres://salvor:swordfish@127.0.0.1/leases", "postgres://127.0.0.1/leases?password=swordfish",
    "postgres://a,b/leases", "postgres://127.0.0.1/leases?options=-cfsync", "postgres://127.0.0.1/leases?passfile=/x",
    "postgres://[", "mysql://127.0.0.1/leases",
  ])
  func `an address that says too much is refused, and not repeated`(_ address: String) throws {
    let policy = FailoverPolicy(name: "bank", members: [.init(name: "a"), .init(name: "b")])
    let host = Machine(environment: [:], name: "test", stateDirectory: "/nonexistent")
    #expect { try Registry.leases(at: LeasePlace([address]), for: policy, host: host) } throws: { error in
      isUnsuited(error as? LeaseError) && !"\(error)".contains("swordfish")
    }
  }
}
