import Core
import Hummingbird

/// Remembers, per customer, the last transfer that was posted.
struct SessionsService {
  let store: SessionStore

  func routes() -> Routes {
    let routes = Routes()
    routes.put("/sessions/:customer") { request, context in
      let customer = try context.parameters.require("customer")
      let update = try await request.value(SessionUpdate.self)
      try validateName(customer, what: "customer")
      try validateName(update.lastTransfer, what: "last_transfer")
      try await store.remember(customer, update.lastTransfer)
      return nothing()
    }
    addHealth(to: routes, .sessions, ping: store.ping)
    routes.get("/stats") { _, _ in try json(["sessions": try await store.count()]) }
    return routes
  }
}

/// Where sessions are kept: a table, or one Redis hash per customer, `session:<customer>`.
enum SessionStore: Sendable {
  case sql(SQLStore)
  case redis(writes: Lane<RedisConnection>, reads: Lane<RedisConnection>)

  init(_ settings: StoreSettings) throws(BankError) {
    if settings.kind == .redis {
      _ = try settings.requireAddress()
      self = .redis(
        writes: Lane { () throws(BankError) in try RedisConnection(settings) },
        reads: Lane { () throws(BankError) in try RedisConnection(settings) })
    } else {
      self = .sql(try SQLStore(settings))
    }
  }

  func remember(_ customer: String, _ transfer: String) async throws(BankError) {
    switch self {
    case .sql(let store):
      try await store.writes.submit { session throws(BankError) in
        _ = try session.sql.run(
          """
          INSERT INTO sessions(customer, last_transfer) VALUES ($1, $2)
            ON CONFLICT (customer) DO UPDATE SET last_transfer = excluded.last_transfer
          """, .text(customer), .text(transfer))
      }
    case .redis(let writes, _):
      try await writes.submit { redis throws(BankError) in
        _ = try redis.run("HSET", "session:\(customer)", "last_transfer", transfer)
      }
    }
  }

  func ping() async throws(BankError) {
    switch self {
    case .sql(let store): try await store.ping()
    case .redis(_, let reads): _ = try await reads.submit { redis throws(BankError) in try redis.run("PING") }
    }
  }

  func count() async throws(BankError) -> Int64 {
    switch self {
    case .sql(let store):
      return try await store.reads.submit { session throws(BankError) in
        try session.numbers("SELECT count(*) FROM sessions")[0]
      }
    case .redis(_, let reads):
      let size = try await reads.submit { redis throws(BankError) in try redis.run("DBSIZE") }
      return size.flatMap { Int64($0) } ?? 0
    }
  }

  static func create(in settings: StoreSettings) throws(BankError) {
    if settings.kind == .redis {
      _ = try RedisConnection(settings).run("PING")
      return
    }
    let session = try SQLStore.create(settings)
    try session.begin()
    try session.sql.run(
      "CREATE TABLE IF NOT EXISTS sessions(customer TEXT PRIMARY KEY, last_transfer TEXT NOT NULL)")
    try session.commit()
  }
}
