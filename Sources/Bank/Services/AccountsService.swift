import Core
import Hummingbird

/// Keeps balances; a transfer is a debit, a credit and a row, all or nothing, once per id.
struct AccountsService {
  let store: SQLStore

  func routes() -> Routes {
    let routes = Routes()
    routes.post("/transfers") { request, _ in
      let transfer = try await request.value(Transfer.self)
      try transfer.validate()
      try await apply(transfer)
      return nothing()
    }
    routes.get("/accounts/:id") { _, context in
      let id = try context.parameters.require("id")
      let rows = try await store.reads.submit { session throws(BankError) in
        try session.sql.run("SELECT id, balance FROM accounts WHERE id = $1", .text(id))
      }
      guard let row = rows.first, let balance = row.last.flatMap({ $0 }).flatMap({ Int64($0) }) else {
        throw BankError.notFound("account \(id)")
      }
      return try json(["id": JSONValue.string(id), "balance": .integer(balance)])
    }
    addHealth(to: routes, .accounts, ping: store.ping)
    routes.get("/stats") { _, _ in
      let numbers = try await store.reads.submit { session throws(BankError) in
        try session.numbers(
          "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM transfers), (SELECT sum(balance) FROM accounts)"
        )
      }
      return try json(["accounts": numbers[0], "transfers": numbers[1], "totalCents": numbers[2]])
    }
    return routes
  }

  private func apply(_ transfer: Transfer) async throws(BankError) {
    let refusal = try await store.writes.submit { session throws(BankError) -> BankError? in
      let known = try session.numbers(
        """
        SELECT (SELECT count(*) FROM transfers WHERE id = $1), (SELECT count(*) FROM accounts WHERE id = $2),
          (SELECT count(*) FROM accounts WHERE id = $3), coalesce((SELECT balance FROM accounts WHERE id = $2), 0)
        """, .text(transfer.id), .text(transfer.from), .text(transfer.to))
      if known[0] > 0 { return nil }
      guard known[1] == 1 else { return .notFound("account \(transfer.from)") }
      guard known[2] == 1 else { return .notFound("account \(transfer.to)") }
      guard known[3] >= transfer.amount else { return .refused("account \(transfer.from) does not hold that much") }
      try session.sql.run(
        "UPDATE accounts SET balance = balance - $1 WHERE id = $2", .integer(transfer.amount), .text(transfer.from))
      try session.sql.run(
        "UPDATE accounts SET balance = balance + $1 WHERE id = $2", .integer(transfer.amount), .text(transfer.to))
      try session.sql.run(
        "INSERT INTO transfers(id, from_account, to_account, amount) VALUES ($1, $2, $3, $4)",
        .text(transfer.id), .text(transfer.from), .text(transfer.to), .integer(transfer.amount))
      return nil
    }
    if let refusal { throw refusal }
  }

  static func create(in settings: StoreSettings, accounts: Int, openingBalanceCents: Int64) throws(BankError) {
    let session = try SQLStore.create(settings)
    try session.begin()
    try session.sql.run(
      "CREATE TABLE IF NOT EXISTS accounts(id TEXT PRIMARY KEY, balance BIGINT NOT NULL CHECK (balance >= 0))")
    try session.sql.run(
      """
      CREATE TABLE IF NOT EXISTS transfers(id TEXT PRIMARY KEY, from_account TEXT NOT NULL REFERENCES accounts(id),
        to_account TEXT NOT NULL REFERENCES accounts(id), amount BIGINT NOT NULL CHECK (amount > 0))
      """)
    for number in 0..<accounts {
      try session.sql.run(
        "INSERT INTO accounts(id, balance) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING", .text("a-\(number)"),
        .integer(openingBalanceCents))
    }
    try session.commit()
  }
}
