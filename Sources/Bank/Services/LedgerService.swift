import Core
import Hummingbird

/// The book: an entry is written before money moves (`pending`) and marked when it has (`posted`, or `rejected`).
struct LedgerService {
  let store: SQLStore

  func routes() -> Routes {
    let routes = Routes()
    routes.post("/entries") { request, _ in
      let entry = try await request.value(CustomerTransfer.self)
      try entry.validate()
      let transfer = entry.transfer
      try await store.writes.submit { session throws(BankError) in
        _ = try session.sql.run(
          """
          INSERT INTO entries(id, customer, from_account, to_account, amount, state)
            VALUES ($1, $2, $3, $4, $5, 'pending') ON CONFLICT (id) DO NOTHING
          """, .text(transfer.id), .text(entry.customer), .text(transfer.from), .text(transfer.to),
          .integer(transfer.amount))
      }
      return nothing()
    }
    routes.post("/entries/:id/post") { _, context in
      try await mark(try context.parameters.require("id"), "posted")
    }
    routes.post("/entries/:id/reject") { _, context in
      try await mark(try context.parameters.require("id"), "rejected")
    }
    addHealth(to: routes, .ledger, ping: store.ping)
    routes.get("/stats") { _, _ in
      let numbers = try await store.reads.submit { session throws(BankError) in
        try session.numbers(
          """
          SELECT count(*), coalesce(sum(CASE WHEN state = 'pending' THEN 1 ELSE 0 END), 0),
            coalesce(sum(CASE WHEN state = 'posted' THEN 1 ELSE 0 END), 0),
            coalesce(sum(CASE WHEN state = 'rejected' THEN 1 ELSE 0 END), 0) FROM entries
          """)
      }
      return try json(
        ["entries": numbers[0], "pending": numbers[1], "posted": numbers[2], "rejected": numbers[3]])
    }
    return routes
  }

  /// Settles an entry; asking again for the same state is fine, for the other one is not.
  private func mark(_ id: String, _ state: String) async throws -> Response {
    let rows = try await store.writes.submit { session throws(BankError) in
      try session.sql.run(
        "UPDATE entries SET state = $1 WHERE id = $2 AND state IN ('pending', $1) RETURNING id", .text(state), .text(id)
      )
    }
    guard !rows.isEmpty else { throw BankError.notFound("entry \(id) that could become \(state)") }
    return nothing()
  }

  static func create(in settings: StoreSettings) throws(BankError) {
    let session = try SQLStore.create(settings)
    try session.begin()
    try session.sql.run(
      """
      CREATE TABLE IF NOT EXISTS entries(id TEXT PRIMARY KEY, customer TEXT NOT NULL,
        from_account TEXT NOT NULL, to_account TEXT NOT NULL, amount BIGINT NOT NULL CHECK (amount > 0),
        state TEXT NOT NULL CHECK (state IN ('pending', 'posted', 'rejected')))
      """)
    try session.commit()
  }
}
