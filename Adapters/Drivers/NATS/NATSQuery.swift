import Core
import DriverKit
import IO

extension NATSDriver {
  /// What can be asked, by its first word.
  static let queries =
    "STREAMS, CONSUMERS stream, MESSAGES stream [subject], PAYLOADS stream [subject], COUNT stream [subject], LAST stream subject"

  /// One of ``queries``; subjects may have wildcards. Nothing is left on the server, not even a consumer.
  func query(_ text: String, limit: QueryLimit) async throws(DriverError) -> QueryResult {
    let words = text.split(whereSeparator: \.isWhitespace).map(String.init)
    guard let first = words.first?.uppercased() else { throw .queryFailed("the query is empty") }
    let names = Array(words.dropFirst())
    if let stream = names.first, !StreamInfo.isName(stream) { throw .queryFailed("'\(stream)' is no stream's name") }
    let server = try await connect()
    do throws(WireError) {
      return try await environment.pool.run { () throws(WireError) -> QueryResult in
        switch (first, names.count) {
        case ("STREAMS", 0): return try server.allStreams(limit)
        case ("CONSUMERS", 1): return try server.allConsumers(of: names[0], limit)
        case ("MESSAGES", 1...2):
          return try server.messages(of: names[0], names.count > 1 ? names[1] : ">", limit)
        case ("PAYLOADS", 1...2):
          var result = try server.messages(of: names[0], names.count > 1 ? names[1] : ">", limit)
          result.columns = ["payload"]
          result.rows = result.rows.map { $0.suffix(1) }
          return result
        case ("COUNT", 1): return Self.one("messages", String(try server.stream(names[0]).messages))
        case ("COUNT", 2):
          let filter: JSONValue = ["subjects_filter": .string(names[1])]
          let state = try server.call("STREAM.INFO.\(names[0])", filter, patience: limit.timeout)["state"]
          let counts = state?["subjects"]?.object ?? [:]
          return Self.one("messages", String(counts.values.reduce(Int64(0)) { $0 &+ ($1.integer ?? 0) }))
        case ("LAST", 2):
          let found = try server.call("STREAM.MSG.GET.\(names[0])", ["last_by_subj": .string(names[1])])
          return QueryResult(columns: JetStream.columns, rows: [try JetStream.row(found)])
        default: throw .refused("it is none of \(Self.queries)")
        }
      }
    } catch {
      switch error {
      case .api(_, let why): throw .queryFailed(why)
      case .refused(let why) where !why.lowercased().contains("violation"): throw .queryFailed(why)
      case .silent(let limit): throw .queryFailed("it took longer than \(limit.brief)")
      default: throw error.driverError(at: peer, doing: "the query")
      }
    }
  }

  private static func one(_ name: String, _ value: String) -> QueryResult {
    QueryResult(columns: [name], rows: [[value]])
  }
}

extension JetStream {
  static let columns = ["sequence", "subject", "time", "payload"]

  fileprivate func allStreams(_ limit: QueryLimit) throws(WireError) -> QueryResult {
    let found = try streams()
    return QueryResult(
      columns: ["stream", "messages", "first", "last", "consumers"],
      rows: found.prefix(limit.rows).map {
        [$0.name, String($0.messages), String($0.firstSequence), String($0.lastSequence), String($0.consumers)]
      }, isTruncated: found.count > limit.rows)
  }

  fileprivate func allConsumers(of stream: String, _ limit: QueryLimit) throws(WireError) -> QueryResult {
    let found = try consumers(of: stream)
    return QueryResult(
      columns: ["consumer", "acknowledged", "delivered"],
      rows: found.prefix(limit.rows).map { [$0.name, String($0.floorSequence), String($0.deliveredSequence)] },
      isTruncated: found.count > limit.rows)
  }

  /// One request per message: a consumer would be quicker, and something left on the server.
  fileprivate func messages(of stream: String, _ filter: String, _ limit: QueryLimit) throws(WireError) -> QueryResult {
    if filter == ">" { return try allMessages(of: stream, limit) }
    var result = QueryResult(columns: Self.columns, rows: [])
    var next: Int64 = 1
    while true {
      let found: JSONValue
      do throws(WireError) {
        found = try call("STREAM.MSG.GET.\(stream)", ["seq": .integer(next), "next_by_subj": .string(filter)])
      } catch {
        guard case .api(WireError.Code.noMessage, _) = error else { throw error }
        return result
      }
      guard let sequence = found["message"]?["seq"]?.integer, sequence >= next, sequence < Int64.max else {
        throw .garbled("a message's sequence")
      }
      guard result.rows.count < limit.rows else {
        result.isTruncated = true
        return result
      }
      result.rows.append(try Self.row(found))
      next = sequence + 1
    }
  }

  /// All that were there when it began: since their numbers are known, many are asked for before the first has come.
  private func allMessages(of stream: String, _ limit: QueryLimit) throws(WireError) -> QueryResult {
    let info = try self.stream(stream)
    var result = QueryResult(columns: Self.columns, rows: [])
    var next = max(1, info.firstSequence)
    while next <= info.lastSequence {
      let window = next...min(next + 255, info.lastSequence)
      for found in try messages(window, of: stream) {
        guard result.rows.count < limit.rows else {
          result.isTruncated = true
          return result
        }
        result.rows.append(try Self.row(found))
      }
      next = window.upperBound + 1
    }
    return result
  }

  /// Those of a range that are still there, in order.
  private func messages(_ range: ClosedRange<Int64>, of stream: String) throws(WireError) -> [JSONValue] {
    var expected: [String: Int] = [:]
    for sequence in range {
      guard let text = try? CanonicalJSON.encode(["seq": .integer(sequence)] as JSONValue) else {
        throw .garbled("STREAM.MSG.GET")
      }
      let inbox = client.newInbox()
      try client.publish("$JS.API.STREAM.MSG.GET.\(stream)", reply: inbox, text)
      expected[inbox] = expected.count
    }
    var found = [JSONValue?](repeating: nil, count: expected.count)
    while !expected.isEmpty {
      let answer = try client.next()
      guard let index = expected.removeValue(forKey: answer.subject) else { continue }
      if answer.status == 503 { throw .noResponders }
      do throws(WireError) { found[index] = try Self.value(answer.payload) } catch {
        guard case .api(WireError.Code.noMessage, _) = error else { throw error }
      }
    }
    return found.compactMap(\.self)
  }

  static func row(_ found: JSONValue) throws(WireError) -> [String?] {
    guard let message = found["message"], let sequence = message["seq"]?.integer,
      let subject = message["subject"]?.string
    else { throw .garbled("a message") }
    let payload = message["data"]?.string.flatMap { Base64.decode($0) } ?? []
    return [String(sequence), subject, message["time"]?.string, String(decoding: payload, as: UTF8.self)]
  }
}
