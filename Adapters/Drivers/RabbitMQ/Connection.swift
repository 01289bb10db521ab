import CRabbitMQ
import Core
import DriverKit
import Glibc

/// One message as a queue gave it.
package struct Delivery: Sendable, Equatable {
  package var exchange: [UInt8]
  package var routingKey: [UInt8]
  /// All properties and headers, each with its length, in one spelling; without what a server counts about deliveries.
  package var properties: [UInt8]
  package var body: [UInt8]
  package var tag: UInt64
  package var isRedelivered: Bool
  /// It has an expiration of its own.
  package var expires = false
  /// When it was last put into a dead letter exchange, in seconds of UTC.
  package var died: UInt64?
  /// A consumer had it before and gave it back: a queue that counts such deliveries puts these first, in any order.
  package var isReturned = false
}

/// An AMQP connection with one channel, through librabbitmq. Every call blocks, so it runs on a blocking pool; one call at a time.
package final class Connection: @unchecked Sendable {
  // Touched by one call at a time: the owner's turns are the lock.
  package let state: amqp_connection_state_t
  private let interruption: Interruption

  package static let channel: amqp_channel_t = 1

  enum Method {
    static let get: amqp_method_number_t = 0x003C_0046
    static let getOK: amqp_method_number_t = 0x003C_0047
    static let getEmpty: amqp_method_number_t = 0x003C_0048
    static let channelClose: amqp_method_number_t = 0x0014_0028
    static let connectionClose: amqp_method_number_t = 0x000A_0032
  }

  /// - Parameter patience: For the connection and the login.
  package init(
    host: String, port: UInt16, vhost: String, user: String, password: Secret, patience: Duration,
    interruption: Interruption = Interruption()
  ) throws(WireError) {
    guard let state = amqp_new_connection() else { throw .broken("no memory") }
    (self.state, self.interruption) = (state, interruption)
    var limit = timeval(
      tv_sec: Int(patience.wholeNanoseconds / 1_000_000_000),
      tv_usec: Int(patience.wholeNanoseconds % 1_000_000_000 / 1000))
    guard let socket = amqp_tcp_socket_new(state) else { throw .broken("no memory") }
    let status = amqp_socket_open_noblock(socket, host, Int32(port), &limit)
    guard status == 0 else { throw Self.failure(status) }
    // No child of ours keeps it open.
    _ = fcntl(amqp_get_sockfd(state), F_SETFD, FD_CLOEXEC)
    amqp_set_handshake_timeout(state, &limit)
    amqp_set_rpc_timeout(state, &limit)
    try Self.check(salvor_amqp_login(state, vhost, 0, user, password.revealed()))
    amqp_channel_open(state, Self.channel)
    try check()
  }

  deinit { amqp_destroy_connection(state) }

  /// Says goodbye; what was not acknowledged goes back to its place.
  package func close() {
    amqp_connection_close(state, 200)
  }

  // MARK: Failures

  private static func failure(_ status: Int32) -> WireError {
    .broken(String(cString: amqp_error_string2(status)))
  }

  /// Throws what the last call of the library found.
  package func check() throws(WireError) { try Self.check(amqp_get_rpc_reply(state)) }

  private static func check(_ reply: amqp_rpc_reply_t) throws(WireError) {
    switch reply.reply_type {
    case AMQP_RESPONSE_NORMAL: return
    case AMQP_RESPONSE_LIBRARY_EXCEPTION: throw failure(reply.library_error)
    case AMQP_RESPONSE_SERVER_EXCEPTION: throw refusal(reply.reply)
    default: throw .broken("the server ended the connection")
    }
  }

  private static func refusal(_ method: amqp_method_t) -> WireError {
    switch (method.id, method.decoded) {
    case (Method.channelClose, let decoded?):
      let close = decoded.assumingMemoryBound(to: amqp_channel_close_t.self).pointee
      return .refused(code: close.reply_code, String(decoding: bytes(close.reply_text), as: UTF8.self))
    case (Method.connectionClose, let decoded?):
      let close = decoded.assumingMemoryBound(to: amqp_connection_close_t.self).pointee
      return .refused(code: close.reply_code, String(decoding: bytes(close.reply_text), as: UTF8.self))
    default: return .garbled("method \(String(method.id, radix: 16))")
    }
  }

  package static func bytes(_ value: amqp_bytes_t) -> [UInt8] {
    guard value.len > 0, let start = value.bytes else { return [] }
    return Array(UnsafeRawBufferPointer(start: start, count: value.len))
  }

  /// Lends bytes to a call of the library.
  package static func lend<T>(_ bytes: [UInt8], _ body: (amqp_bytes_t) -> T) -> T {
    bytes.withUnsafeBufferPointer {
      body(amqp_bytes_t(len: $0.count, bytes: UnsafeMutableRawPointer(mutating: $0.baseAddress)))
    }
  }

  // MARK: Reading a queue

  /// Takes messages in the queue's order until there are none; many are asked for before the first has come.
  ///
  /// - Parameters:
  ///   - limit: How many are taken at most.
  ///   - isFinal: They are gone then; otherwise they go back to their places when the connection ends.
  package func drain(
    _ queue: String, limit: Int = .max, isFinal: Bool, _ body: (Delivery) throws(WireError) -> Void
  ) throws(WireError) {
    let (name, window) = (Array(queue.utf8), 64)
    var (asked, left, isEmpty) = (0, limit, false)
    while true {
      while !isEmpty, asked < window, left > 0 {
        let status = Self.lend(name) { name in
          var get = amqp_basic_get_t(ticket: 0, queue: name, no_ack: isFinal ? 1 : 0)
          return amqp_send_method(state, Self.channel, Method.get, &get)
        }
        guard status == 0 else { throw Self.failure(status) }
        asked += 1
        left -= 1
      }
      if asked == 0 { return }
      let frame = try next()
      guard frame.frame_type == 1 else { throw .garbled("a frame of kind \(frame.frame_type) without a method") }
      switch frame.payload.method.id {
      case Method.getEmpty: isEmpty = true
      case Method.getOK: try body(try message(frame.payload.method))
      default: throw Self.refusal(frame.payload.method)
      }
      asked -= 1
      amqp_maybe_release_buffers(state)
    }
  }

  private func next() throws(WireError) -> amqp_frame_t {
    var frame = amqp_frame_t()
    while true {
      if interruption.isSet { throw .cancelled }
      var slice = timeval(tv_sec: 0, tv_usec: 50_000)
      let status = amqp_simple_wait_frame_noblock(state, &frame, &slice)
      if status == 0 { return frame }
      guard status == AMQP_STATUS_TIMEOUT.rawValue else { throw Self.failure(status) }
    }
  }

  private func message(_ method: amqp_method_t) throws(WireError) -> Delivery {
    guard let decoded = method.decoded else { throw .garbled("an answer without content") }
    let answer = decoded.assumingMemoryBound(to: amqp_basic_get_ok_t.self).pointee
    var delivery = Delivery(
      exchange: Self.bytes(answer.exchange), routingKey: Self.bytes(answer.routing_key), properties: [], body: [],
      tag: answer.delivery_tag, isRedelivered: answer.redelivered != 0)
    let header = try next()
    guard header.frame_type == 2, let properties = header.payload.properties.decoded else {
      throw .garbled("a message without a header")
    }
    let size = header.payload.properties.body_size
    guard size <= 1 << 30 else { throw .garbled("a message of \(size) bytes") }
    try delivery.read(properties.assumingMemoryBound(to: amqp_basic_properties_t.self).pointee)
    delivery.body.reserveCapacity(Int(size))
    while delivery.body.count < Int(size) {
      let part = try next()
      guard part.frame_type == 3, part.payload.body_fragment.len > 0,
        part.payload.body_fragment.len <= Int(size) - delivery.body.count
      else { throw .garbled("a message's body") }
      delivery.body += UnsafeRawBufferPointer(
        start: part.payload.body_fragment.bytes, count: part.payload.body_fragment.len)
    }
    return delivery
  }
}

