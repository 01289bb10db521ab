import Core
import Hummingbird

/// Tells whoever listens that a transfer was posted: an event `customer,id,from,to,amount` in a stream.
struct EventsService {
  let writes: Lane<EventConnection>
  let reads: Lane<EventConnection>

  init(_ settings: StoreSettings) throws(BankError) {
    guard settings.kind == .nats else { throw .configuration("store.kind must be nats here, not \(settings.kind)") }
    _ = try settings.requireAddress()
    writes = Lane { () throws(BankError) in try EventConnection(settings) }
    reads = Lane { () throws(BankError) in try EventConnection(settings) }
  }

  func routes() -> Routes {
    let routes = Routes()
    routes.post("/events") { request, _ in
      let event = try await request.value(CustomerTransfer.self)
      try event.validate()
      try await writes.submit { connection throws(BankError) in
        try connection.publish(event.transfer.id, customer: event.customer, event.line)
      }
      return nothing()
    }
    addHealth(to: routes, .events) {
      _ = try await reads.submit { connection throws(BankError) in try connection.count() }
    }
    routes.get("/stats") { _, _ in
      try json(["kept": try await reads.submit { connection throws(BankError) in try connection.count() }])
    }
    return routes
  }
}
