/// One HTTP request whose body, if any, is in memory.
package struct WebRequest: Sendable {
  package enum Method: String, Sendable { case get, head, put, post, delete }

  package var method: Method
  /// Absolute, percent-encoded, without user and password; also `http+unix://…` for a socket.
  package var url: String
  package var headers: [(name: String, value: String)] = []
  package var body: [UInt8]?
  /// A response with a larger body is refused before it is read to its end.
  package var responseLimitBytes = 1 << 20
  /// For everything, from the connection to the last byte.
  package var timeLimit: Duration = .seconds(60)
  /// How long nothing may move: no byte taken from us, none given. A server that must think has this long, too.
  package var stallLimit: Duration = .seconds(60)

  package init(_ method: Method, _ url: String) { (self.method, self.url) = (method, url) }
}

/// Carries requests to one kind of place.
package protocol WebTransport: Sendable {
  /// - Returns: Any response, of whatever status, whose body came whole.
  func send(_ request: WebRequest) async throws(WebFailure) -> WebResponse
}

package struct WebResponse: Sendable {
  package var status: Int
  /// Names in lowercase; the last of several equal ones wins.
  package var headers: [String: String]
  package var body: [UInt8]

  package init(status: Int, headers: [String: String] = [:], body: [UInt8] = []) {
    (self.status, self.headers, self.body) = (status, headers, body)
  }

  package var isSuccess: Bool { (200..<300).contains(status) }

  /// What the server said of its own failure: the first line, bounded; for people.
  package var excerpt: String {
    let line = String(decoding: body.prefix(300), as: UTF8.self).split(whereSeparator: \.isNewline).first ?? ""
    return String(line.unicodeScalars.filter { $0.value >= 32 && $0.value != 127 }.map(Character.init))
  }
}

/// Why there is no response. Never holds a header or a credential.
package enum WebFailure: Error, Equatable, Sendable, CustomStringConvertible {
  /// The address can't be understood, or leads nowhere: trying again won't help.
  case address(String)
  /// No connection, or one that broke; whether the request had an effect is not known.
  case connection(String)
  /// The server's certificate, or ours, was refused.
  case trust(String)
  case timeLimit(Duration)
  /// Nothing moved for so long.
  case stalled(Duration)
  case tooLarge(limitBytes: Int)
  case cancelled

  package var description: String {
    switch self {
    case .address(let text): text
    case .connection(let text): text
    case .trust(let text): text
    case .timeLimit(let limit): "no complete answer within \(limit)"
    case .stalled(let limit): "nothing came or went for \(limit)"
    case .tooLarge(let limit): "the answer has more than \(limit) bytes"
    case .cancelled: "cancelled"
    }
  }
}
