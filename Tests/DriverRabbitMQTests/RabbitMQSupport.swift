import CRabbitMQ
import Core
import DriverContract
import DriverKit
import Glibc
import IO
import TestSupport

@testable import DriverRabbitMQ

/// Threads of the world outside: a writer that waits for the hold to end must not keep the driver from ending it.
let clients = BlockingPool(threads: 96)

/// A value in a table of arguments or headers.
indirect enum Field: Sendable {
  case text(String)
  case number(Int64)
  case flag(Bool)
  case table([(String, Field)])
  case list([Field])

  // Memory of tests is not given back.
  fileprivate var raw: amqp_field_value_t {
    var field = amqp_field_value_t()
    switch self {
    case .text(let text):
      field.kind = UInt8(ascii: "S")
      field.value.bytes = amqp_cstring_bytes(strdup(text))
    case .number(let number):
      field.kind = UInt8(ascii: "l")
      field.value.i64 = number
    case .flag(let flag):
      field.kind = UInt8(ascii: "t")
      field.value.boolean = flag ? 1 : 0
    case .table(let entries):
      field.kind = UInt8(ascii: "F")
      field.value.table = Self.raw(entries)
    case .list(let list):
      field.kind = UInt8(ascii: "A")
      let entries = UnsafeMutablePointer<amqp_field_value_t>.allocate(capacity: max(1, list.count))
      for (index, one) in list.enumerated() { entries[index] = one.raw }
      field.value.array = amqp_array_t(num_entries: Int32(list.count), entries: entries)
    }
    return field
  }

  static func raw(_ table: [(String, Field)]) -> amqp_table_t {
    let entries = UnsafeMutablePointer<amqp_table_entry_t>.allocate(capacity: max(1, table.count))
    for (index, (key, value)) in table.enumerated() {
      entries[index] = amqp_table_entry_t(key: amqp_cstring_bytes(strdup(key)), value: value.raw)
    }
    return amqp_table_t(num_entries: Int32(table.count), entries: entries)
  }
}

/// What is published with a message.
struct Properties: Sendable {
  var isPersistent = true
  var priority: UInt8?
  var expiration: String?
  var messageID: String?
  var headers: [(String, Field)] = []

  fileprivate var raw: amqp_basic_properties_t {
    var raw = amqp_basic_properties_t()
    func set(_ bit: Int) { raw._flags |= amqp_flags_t(1 << bit) }
    set(12)
    raw.delivery_mode = isPersistent ? 2 : 1
    if let priority {
      set(11)
      raw.priority = priority
    }
    if let expiration {
      set(8)
      raw.expiration = amqp_cstring_bytes(strdup(expiration))
    }
    if let messageID {
      set(7)
      raw.message_id = amqp_cstring_bytes(strdup(messageID))
    }
    if !headers.isEmpty {
      set(13)
      raw.headers = Field.raw(headers)
    }
    return raw
  }
}

/// What a server has confirmed: all up to a number, and some beyond it.
struct Confirms {
  private(set) var floor = 0
  private var beyond: Set<Int> = []

  mutating func add(_ tag: Int, multiple: Bool) {
    if multiple { floor = max(floor, tag) } else { beyond.insert(tag) }
    beyond = beyond.filter { $0 > floor }
    while beyond.remove(floor + 1) != nil { floor += 1 }
  }
}

extension Connection {
  func declare(
    _ queue: String, _ arguments: [(String, Field)] = [], isDurable: Bool = true, isExclusive: Bool = false
  ) throws {
    amqp_queue_declare(
      state, Self.channel, amqp_cstring_bytes(strdup(queue)), 0, isDurable ? 1 : 0, isExclusive ? 1 : 0, 0,
      Field.raw(arguments))
    try check()
  }

  func declareExchange(_ name: String, _ kind: String) throws {
    amqp_exchange_declare(
      state, Self.channel, amqp_cstring_bytes(strdup(name)), amqp_cstring_bytes(strdup(kind)), 0, 1, 0, 0,
      Field.raw([]))
    try check()
  }

  func bind(_ queue: String, to exchange: String, _ key: String = "") throws {
    amqp_queue_bind(
      state, Self.channel, amqp_cstring_bytes(strdup(queue)), amqp_cstring_bytes(strdup(exchange)),
      amqp_cstring_bytes(strdup(key)), Field.raw([]))
    try check()
  }

  func unbind(_ queue: String, from exchange: String, _ key: String = "") throws {
    amqp_queue_unbind(
      state, Self.channel, amqp_cstring_bytes(strdup(queue)), amqp_cstring_bytes(strdup(exchange)),
      amqp_cstring_bytes(strdup(key)), Field.raw([]))
    try check()
  }

  func delete(_ queue: String) throws {
    amqp_queue_delete(state, Self.channel, amqp_cstring_bytes(strdup(queue)), 0, 0)
    try check()
  }

  /// From now on the server says of each message that it has it.
  func confirm() throws {
    amqp_confirm_select(state, Self.channel)
    try check()
  }

  func publish(_ body: [UInt8], to exchange: String = "", _ key: String, _ properties: Properties = Properties()) throws
  {
    var raw = properties.raw
    let status = Self.lend(body) { body in
      exchange.withCString { exchange in
        key.withCString { key in
          amqp_basic_publish(
            state, Self.channel, amqp_cstring_bytes(exchange), amqp_cstring_bytes(key), 0, 0, &raw, body)
        }
      }
    }
    guard status == 0 else { throw ContractBroken("publish: \(String(cString: amqp_error_string2(status)))") }
  }

