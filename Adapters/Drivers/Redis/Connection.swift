import CHiredis
import Core
import DriverKit

/// What a server answers.
indirect enum Reply: Equatable, Sendable {
  case status(String)
  case error(String)
  case integer(Int64)
  case bytes([UInt8])
  case array([Reply])
  case null

  /// As text; `nil` for null and for arrays.
  var text: String? {
    switch self {
    case .status(let text), .error(let text): text
    case .integer(let value): String(value)
    case .bytes(let bytes): String(decoding: bytes, as: UTF8.self)
    case .array, .null: nil
    }
  }

  var elements: [Reply]? { if case .array(let elements) = self { elements } else { nil } }

  init(_ reply: UnsafePointer<redisReply>) {
    let value = reply.pointee
    func bytes() -> [UInt8] {
      guard let start = value.str else { return [] }
      return Array(UnsafeRawBufferPointer(start: start, count: value.len))
    }
    switch value.type {
    case REDIS_REPLY_STATUS: self = .status(String(decoding: bytes(), as: UTF8.self))
    case REDIS_REPLY_ERROR: self = .error(String(decoding: bytes(), as: UTF8.self))
    case REDIS_REPLY_INTEGER: self = .integer(value.integer)
    case REDIS_REPLY_STRING: self = .bytes(bytes())
    case REDIS_REPLY_ARRAY:
      self = .array((0..<value.elements).map { index in value.element[index].map { Reply($0) } ?? .null })
    default: self = .null
    }
  }
}

/// A connection that sends commands and reads answers. Every call blocks, so it runs on a blocking pool; callers take
/// turns.
final class Connection: @unchecked Sendable {
  // `reader` is touched by one call at a time: the owner's turns are the lock.
  private let reader: UnsafeMutablePointer<redisReader>
  let socket: Socket
  let interruption: Interruption
  private let patience: Duration

  /// - Throws: ``WireError/garbled(_:)`` if there is no memory for a parser.
  init(_ socket: Socket, patience: Duration, interruption: Interruption = Interruption()) throws(WireError) {
    guard let reader = redisReaderCreate() else { throw .garbled("no memory for a parser") }
    (self.reader, self.socket, self.patience, self.interruption) = (reader, socket, patience, interruption)
  }

  deinit { redisReaderFree(reader) }

  /// One command, one answer.
  ///
  /// - Throws: ``WireError/refused(_:)`` if the answer is an error.
  func call(_ words: String..., patience: Duration? = nil) throws(WireError) -> Reply {
    let reply = try all([words.map { Array($0.utf8) }], patience: patience)[0]
    if case .error(let text) = reply { throw .refused(text) }
    return reply
  }

  func call(words: [[UInt8]], patience: Duration? = nil) throws(WireError) -> Reply {
    let reply = try all([words], patience: patience)[0]
    if case .error(let text) = reply { throw .refused(text) }
    return reply
  }

  /// Several commands in one go; their answers in the same order, errors among them.
  ///
  /// - Parameter persistently: Goes on although the session was interrupted; for what must be undone.
  func all(
    _ commands: [[[UInt8]]], patience: Duration? = nil, persistently: Bool = false
  ) throws(WireError) -> [Reply] {
    let stop = persistently ? nil : interruption
    try socket.send(commands.flatMap(Self.format), patience: patience ?? self.patience, interruption: stop)
    var replies: [Reply] = []
    for _ in commands { replies.append(try receive(patience: patience ?? self.patience, stop)) }
    return replies
  }

  private func receive(patience: Duration, _ stop: Interruption?) throws(WireError) -> Reply {
    var buffer = [UInt8](repeating: 0, count: 16_384)
    while true {
      var raw: UnsafeMutableRawPointer?
      guard redisReaderGetReply(reader, &raw) == REDIS_OK else {
        throw .garbled(
          withUnsafeBytes(of: reader.pointee.errstr) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
          })
      }
      if let raw {
        defer { freeReplyObject(raw) }
        return Reply(raw.assumingMemoryBound(to: redisReply.self))
      }
      let count = try buffer.withMutableRawBytes { (bytes) throws(WireError) -> Int in
        try socket.receive(into: bytes, patience: patience, interruption: stop)
      }
      guard count > 0 else { throw .broken("the server closed the connection") }
      let status = buffer.withUnsafeBytes {
        redisReaderFeed(reader, $0.baseAddress?.assumingMemoryBound(to: CChar.self), count)
      }
      guard status == REDIS_OK else { throw .garbled("no memory for an answer") }
    }
  }

  /// A command in the protocol's own spelling: an array of bulk strings. `words` is not empty.
  static func format(_ words: [[UInt8]]) -> [UInt8] {
    let flat = words.flatMap { $0 }
    let lengths = words.map(\.count)
    return flat.withUnsafeBytes { all -> [UInt8] in
      guard let base = all.baseAddress else { return [] }
      var offset = 0
      var pointers: [UnsafePointer<CChar>?] = []
      for length in lengths {
        pointers.append((base + offset).assumingMemoryBound(to: CChar.self))
        offset += length
      }
      var target: UnsafeMutablePointer<CChar>?
      let length = redisFormatCommandArgv(&target, Int32(words.count), &pointers, lengths)
      guard length > 0, let target else { return [] }
      defer { redisFreeCommand(target) }
      return Array(UnsafeRawBufferPointer(start: target, count: Int(length)))
    }
  }

  static func format(_ words: String...) -> [UInt8] { format(words.map { Array($0.utf8) }) }
}
