import Core
import DriverKit

/// One stream, as JetStream's API tells of it.
struct StreamInfo: Sendable, Equatable {
  var name: String
  /// As the server spells it, for the restored server.
  var config: [String: JSONValue]
  var created: String
  var firstSequence: Int64
  var lastSequence: Int64
  var messages: Int64
  var bytes: Int64
  /// Of the last message; `nil` without any.
  var lastTime: Timestamp?
  var consumers: Int64

  var isInMemory: Bool { config["storage"]?.string == "memory" }
  var replicas: Int64 { config["num_replicas"]?.integer ?? 1 }
  /// Taking a message out is part of what such a stream means.
  var isConsumed: Bool { config["retention"]?.string != "limits" }

  init(_ value: JSONValue) throws(WireError) {
    guard let config = value["config"]?.object, let name = config["name"]?.string, Self.isName(name),
      let created = value["created"]?.string, let state = value["state"],
      let first = state["first_seq"]?.integer, let last = state["last_seq"]?.integer,
      let messages = state["messages"]?.integer, messages >= 0, last >= 0, first >= 0
    else { throw .garbled("what it says about a stream") }
    (self.name, self.config, self.created) = (name, config, created)
    (firstSequence, lastSequence, self.messages) = (first, last, messages)
    lastTime = state["last_ts"]?.string.flatMap { Timestamp($0) }
    if last == 0 { lastTime = nil }
    bytes = max(0, state["bytes"]?.integer ?? 0)
    consumers = state["consumer_count"]?.integer ?? 0
  }

  /// A name that can be a token of a subject and a directory, and nothing else.
  static func isName(_ text: String) -> Bool {
    !text.isEmpty && text.utf8.count <= 255 && text != "." && text != ".."
      && text.utf8.allSatisfy { $0 > 32 && $0 != 127 && !Array("./\\*>".utf8).contains($0) }
  }
}

/// One durable consumer: what it was told, and how far it is.
struct ConsumerInfo: Sendable, Equatable, Codable {
  var name: String
  var config: [String: JSONValue]
  var created: String
  /// The consumer's own count and the stream's sequence up to which everything is acknowledged.
  var floorCount: Int64
  var floorSequence: Int64
  var deliveredCount: Int64
  var deliveredSequence: Int64

  var isDurable: Bool { config["durable_name"]?.string != nil }
  var acknowledges: Bool { config["ack_policy"]?.string != "none" }

  init(_ value: JSONValue) throws(WireError) {
    guard let name = value["name"]?.string, StreamInfo.isName(name), let config = value["config"]?.object,
      let created = value["created"]?.string,
      let floorCount = value["ack_floor"]?["consumer_seq"]?.integer,
      let floorSequence = value["ack_floor"]?["stream_seq"]?.integer,
      let deliveredCount = value["delivered"]?["consumer_seq"]?.integer,
      let deliveredSequence = value["delivered"]?["stream_seq"]?.integer,
      min(floorCount, floorSequence, deliveredCount, deliveredSequence) >= 0
    else { throw .garbled("what it says about a consumer") }
    (self.name, self.config, self.created) = (name, config, created)
    (self.floorCount, self.floorSequence) = (floorCount, floorSequence)
    (self.deliveredCount, self.deliveredSequence) = (deliveredCount, deliveredSequence)
  }

  /// Where it goes on after a restore: behind what it had acknowledged, or been given where it acknowledges nothing.
  ///
  /// - Parameter last: The stream's last sequence that is kept; no consumer is ahead of it.
  func goesOn(behind last: Int64) -> (count: Int64, sequence: Int64) {
    acknowledges
      ? (floorCount, min(floorSequence, last)) : (deliveredCount, min(deliveredSequence, last))
  }
}

/// JetStream's requests, over one connection. Every call blocks.
package struct JetStream: Sendable {
  let client: Client
  /// A list is refused once it has more.
  static let listLimit = 100_000

  package init(client: Client) { self.client = client }

  @discardableResult
  package func call(_ name: String, _ body: JSONValue? = nil, patience: Duration? = nil) throws(WireError) -> JSONValue
  {
    var bytes: [UInt8] = []
    if let body {
      guard let text = try? CanonicalJSON.encode(body) else { throw .garbled(name) }
      bytes = text
    }
    let answer = try client.request("$JS.API.\(name)", bytes, patience: patience)
    return try Self.value(answer.payload)
  }

  /// - Throws: ``WireError/api(code:_:)`` if the server says no.
  package static func value(_ bytes: [UInt8]) throws(WireError) -> JSONValue {
    guard let value = try? CanonicalJSON.decode(JSONValue.self, from: bytes), value.object != nil else {
      throw .garbled("an answer of JetStream's that isn't JSON")
    }
    if let error = value["error"] {
      throw .api(code: error["err_code"]?.integer ?? 0, error["description"]?.string ?? "no reason")
    }
    return value
  }

  /// Every stream, ascending by name.
  func streams() throws(WireError) -> [StreamInfo] {
    try list("STREAM.LIST", "streams") { (value) throws(WireError) in try StreamInfo(value) }
      .sorted { $0.name < $1.name }
  }

  func stream(_ name: String) throws(WireError) -> StreamInfo { try StreamInfo(try call("STREAM.INFO.\(name)")) }

  /// Every consumer, ascending by name; ephemeral ones too.
  func consumers(of stream: String) throws(WireError) -> [ConsumerInfo] {
    try list("CONSUMER.LIST.\(stream)", "consumers") { (value) throws(WireError) in try ConsumerInfo(value) }
      .sorted { $0.name < $1.name }
  }

  private func list<T>(
    _ request: String, _ field: String, _ read: (JSONValue) throws(WireError) -> T
  ) throws(WireError) -> [T] {
    var found: [T] = []
    while true {
      let page = try call(request, ["offset": .integer(Int64(found.count))])
      let values = page[field]?.array ?? []
      for value in values { found.append(try read(value)) }
      guard found.count <= Self.listLimit else { throw .garbled("a list of more than \(Self.listLimit)") }
      guard !values.isEmpty, let total = page["total"]?.integer, found.count < total else { return found }
    }
  }
}

/// A message that a stream keeps.
struct StoredMessage: Sendable, Equatable {
  var sequence: Int64
  var time: Timestamp
  var subject: String
  var headers: [UInt8]
  var payload: [UInt8]
}
