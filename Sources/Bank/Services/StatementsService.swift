import Core
import Hummingbird
import IO
import Synchronization

/// Writes one file per transfer, `<customer>/<id>.csv`, with the line `id,from,to,amount`.
struct StatementsService {
  let writes: Lane<StatementDirectory>
  let reads: Lane<StatementDirectory>
  /// Calls of `/ready` that still have to fail.
  let refusals: Refusals

  final class Refusals: Sendable {
    private let left: Atomic<Int>
    init(_ count: Int) { left = Atomic(count) }

    func next() -> Bool { left.wrappingSubtract(1, ordering: .relaxed).oldValue > 0 }
  }

  init(_ settings: StoreSettings, failFirstReady: Int) throws(BankError) {
    guard settings.kind == .files else { throw .configuration("store.kind must be files here, not \(settings.kind)") }
    let path = try settings.requirePath()
    writes = Lane { () throws(BankError) in try StatementDirectory(path, writes: true) }
    reads = Lane { () throws(BankError) in try StatementDirectory(path, writes: false) }
    refusals = Refusals(failFirstReady)
  }

  func routes() -> Routes {
    let routes = Routes()
    routes.post("/statements") { request, _ in
      let statement = try await request.value(CustomerTransfer.self)
      let transfer = statement.transfer
      try statement.validate()
      try await writes.submit { directory throws(BankError) in
        try directory.write(
          customer: statement.customer, name: "\(transfer.id).csv",
          content: "\(transfer.id),\(transfer.from),\(transfer.to),\(transfer.amount)\n")
      }
      return nothing()
    }
    addHealth(to: routes, .statements, ping: ping) {
      // The directory is read first either way, so that the gate that fails is the same gate that passes later.
      if refusals.next() { throw BankError.notReady("still reading the directory of statements") }
    }
    routes.get("/stats") { _, _ in
      try json(["files": try await reads.submit { directory throws(BankError) in try directory.count() }])
    }
    return routes
  }

  private func ping() async throws(BankError) {
    try await reads.submit { directory throws(BankError) in
      guard directory.isCurrent else { throw .storeAway("\(directory.path) is gone") }
    }
  }

  static func create(in settings: StoreSettings) throws {
    let path = try settings.requirePath()
    try Files.createDirectory(path)
    if !Files.exists("\(path)/\(StatementDirectory.lockName)") {
      try Files.replace("\(path)/\(StatementDirectory.lockName)", with: [], mode: 0o644)
    }
  }
}
