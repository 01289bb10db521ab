import Core
import DriverKit
import IO

/// What a server says when a connection begins, as far as it matters here.
struct ServerInfo: Decodable, Sendable, Equatable {
  var version: String
  var headers: Bool?
  /// Bytes of the largest message.
  var max_payload: Int?
  var jetstream: Bool?
  /// The cluster's name, for a server in one.
  var cluster: String?
  var nonce: String?
  var auth_required: Bool?
  var tls_required: Bool?
}

/// One message that came.
package struct Message: Sendable, Equatable {
  package var subject: String
  package var reply: String?
  /// With its first line, `NATS/1.0 …`, and the empty one at the end; empty without headers.
  package var headers: [UInt8]
  package var payload: [UInt8]

  /// What a server says instead of content, such as 503 when nobody listens.
  package var status: Int? {
    guard headers.starts(with: Array("NATS/1.0 ".utf8)) else { return nil }
    return Int(String(decoding: headers.dropFirst(9).prefix(3), as: UTF8.self))
  }
}

extension Message {
  /// The first of a header's values.
  func value(of header: String) -> String? {
    for line in String(decoding: headers, as: UTF8.self).split(whereSeparator: \.isNewline) {
      guard let colon = line.firstIndex(of: ":"), line[..<colon].lowercased() == header.lowercased() else { continue }
      return line[line.index(after: colon)...].trimmingPrefix(" ").description
    }
    return nil
  }
}

/// Who a client says it is.
package enum Credential: Sendable {
  case none
  case password(user: String, Secret)
  case token(Secret)
}

