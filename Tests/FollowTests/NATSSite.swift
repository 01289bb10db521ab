import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverNATS

/// A NATS server beside a ``LogSite`` that follows it.
final class NATSSite: @unchecked Sendable {
  // Used by one task at a time.
  let site: LogSite
  let server: NATSServer
  private var writer: WriterThread?

  private init(_ more: String) async throws {
    let server = try await BlockingPool.shared.run { try NATSServer() }
    self.server = server
    site = try await LogSite { _ in Self.store(server, more) }
    try await api("STREAM.CREATE.S", ["name": "S", "subjects": ["s.>"]])
  }

  static func store(_ server: NATSServer, _ more: String = "") -> String {
    "nats: {port: \(server.port), storeDirectory: \"\(server.storeDirectory)\", configFile: \"\(server.configFile)\"\(more)}"
  }

  static let standing = ", hold: process, log: true"

  /// Ends everything, whatever happened.
  static func with(_ more: String = standing, _ body: (NATSSite) async throws -> Void) async throws {
    let site = try await NATSSite(more)
    do { try await body(site) } catch {
      print(site.site.said)
      await site.end()
      throw error
    }
    await site.end()
  }

  private func end() async {
    site.killFollower()
    writer?.stop()
    let server = server
    await BlockingPool.shared.run { server.stop(SIGKILL) }
  }

  // MARK: Asking it

  static func connect(_ port: UInt16) throws -> JetStream {
    let socket = try Socket.connect(host: "127.0.0.1", port: port, patience: .seconds(5))
    return JetStream(
      client: try Client(
        socket, as: .none, inbox: "_INBOX.test", patience: .seconds(30)))
  }

  func with<T: Sendable>(_ body: @escaping @Sendable (JetStream) throws -> T) async throws -> T {
    let port = server.port
    return try await BlockingPool.shared.run { try body(try Self.connect(port)) }
  }

  @discardableResult
  func api(_ name: String, _ body: JSONValue? = nil) async throws -> JSONValue {
    try await with { try $0.call(name, body) }
  }

  /// - Returns: The number that the message got.
  @discardableResult
  func publish(_ subject: String, _ text: String, headers: String = "") async throws -> Int64 {
    try await with { server in
      let inbox = server.client.newInbox()
      let head = headers.isEmpty ? "" : "NATS/1.0\r\n\(headers)\r\n\r\n"
      try server.client.publish(subject, reply: inbox, Array(text.utf8), headers: Array(head.utf8))
      let answer = try JetStream.value(try server.client.next().payload)
      return try #require(answer["seq"]?.integer)
    }
  }

  /// Takes messages of `S` and acknowledges them, each with an answer that the server has it.
  func acknowledge(_ count: Int, by consumer: String) async throws {
    try await with { server in
      for _ in 0..<count {
        try server.client.publish(
          "$JS.API.CONSUMER.MSG.NEXT.S.\(consumer)", reply: server.client.newInbox(), Array("1".utf8))
        let reply = try #require(try server.client.next().reply)
        _ = try server.client.request(reply, Array("+ACK".utf8))
      }
    }
  }

  /// What every stream holds, message by message, and who is how far.
  func contents() async throws -> [String: [String]] {
    try await with { server in
      var result: [String: [String]] = [:]
      for stream in try server.streams() {
        var lines: [String] = []
        try server.scan(stream.name) { message in
          lines.append(
            "\(message.sequence) \(message.time.nanoseconds) \(message.subject) \(message.headers.count) "
              + String(decoding: message.payload, as: UTF8.self))
        }
        result[stream.name] = lines
        for consumer in try server.consumers(of: stream.name) where consumer.isDurable {
          result["\(stream.name)/\(consumer.name)"] = ["\(consumer.floorSequence)"]
        }
      }
      return result
    }
  }

  func lines(_ stream: String = "S") async throws -> [String] { try await contents()[stream] ?? [] }

  /// Waits until all that was done until now is durable.
  func settle() async throws {
    let now = Timestamp(nanoseconds: Int64(Date().timeIntervalSince1970 * 1e9))
    try await site.until("the log leads beyond \(now)") {
      guard let text = try await site.json("rpo").array?.first?["newest"]?.string, let newest = Timestamp(text) else {
        return false
      }
      return newest >= now
    }
  }

  // MARK: Work

  func startWriting() throws {
    let server = try Self.connect(server.port)
    let sent = Atomic(0)
    writer = WriterThread(everyMicroseconds: 1000) {
      let text = "\(sent.add(1, ordering: .relaxed).newValue)"
      guard let answer = try? server.client.request("s.load", Array(text.utf8)),
        let number = (try? JetStream.value(answer.payload))?["seq"]?.integer
      else { return nil }
      return WrittenRow(number: number, seconds: Date().timeIntervalSince1970)
    }
  }
  var acknowledged: [WrittenRow] { writer?.rows ?? [] }
  func stopWriting() { writer?.stop() }
  /// It ends by itself with the server.
  func endWriting() { writer?.join() }

  func killServer() async {
    let server = server
    await BlockingPool.shared.run { server.stop(SIGKILL) }
  }

  func stopServer() async {
    let server = server
    await BlockingPool.shared.run { server.stop() }
  }

  /// As when its disk is lost with it.
  func loseServer() async throws {
    await killServer()
    try Files.removeTree(server.storeDirectory)
    try Files.createDirectory(server.storeDirectory, mode: 0o755)
  }

  func startServer() async throws {
    let server = server
    try await BlockingPool.shared.run { try server.start() }
  }
}
