import Core
import DriverKit

/// What a server says of itself to whoever connects, before it asks who that is.
///
/// Source: AMQP 0-9-1, sections 2.2.4 and 4.2: the protocol header, and `connection.start` with its table of properties.
struct Greeting: Sendable, Equatable {
  var product: String
  var version: String

  static let header: [UInt8] = Array("AMQP".utf8) + [0, 0, 9, 1]
  /// A server's table has some hundred bytes.
  static let limitBytes = 128 << 10

  /// Connects, listens, and goes. Blocks.
  static func ask(host: String, port: UInt16, patience: Duration, interruption: Interruption) throws(WireError) -> Self
  {
    let socket = try Socket.connect(host: host, port: port, patience: patience, interruption: interruption)
    try socket.send(header, patience: patience, interruption: interruption)
    func take(_ count: Int) throws(WireError) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: count)
      var done = 0
      while done < count {
        let got = try bytes.withMutableRawBytes { (raw) throws(WireError) -> Int in
          try socket.receive(
            into: UnsafeMutableRawBufferPointer(rebasing: raw[done...]), patience: patience, interruption: interruption)
        }
        guard got > 0 else { throw .broken("the server ended the connection") }
        done += got
      }
      return bytes
    }
    let start = try take(7)
    guard start[0] == 1 else { throw .garbled("it doesn't begin with connection.start") }
    let size = start[3...6].reduce(0) { $0 << 8 | Int($1) }
    guard size <= limitBytes else { throw .garbled("a first frame of \(size) bytes") }
    return try Self(try take(size))
  }

  /// - Parameter payload: Of the first frame.
  init(_ payload: [UInt8]) throws(WireError) {
    var rest = payload[...]
    // Class 10, method 10, version 0-9.
    guard rest.prefix(6).elementsEqual([0, 10, 0, 10, 0, 9]) else {
      throw .garbled("it doesn't begin with connection.start")
    }
    rest = rest.dropFirst(6)
    var table = try Self.block(&rest)
    (product, version) = ("", "")
    while !table.isEmpty {
      let key = String(decoding: try Self.take(Int(try Self.take(1, &table).first ?? 0), &table), as: UTF8.self)
      let kind = try Self.take(1, &table).first ?? 0
      switch kind {
      case UInt8(ascii: "S"):
        let text = String(decoding: try Self.block(&table), as: UTF8.self)
        if key == "product" { product = text }
        if key == "version" { version = text }
      case UInt8(ascii: "F"), UInt8(ascii: "A"), UInt8(ascii: "x"): _ = try Self.block(&table)
      case UInt8(ascii: "t"), UInt8(ascii: "b"), UInt8(ascii: "B"): _ = try Self.take(1, &table)
      case UInt8(ascii: "s"), UInt8(ascii: "u"): _ = try Self.take(2, &table)
      case UInt8(ascii: "I"), UInt8(ascii: "i"), UInt8(ascii: "f"): _ = try Self.take(4, &table)
      case UInt8(ascii: "l"), UInt8(ascii: "L"), UInt8(ascii: "d"), UInt8(ascii: "T"): _ = try Self.take(8, &table)
      case UInt8(ascii: "D"): _ = try Self.take(5, &table)
      case UInt8(ascii: "V"): break
      default: throw .garbled("a property of kind \(kind)")
      }
    }
  }

  private static func take(_ count: Int, _ rest: inout ArraySlice<UInt8>) throws(WireError) -> ArraySlice<UInt8> {
    guard rest.count >= count else { throw .garbled("its properties end too early") }
    defer { rest = rest.dropFirst(count) }
    return rest.prefix(count)
  }

  /// Bytes behind their number.
  private static func block(_ rest: inout ArraySlice<UInt8>) throws(WireError) -> ArraySlice<UInt8> {
    let size = try take(4, &rest).reduce(0) { $0 << 8 | Int($1) }
    return try take(size, &rest)
  }
}
