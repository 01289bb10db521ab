import Core
import Hummingbird

/// Keeps what each customer is told: one notice per event, numbered in the order in which they were written.
struct NoticesService {
  let store: SQLStore

  func routes() -> Routes {
    let routes = Routes()
    routes.post("/notices") { request, _ in
      let notice = try await request.value(CustomerTransfer.self)
      try notice.validate()
      try await store.writes.submit { session throws(BankError) in
        _ = try session.sql.run(
          """
          INSERT INTO notices(id, customer, from_account, to_account, amount) VALUES ($1, $2, $3, $4, $5)
            ON DUPLICATE KEY UPDATE id = id
          """, .text(notice.transfer.id), .text(notice.customer), .text(notice.transfer.from),
          .text(notice.transfer.to), .integer(notice.transfer.amount))
      }
      return nothing()
    }
    addHealth(to: routes, .notices, ping: store.ping)
    routes.get("/stats") { _, _ in
      let numbers = try await store.reads.submit { session throws(BankError) in
        try session.numbers("SELECT count(*) FROM notices")
      }
      return try json(["notices": numbers[0]])
    }
    return routes
  }

  static func create(in settings: StoreSettings) throws(BankError) {
    let session = try SQLStore.create(settings)
    try session.sql.run(
      """
      CREATE TABLE IF NOT EXISTS notices(number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
        id VARCHAR(64) NOT NULL UNIQUE, customer VARCHAR(64) NOT NULL, from_account VARCHAR(64) NOT NULL,
        to_account VARCHAR(64) NOT NULL, amount BIGINT NOT NULL CHECK (amount > 0))
        ENGINE=InnoDB CHARACTER SET ascii COLLATE ascii_bin
      """)
  }
}