extension Delivery {
  fileprivate mutating func read(_ given: amqp_basic_properties_t) throws(WireError) {
    func add(_ bit: Int, _ value: amqp_bytes_t) {
      guard given._flags & amqp_flags_t(1 << bit) != 0 else { return }
      let bytes = Connection.bytes(value)
      properties += Array("\(bit) \(bytes.count)\n".utf8) + bytes
    }
    func add(_ bit: Int, _ value: UInt64) {
      guard given._flags & amqp_flags_t(1 << bit) != 0 else { return }
      properties += Array("\(bit) = \(value)\n".utf8)
    }
    // Bits as AMQP 0-9-1 orders the properties of the class basic.
    add(15, given.content_type)
    add(14, given.content_encoding)
    if given._flags & amqp_flags_t(1 << 13) != 0 {
      properties += Array("13 headers\n".utf8)
      try table(given.headers, depth: 0)
    }
    add(12, UInt64(given.delivery_mode))
    add(11, UInt64(given.priority))
    add(10, given.correlation_id)
    add(9, given.reply_to)
    add(8, given.expiration)
    add(7, given.message_id)
    add(6, given.timestamp)
    add(5, given.type)
    add(4, given.user_id)
    add(3, given.app_id)
    add(2, given.cluster_id)
    expires = given._flags & amqp_flags_t(1 << 8) != 0
  }