/// A connection to a NATS server. Every call blocks, so it runs on a blocking pool; callers take turns.
///
/// Source: the client protocol as the NATS project documents it: lines, and payloads counted in bytes. What comes is
/// hostile until shown otherwise: a line and a payload have a limit each, and nothing is allocated before it is known.
package final class Client: @unchecked Sendable {
  // Touched by one call at a time: the owner's turns are the lock.
  private var buffer: [UInt8] = []
  private var start = 0
  private var outgoing: [UInt8] = []
  private var lastRequest = 0
  private(set) var info: ServerInfo
  private var pongs = 0
  /// What came while something else was waited for.
  private var early: [Message] = []

  let socket: Socket
  let interruption: Interruption
  private let patience: Duration
  private let inbox: String

  static let lineLimitBytes = 1 << 20
  /// No server can be set to send more.
  static let payloadLimitBytes = 64 << 20

  /// Greets the server; throws if it doesn't let us in.
  package init(
    _ socket: Socket, as credential: Credential, inbox: String, patience: Duration,
    interruption: Interruption = Interruption()
  ) throws(WireError) {
    (self.socket, self.patience, self.interruption, self.inbox) = (socket, patience, interruption, inbox)
    info = ServerInfo(version: "")
    let line = try line()
    guard line.hasPrefix("INFO "),
      let info = try? CanonicalJSON.decode(ServerInfo.self, from: Array(line.dropFirst(5).utf8))
    else { throw .garbled("it doesn't begin with INFO") }
    self.info = info
    guard info.tls_required != true else {
      throw .broken("the server wants TLS, which this driver doesn't speak: use a private network or a tunnel")
    }
    var options: [String: JSONValue] = [
      "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "lang": "swift", "protocol": 1,
      "name": "salvor", "version": "1",
    ]
    switch credential {
    case .none: break
    case .password(let user, let secret):
      options["user"] = .string(user)
      options["pass"] = .string(secret.revealed())
    case .token(let secret): options["auth_token"] = .string(secret.revealed())
    }
    guard let text = try? CanonicalJSON.encode(options) else { throw .garbled("CONNECT") }
    outgoing = Array("CONNECT ".utf8) + text + Array("\r\nPING\r\n".utf8)
    try flush()
    while true {
      let line = try self.line()
      if line == "PONG" { break }
      try control(line)
    }
    outgoing += Array("SUB \(inbox).> 1\r\n".utf8)
  }

  // MARK: Sending

  /// Puts a message into the buffer; ``flush()`` sends it.
  ///
  /// - Parameter headers: With their first line and the empty one at the end.
  package func publish(
    _ subject: String, reply: String? = nil, _ payload: [UInt8] = [], headers: [UInt8] = []
  ) throws(WireError) {
    guard Self.isSubject(subject), reply.map(Self.isSubject) ?? true else { throw .garbled("a subject with a blank") }
    guard headers.count + payload.count <= info.max_payload ?? (1 << 20) else {
      throw .garbled("a message of \(payload.count) bytes, and the server takes \(info.max_payload ?? 0)")
    }
    let place = "\(subject) \(reply.map { "\($0) " } ?? "")"
    let first =
      headers.isEmpty
      ? "PUB \(place)\(payload.count)" : "HPUB \(place)\(headers.count) \(headers.count + payload.count)"
    outgoing += Array("\(first)\r\n".utf8)
    outgoing += headers
    outgoing += payload
    outgoing += [13, 10]
  }

  package func flush() throws(WireError) {
    guard !outgoing.isEmpty else { return }
    let bytes = outgoing
    outgoing = []
    try socket.send(bytes, patience: patience, interruption: interruption)
  }

  /// A subject to which answers come.
  package func newInbox() -> String {
    lastRequest += 1
    return "\(inbox).\(lastRequest)"
  }

  /// A subject of our own to which a consumer may deliver: it looks for a subscription of just that name. Returns once the
  /// server knows of it; what comes meanwhile is kept.
  func subscribe() throws(WireError) -> String {
    lastRequest += 1
    let subject = "\(inbox)-m.\(lastRequest)"
    outgoing += Array("SUB \(subject) \(lastRequest + 1)\r\nPING\r\n".utf8)
    try flush()
    let before = pongs
    while pongs == before { if let message = try step() { early.append(message) } }
    return subject
  }

  /// Asks and waits for the answer; answers to earlier questions that nobody waits for any more are dropped.
  func request(_ subject: String, _ payload: [UInt8] = [], patience: Duration? = nil) throws(WireError) -> Message {
    let reply = newInbox()
    try publish(subject, reply: reply, payload)
    try flush()
    while true {
      let message = try next(patience: patience)
      guard message.subject == reply else { continue }
      if message.status == 503 { throw .noResponders }
      return message
    }
  }

  private static func isSubject(_ text: String) -> Bool {
    !text.isEmpty && text.utf8.allSatisfy { $0 > 32 && $0 != 127 } && text.utf8.count < 4096
  }

  // MARK: Receiving

  /// More has come than was taken.
  var hasBuffered: Bool { !early.isEmpty || start < buffer.count }

  /// Whether something has come within that time. What is in the middle of coming is for ``next(patience:)``.
  func hasNews(within limit: Duration) throws(WireError) -> Bool {
    try flush()
    if hasBuffered { return true }
    do throws(WireError) { try fill(65_536, limit) } catch {
      if case .silent = error { return false }
      throw error
    }
    return true
  }

  /// The next message; what is in the buffer is sent first.
  package func next(patience: Duration? = nil) throws(WireError) -> Message {
    try flush()
    while true { if let message = try taken(patience) { return message } }
  }

  /// The next message, if what comes next is one.
  func taken(_ patience: Duration? = nil) throws(WireError) -> Message? {
    early.isEmpty ? try step(patience) : early.removeFirst()
  }

  /// The next line, and what belongs to it.
  ///
  /// - Returns: `nil` if it was about the connection.
  private func step(_ patience: Duration? = nil) throws(WireError) -> Message? {
    let line = try line(patience)
    let words = line.split(separator: " ", omittingEmptySubsequences: true)
    switch words.first?.uppercased() {
    case "MSG":
      // MSG subject sid [reply] size
      guard words.count == 4 || words.count == 5, let size = Int(words[words.count - 1]) else {
        throw .garbled("a message's first line")
      }
      return Message(
        subject: String(words[1]), reply: words.count == 5 ? String(words[3]) : nil, headers: [],
        payload: try payload(size, patience))
    case "HMSG":
      guard words.count == 5 || words.count == 6, let size = Int(words[words.count - 1]),
        let headerSize = Int(words[words.count - 2]), headerSize >= 0, headerSize <= size
      else { throw .garbled("a message's first line") }
      let whole = try payload(size, patience)
      return Message(
        subject: String(words[1]), reply: words.count == 6 ? String(words[3]) : nil,
        headers: Array(whole[..<headerSize]), payload: Array(whole[headerSize...]))
    default:
      try control(line)
      return nil
    }
  }

  private func control(_ line: String) throws(WireError) {
    let word = line.prefix { $0 != " " }.uppercased()
    switch word {
    case "PING":
      outgoing += Array("PONG\r\n".utf8)
      try flush()
    case "PONG": pongs += 1
    case "+OK": break
    case "INFO":
      if let news = try? CanonicalJSON.decode(ServerInfo.self, from: Array(line.dropFirst(5).utf8)) { info = news }
    case "-ERR":
      throw .refused(line.dropFirst(5).filter { $0 != "'" })
    default: throw .garbled("a line that begins with '\(word.prefix(16))'")
    }
  }

  private func line(_ patience: Duration? = nil) throws(WireError) -> String {
    var looked = start
    while true {
      if let end = buffer[looked...].firstIndex(of: 10) {
        var last = end
        if last > start, buffer[last - 1] == 13 { last -= 1 }
        let text = String(decoding: buffer[start..<last], as: UTF8.self)
        start = end + 1
        return text
      }
      guard buffer.count - start < Self.lineLimitBytes else { throw .garbled("a line without an end") }
      let held = buffer.count - start
      try fill(65_536, patience)
      looked = start + held
    }
  }

  private func payload(_ size: Int, _ patience: Duration?) throws(WireError) -> [UInt8] {
    guard size >= 0, size <= Self.payloadLimitBytes else { throw .garbled("a message of \(size) bytes") }
    while buffer.count - start < size + 2 {
      try fill(max(65_536, size + 2 - (buffer.count - start)), patience)
    }
    let bytes = Array(buffer[start..<start + size])
    guard buffer[start + size] == 13, buffer[start + size + 1] == 10 else { throw .garbled("a message's end") }
    start += size + 2
    return bytes
  }

  /// Receives at least one byte.
  private func fill(_ wanted: Int, _ patience: Duration?) throws(WireError) {
    if start > 0 {
      buffer.removeFirst(start)
      start = 0
    }
    let old = buffer.count
    buffer.append(contentsOf: repeatElement(0, count: wanted))
    let limit = patience ?? self.patience
    var count = 0
    do throws(WireError) {
      count = try buffer.withMutableRawBytes { (raw) throws(WireError) -> Int in
        try socket.receive(
          into: UnsafeMutableRawBufferPointer(rebasing: raw[old...]), patience: limit, interruption: interruption)
      }
    } catch {
      buffer.removeLast(wanted)
      throw error
    }
    buffer.removeLast(wanted - count)
    guard count > 0 else { throw .broken("the server ended the connection") }
  }
}
