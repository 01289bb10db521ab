import Core
import DriverContract
import DriverKit
import Glibc
import IO
import TestSupport
import Testing

@testable import DriverRabbitMQ

/// Parts of the driver by themselves.
@Suite("Parts of the RabbitMQ driver") struct RabbitMQPartTests {
  private static func table(_ entries: [[UInt8]]) -> [UInt8] {
    let table = entries.flatMap(\.self)
    return [0, 10, 0, 10, 0, 9] + size(table.count) + table + size(5) + Array("PLAIN".utf8)
  }

  private static func size(_ count: Int) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: count >> (24 - 8 * $0)) }
  }

  private static func text(_ key: String, _ value: String) -> [UInt8] {
    [UInt8(key.utf8.count)] + Array(key.utf8) + [UInt8(ascii: "S")] + size(value.utf8.count) + Array(value.utf8)
  }

  @Test func `a greeting says product and version, among other things`() throws {
    let others: [[UInt8]] = [
      [4] + Array("capaF".utf8) + Self.size(3) + [1, 2, 3], [1] + Array("at".utf8) + [1], [1] + Array("bV".utf8),
      [1] + Array("cl".utf8) + [0, 0, 0, 0, 0, 0, 0, 1],
    ]
    let greeting = try Greeting(
      Self.table(others + [Self.text("product", "RabbitMQ"), Self.text("version", "3.10.8")]))
    #expect(greeting.product == "RabbitMQ" && greeting.version == "3.10.8")
  }

  @Test func `what no server says is refused wherever it is cut`() throws {
    let whole = Self.table([Self.text("product", "RabbitMQ"), Self.text("version", "3.10.8")])
    for count in 0..<(whole.count - 9) {
      #expect(throws: WireError.self, "\(count) bytes") { try Greeting(Array(whole[..<count])) }
    }
    let randomness = SeededRandomness(seed: 36)
    for _ in 0..<20_000 {
      var bytes = whole
      bytes[Int(randomness.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: randomness.next())
      // It ends, and never traps.
      _ = try? Greeting(bytes)
    }
    #expect(throws: WireError.self) { try Greeting(Self.table([[1, 97, UInt8(ascii: "?")]])) }
    #expect(throws: WireError.self) { try Greeting(Self.table([[255, 97]])) }
  }

  @Test(
    .timeLimit(.minutes(60)),
    arguments: [
      "HTTP/1.1 400 Bad Request\r\n\r\n", "AMQP\0\0\u{9}\u{1}", "\u{1}\0\0\u{7f}\u{7f}\u{7f}\u{7f}", "",
    ])
  func `another server is not taken for RabbitMQ`(_ greeting: String) async throws {
    let listener = try Listener()
    async let served: Void = clients.run { listener.serve(Array(greeting.utf8)) }
    let directory = try TemporaryDirectory("node")
    let driver = try RabbitMQDriverFactory.make(
      StoreConfiguration(
        name: "orders",
        options: [
          "port": .integer(Int64(listener.port)), "dataDirectory": .string(directory.file("rabbit@here")),
          "timeout": "2s",
        ]), in: .live)
    await #expect(throws: DriverError.self) { _ = try await driver.traits() }
    listener.close()
    await served
  }

  @Test func `a node of a cluster is refused`() throws {
    let alone = try NodeFiles(Array("{[rabbit@localhost],[rabbit@localhost]}.\n".utf8), of: "x")
    #expect(alone.members == ["rabbit@localhost"])
    #expect(throws: Never.self) { try alone.requireAlone() }
    let several = try NodeFiles(Array("{['rabbit@web-1',\n  rabbit@b],[rabbit@b]}.\n".utf8), of: "x")
    #expect(several.members == ["rabbit@web-1", "rabbit@b"])
    #expect(throws: DriverError.self) { try several.requireAlone() }
    for text in ["", "{[],[]}.", "rabbit@a", "{rabbit@a}"] {
      #expect(throws: DriverError.self, "'\(text)'") { try NodeFiles(Array(text.utf8), of: "x") }
    }
  }

  @Test func `options that can't be are refused`() throws {
    let good: [String: JSONValue] = ["dataDirectory": "/var/lib/rabbitmq/mnesia/rabbit@host/"]
    let made = try RabbitMQConfiguration(StoreConfiguration(name: "q", options: good))
    #expect(made.node == "rabbit@host" && made.hold == .process)
    let bad: [[String: JSONValue]] = [
      [:], ["dataDirectory": "rabbit@host"], ["dataDirectory": "/var/lib/rabbitmq"],
      ["dataDirectory": "/x/rabbit@h o"], ["port": 0], ["managementPort": 70_000], ["hold": "yes"], ["user": "a"],
      ["password": "file:/x"], ["user": "a:b", "password": "file:/x"], ["user": "a", "password": "secret"],
      ["configFile": "x"], ["timeout": "soon"], ["host": "/x"], ["binary": "rabbitmq-server"],
    ]
    for options in bad {
      let all = options["dataDirectory"] == nil && !options.isEmpty ? good.merging(options) { $1 } : options
      #expect(throws: DriverError.self, "\(options)") {
        try RabbitMQConfiguration(StoreConfiguration(name: "q", options: all))
      }
    }
  }

  @Test func `versions of one series, and none before the captured one`() throws {
    func reads(_ installed: String, _ captured: String) throws -> Bool {
      try #require(EngineVersion(installed)).reads(try #require(EngineVersion(captured)))
    }
    #expect(try reads("3.10.8", "3.10.8") && reads("3.10.12", "3.10.8"))
    #expect(try !reads("3.10.7", "3.10.8") && !reads("3.11.0", "3.10.8") && !reads("4.10.8", "3.10.8"))
  }

  @Test func `a copy brought up to date is the original, also of files that only grow`() throws {
    let place = try TemporaryDirectory("copy")
    let (from, to) = (place.file("from"), place.file("to"))
    try Files.createDirectory(from)
    try Files.createDirectory("\(from)/deep")
    func put(_ name: String, _ text: String) throws { try write("\(from)/\(name)", text, appending: false) }
    try put("deep/1.wal", "one ")
    try put("same", "same")
    try put("goes", "goes")
    try put("turned.wal", "abc")
    var copy = DirectoryCopy(from: from, to: to) { $0.last?.bytes.suffix(4).elementsEqual(".wal".utf8) ?? false }
    try copy.bringUpToDate(isStill: false)
    try write("\(from)/deep/1.wal", "two", appending: true)
    // As long as before, and another: not what a file does that only grows.
    try put("turned.wal", "xyz")
    try Files.removeTree("\(from)/goes")
    try put("new", "new")
    try copy.bringUpToDate(isStill: true)
    // What was added to the first, and all of the others, whose times are too young to be believed.
    #expect(copy.lastBytes == 3 + 3 + 4 + 3)
    for (name, text) in [("deep/1.wal", "one two"), ("turned.wal", "xyz"), ("same", "same"), ("new", "new")] {
      #expect(try String(decoding: Files.read("\(to)/\(name)"), as: UTF8.self) == text, "\(name)")
    }
    #expect(!Files.exists("\(to)/goes"))
  }

  private func write(_ path: String, _ text: String, appending: Bool) throws {
    let file = try File(path, O_WRONLY | O_CREAT | (appending ? O_APPEND : O_TRUNC))
    try Array(text.utf8).withUnsafeBytes { try file.write($0) }
  }
}

/// Says one thing to whoever comes first.
private final class Listener: Sendable {
  private let descriptor: Int32
  let port: UInt16

  init() throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let own = descriptor
    let bound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(own, raw, length) == 0 && listen(own, 1) == 0 && getsockname(own, raw, &length) == 0
      }
    }
    guard bound else { throw SystemFailure("bind") }
    port = UInt16(bigEndian: address.sin_port)
  }

  func serve(_ bytes: [UInt8]) {
    let peer = accept(descriptor, nil, nil)
    guard peer >= 0 else { return }
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        send(peer, $0.baseAddress! + done, $0.count - done, Int32(MSG_NOSIGNAL))
      }
      if count <= 0 { break }
      done += count
    }
    var buffer = [UInt8](repeating: 0, count: 4096)
    while recv(peer, &buffer, buffer.count, 0) > 0 {}
    Glibc.close(peer)
  }

  func close() {
    shutdown(descriptor, Int32(SHUT_RDWR))
    Glibc.close(descriptor)
  }
}