  /// What a server writes down about deliveries: it grows by looking.
  private static let counters = [Array("x-delivery-count".utf8)]

  private mutating func table(_ table: amqp_table_t, depth: Int) throws(WireError) {
    guard depth < 64 else { throw .garbled("headers in headers without an end") }
    // A queue that counts deliveries puts them into another order; no two have one name.
    let entries = (0..<Int(table.num_entries)).map { (Connection.bytes(table.entries[$0].key), table.entries[$0]) }
    for (key, entry) in entries.sorted(by: { $0.0.lexicographicallyPrecedes($1.0) }) {
      if depth == 0, Self.counters.contains(key) {
        isReturned = true
        continue
      }
      properties += Array("\(key.count) ".utf8) + key
      try value(entry.value, depth: depth + 1)
      if depth == 0, key.elementsEqual("x-death".utf8) { died = Self.lastDeath(entry.value) }
    }
    properties.append(0)
  }

  private mutating func value(_ field: amqp_field_value_t, depth: Int) throws(WireError) {
    properties.append(field.kind)
    func number(_ text: some CustomStringConvertible) { properties += Array(" \(text)\n".utf8) }
    switch Character(UnicodeScalar(field.kind)) {
    case "t": number(field.value.boolean)
    case "b": number(field.value.i8)
    case "B": number(field.value.u8)
    case "s": number(field.value.i16)
    case "u": number(field.value.u16)
    case "I": number(field.value.i32)
    case "i": number(field.value.u32)
    case "l": number(field.value.i64)
    case "L", "T": number(field.value.u64)
    case "f": number(field.value.f32.bitPattern)
    case "d": number(field.value.f64.bitPattern)
    case "D": number("\(field.value.decimal.value)e-\(field.value.decimal.decimals)")
    case "S", "x":
      let bytes = Connection.bytes(field.value.bytes)
      number(bytes.count)
      properties += bytes
    case "A":
      number(field.value.array.num_entries)
      guard depth < 64 else { throw .garbled("headers in headers without an end") }
      for index in 0..<Int(field.value.array.num_entries) {
        try value(field.value.array.entries[index], depth: depth + 1)
      }
    case "F": try table(field.value.table, depth: depth)
    case "V": break
    default: throw .garbled("a header of kind \(field.kind)")
    }
  }

  private static func lastDeath(_ field: amqp_field_value_t) -> UInt64? {
    guard field.kind == UInt8(ascii: "A") else { return nil }
    var last: UInt64?
    for index in 0..<Int(field.value.array.num_entries) {
      let one = field.value.array.entries[index]
      guard one.kind == UInt8(ascii: "F") else { continue }
      for place in 0..<Int(one.value.table.num_entries) {
        let entry = one.value.table.entries[place]
        if entry.value.kind == UInt8(ascii: "T"), Connection.bytes(entry.key).elementsEqual("time".utf8) {
          last = max(last ?? 0, entry.value.value.u64)
        }
      }
    }
    return last
  }
}