  /// Waits until the server has said of the first `count` messages of this connection that it has them.
  func waitForConfirms(_ count: Int, _ confirms: inout Confirms) throws {
    while confirms.floor < count {
      var frame = amqp_frame_t()
      let status = amqp_simple_wait_frame(state, &frame)
      guard status == 0 else { throw ContractBroken("confirm: \(String(cString: amqp_error_string2(status)))") }
      guard frame.frame_type == 1, frame.payload.method.id == 0x003C_0050, let decoded = frame.payload.method.decoded
      else { throw ContractBroken("no confirm but \(String(frame.payload.method.id, radix: 16))") }
      let ack = decoded.assumingMemoryBound(to: amqp_basic_ack_t.self).pointee
      confirms.add(Int(ack.delivery_tag), multiple: ack.multiple != 0)
      amqp_maybe_release_buffers(state)
    }
  }

  func waitForConfirms(_ count: Int) throws {
    var confirms = Confirms()
    try waitForConfirms(count, &confirms)
  }

  func acknowledge(_ tag: UInt64) throws {
    guard amqp_basic_ack(state, Self.channel, tag, 0) == 0 else { throw ContractBroken("ack") }
  }
}

extension RabbitMQFixture {
  /// Runs `body` with a server of its own, and ends it whatever happened.
  static func with<T>(
    plugins: [String] = [], options: [String: JSONValue] = [:], arguments: String = "",
    _ body: (RabbitMQFixture) async throws -> T
  ) async throws -> T {
    let fixture = try await start(plugins: plugins, options: options, arguments: arguments)
    do {
      let result = try await body(fixture)
      await fixture.shutDown()
      return result
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  /// Has the node call a function of its own.
  ///
  /// - Parameter what: Module, function and arguments, as Erlang spells them.
  func call(_ what: String) async throws {
    let (home, mapper) = (server.directory.path, server.mapperPort)
    let result = try await clients.run {
      try OwnProcess.run([
        "env", "HOME=\(home)", "ERL_EPMD_PORT=\(mapper)", "ERL_CRASH_DUMP_SECONDS=0", "erl", "-noshell", "-noinput",
        "-boot", "no_dot_erlang", "-hidden", "-sname", "caller\(mapper)@localhost", "-eval",
        "io:format(\"~0p\", [rpc:call('\(RabbitMQServer.node)', \(what))]), halt(0).",
      ])
    }
    try promise(result == (0, "ok"), "\(what): \(result)")
  }

  /// What a failure is understood by: what a capture says of itself, and what the node does.
  func evidence(_ result: CaptureResult) async -> String {
    let server = server
    let log = await clients.run { server.log }
    return """
      cut at \(result.position.value); facts \(result.facts.sorted { $0.key < $1.key }); notes \(result.notes); parts \
      \(result.contentDigest?.parts.sorted { $0.key < $1.key } ?? []); the node's log:
      \(log.suffix(6000))
      """
  }

  /// One capture; the hooks run where their names say.
  func capture(
    prepared: () async throws -> Void = {}, marked: () async throws -> Void = {}, released: () async throws -> Void = {}
  ) async throws -> Taken {
    let scratch = try TemporaryDirectory("scratch")
    let tree = MemoryTree()
    let session = try await driver(.usual).capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      try await session.prepare()
      try await prepared()
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      try await marked()
      try promise(await session.release() == isHeld, "release() says whether the hold was in force to the end")
      try await released()
      let result = try await session.finish()
      await session.close()
      let left = try Files.names(in: scratch.path)
      try promise(left.isEmpty, "close() leaves \(left)")
      return Taken(tree: tree, result: result)
    } catch {
      await session.close()
      throw error
    }
  }

  /// Restores in place and starts.
  func restore(_ captured: Taken) async throws {
    let driver = try driver(.usual)
    _ = try await driver.restoreBeside(captured.request())
    let digest = try await driver.digestBeside(captured.request())
    try promise(
      digest == captured.result.contentDigest,
      "digests differ: \(digest?.differences(from: captured.result.contentDigest ?? .init(scheme: "", parts: [:])) ?? [])"
    )
    try await driver.stop()
    try await driver.swapIn(captured.request())
    try await driver.start()
  }

  /// Everything in a queue, in order; it stays there.
  func browse(_ queue: String, vhost: String = "/") async throws -> [Delivery] {
    // A quorum queue elects its leader after the server has begun to serve.
    var tries = 100
    while true {
      do {
        return try await with(vhost: vhost) { connection in
          var found: [Delivery] = []
          try connection.drain(queue, isFinal: false) { delivery throws(WireError) in found.append(delivery) }
          return found
        }
      } catch let error as WireError {
        tries -= 1
        guard tries > 0 else { throw error }
        try await SystemTime().sleep(for: .milliseconds(300))
      }
    }
  }
}

/// What a whole capture gave.
struct Taken: Sendable {
  var tree: MemoryTree
  var result: CaptureResult

  func request(_ id: String = "test-1", from other: MemoryTree? = nil) -> RestoreRequest {
    RestoreRequest(id: id, source: other ?? tree, capture: result)
  }
}

func expectFailure(_ what: String, _ matches: (DriverError) -> Bool, _ body: () async throws -> Void) async throws {
  do {
    try await body()
  } catch let error as DriverError {
    try promise(matches(error), "\(what): the error is \(error)")
    return
  }
  throw ContractBroken("\(what): no error")
}
