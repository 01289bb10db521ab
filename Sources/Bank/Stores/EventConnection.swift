import Core
import DriverNATS

/// One connection to a NATS server, and the stream that keeps the newest events.
///
/// An event is its transfer's id to the server too, which keeps one of a kind: a batch may be sent again.
final class EventConnection: StoreConnection {
  static let stream = "EVENTS"
  /// Consumers that have fallen behind further than that read the ledger instead.
  static let keptMessages: Int64 = 20_000

  private let server: JetStream
  private let client: Client
  private let address: String
  /// Where the server's acknowledgements of what was published since ``begin()`` will come.
  private var awaited: Set<String> = []
  private(set) var isCurrent = true

  init(_ settings: StoreSettings) throws(BankError) {
    let (host, port) = try settings.requireAddress()
    address = "\(host):\(port)"
    guard let port = UInt16(exactly: port) else { throw .configuration("store.port must be 1 to 65535") }
    do throws(WireError) {
      let socket = try Socket.connect(host: host, port: port, patience: .seconds(3))
      let inbox = "_INBOX." + Hex.encode(SystemRandomness().bytes(12))
      // Longer than any hold: a hold delays, and never fails, a write.
      client = try Client(socket, as: .none, inbox: inbox, patience: .seconds(15))
      server = JetStream(client: client)
    } catch { throw .storeAway("nats at \(host):\(port): \(error)") }
  }

  func begin() { awaited = [] }

  /// Sends an event; ``commit()`` returns once the stream has it.
  func publish(_ id: String, customer: String, _ payload: String) throws(BankError) {
    let reply = client.newInbox()
    awaited.insert(reply)
    try asking { () throws(WireError) in
      try client.publish(
        "events.\(customer)", reply: reply, Array(payload.utf8),
        headers: Array("NATS/1.0\r\nNats-Msg-Id: \(id)\r\n\r\n".utf8)
      )
    }
  }

  func commit() throws(BankError) {
    try asking { () throws(WireError) in
      while !awaited.isEmpty {
        let answer = try client.next()
        guard awaited.remove(answer.subject) != nil else { continue }
        guard answer.status != 503 else { throw .noResponders }
        _ = try JetStream.value(answer.payload)
      }
    }
  }

  func rollback() { isCurrent = isCurrent && awaited.isEmpty }

  /// How many events the stream keeps.
  func count() throws(BankError) -> Int64 {
    try asking { () throws(WireError) in
      try server.call("STREAM.INFO.\(Self.stream)")["state"]?["messages"]?.integer ?? 0
    }
  }

  var hasJetStream: Bool { (try? server.call("INFO", patience: .seconds(1))) != nil }

  /// Makes the stream; one that is as it should be stays.
  static func create(_ settings: StoreSettings) throws(BankError) {
    let connection = try EventConnection(settings)
    _ = try connection.asking { () throws(WireError) in
      try connection.server.call(
        "STREAM.CREATE.\(stream)",
        [
          "name": .string(stream), "subjects": ["events.>"], "retention": "limits", "storage": "file",
          "num_replicas": 1,
          "max_msgs": .integer(keptMessages), "discard": "old",
        ])
    }
  }

  private func asking<T>(_ body: () throws(WireError) -> T) throws(BankError) -> T {
    do throws(WireError) { return try body() } catch {
      if case .api(let code, let why) = error { throw .storeRefused("nats at \(address): \(why) (\(code))") }
      isCurrent = false
      throw .storeAway("nats at \(address): \(error)")
    }
  }
}
