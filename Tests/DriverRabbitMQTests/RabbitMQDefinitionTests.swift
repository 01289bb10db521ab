import Core
import DriverContract
import DriverKit
import IO
import TestSupport
import Testing
import Web

@testable import DriverRabbitMQ

/// What is defined beside messages, what time takes, and what is not promised.
@Suite("RabbitMQ: definitions, time, and what is not promised") struct RabbitMQDefinitionTests {
  private static func management(_ fixture: RabbitMQFixture) throws -> Management {
    try Management(
      host: "127.0.0.1", port: fixture.server.managementPort, user: "guest", password: Secret("guest"),
      time: SystemTime())
  }

  /// As text, each kind in one order.
  private static func definitions(_ management: Management) async throws -> [String: [String]] {
    // The plugin listens a moment after the node.
    var tries = 600
    while true {
      do {
        let found = try await management.get("definitions").object ?? [:]
        return try found.compactMapValues { value in
          try value.array?.map { String(decoding: try CanonicalJSON.encode($0), as: UTF8.self) }.sorted()
        }
      } catch {
        tries -= 1
        guard tries > 0 else { throw error }
        try await SystemTime().sleep(for: .milliseconds(100))
      }
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `all that is defined comes back, in every virtual host`() async throws {
    try await RabbitMQFixture.with(plugins: ["rabbitmq_management"]) { fixture in
      let management = try Self.management(fixture)
      let changes: [(String, JSONValue)] = [
        ("vhosts/shop%2Feast", ["description": "of the east"]),
        ("users/ada", ["password": "correct horse", "tags": "monitoring"]),
        ("permissions/shop%2Feast/ada", ["configure": "^a", "write": ".*", "read": "^b"]),
        ("permissions/shop%2Feast/guest", ["configure": ".*", "write": ".*", "read": ".*"]),
        ("topic-permissions/shop%2Feast/ada", ["exchange": "amq.topic", "write": "^x", "read": ".*"]),
        ("exchanges/shop%2Feast/paid", ["type": "headers", "durable": true, "arguments": ["alternate-exchange": "x"]]),
        ("queues/shop%2Feast/letters to%20send", ["durable": true, "arguments": ["x-queue-type": "quorum"]]),
        ("policies/shop%2Feast/long", ["pattern": "^l", "definition": ["max-length": 100], "priority": 3]),
        ("vhost-limits/shop%2Feast/max-connections", ["value": 1]),
        ("vhost-limits/shop%2Feast/max-queues", ["value": 5]),
        ("global-parameters/colour", ["value": "blue"]),
      ]
      _ = try await Self.definitions(management)
      for (path, body) in changes {
        let answer = try await management.ask(.put, path.replacing(" ", with: "%20"), body)
        try #require((200..<300).contains(answer.status), "\(path): \(answer)")
      }
      let bound = try await management.ask(
        .post, "bindings/shop%2Feast/e/paid/q/letters%20to%20send", ["routing_key": "k", "arguments": ["a": "b"]])
      try #require(bound.status == 201)
      let before = try await Self.definitions(management)
      try await fixture.with(vhost: "shop/east") { connection in
        try connection.confirm()
        try connection.publish(Array("dear".utf8), "letters to send")
        try connection.waitForConfirms(1)
      }
      let captured = try await fixture.capture()
      #expect(captured.result.contentDigest?.parts["shop%2Feast/letters%20to%20send"]?.count == 1)
      #expect(captured.tree.firstOccurrence(of: Array("correct horse".utf8)) == nil, "hashes, and no password")
      for path in ["vhosts/shop%2Feast", "users/ada", "global-parameters/colour"] {
        _ = try await management.ask(.delete, path, nil)
      }
      #expect(try await Self.definitions(management) != before)
      try await fixture.restore(captured)
      #expect(try await Self.definitions(management) == before)
      #expect(try await fixture.browse("letters to send", vhost: "shop/east").map(\.body) == [Array("dear".utf8)])
      // Her password still opens the door, and nobody of ours was left behind.
      let ada = try Management(
        host: "127.0.0.1", port: fixture.server.managementPort, user: "ada", password: Secret("correct horse"),
        time: SystemTime())
      #expect(try await ada.get("whoami")["name"]?.string == "ada")
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `what expires is captured with its time, and what died has died once`() async throws {
    try await RabbitMQFixture.with { fixture in
      try await fixture.with { connection in
        try connection.declareExchange("graves", "fanout")
        try connection.declare("dead")
        try connection.bind("dead", to: "graves")
        let grave: [(String, Field)] = [("x-dead-letter-exchange", .text("graves"))]
        try connection.declare("soon", grave + [("x-message-ttl", .number(200))])
        try connection.declare("later", grave + [("x-message-ttl", .number(60_000))])
        try connection.declare("mixed", grave)
        try connection.confirm()
        for number in 0..<4 { try connection.publish(Array("soon \(number)".utf8), "soon") }
        for number in 0..<6 { try connection.publish(Array("later \(number)".utf8), "later") }
        try connection.publish(Array("stays".utf8), "mixed")
        try connection.publish(Array("goes".utf8), "mixed", Properties(expiration: "50000"))
        try connection.waitForConfirms(12)
      }
      let published = SystemTime().monotonicNanoseconds()
      while try await fixture.browse("dead").count < 4 { try await SystemTime().sleep(for: .milliseconds(100)) }
      // The second of the mark is no second of a death.
      try await SystemTime().sleep(for: .milliseconds(1200))
      let captured = try await fixture.capture()
      let parts = try #require(captured.result.contentDigest).parts
      #expect(parts["%2F/dead"]?.count == 4 && parts["%2F/later"]?.count == 0 && parts["%2F/mixed"]?.count == 1)
      // A machine that is so busy that they expired before the proof saw them has nothing to note.
      if SystemTime().monotonicNanoseconds() - published < 45_000_000_000 {
        #expect(captured.result.notes.contains { $0.contains("%2F/later (6)") && $0.contains("%2F/mixed (1)") })
      }
      // When it is proved again they have expired, and died into another queue.
      try await SystemTime().sleep(for: .seconds(61))
      try await fixture.restore(captured)
      var dead: [Delivery] = []
      // What lies behind another message dies when that one is taken.
      for _ in 0..<600 where dead.count < 10 {
        dead = try await fixture.browse("dead")
        try await SystemTime().sleep(for: .milliseconds(100))
      }
      let texts = dead.map { String(decoding: $0.body, as: UTF8.self) }
      #expect(texts.prefix(4) == ["soon 0", "soon 1", "soon 2", "soon 3"])
      #expect(texts.filter { $0.hasPrefix("later") } == (0..<6).map { "later \($0)" })
      #expect(texts.filter { $0 == "goes" }.count <= 1 && texts.filter { $0 != "goes" }.count == 10, "\(texts)")
      #expect(try await fixture.browse("mixed").map { String(decoding: $0.body, as: UTF8.self) } == ["stays"])
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `what is not durable is gone, streams are noted, and neither stands in the way`() async throws {
    try await RabbitMQFixture.with { fixture in
      let owner = try await fixture.open()
      try await clients.run {
        try owner.declare("mine", isExclusive: true)
        try owner.declare("passing", isDurable: false)
        try owner.declare("log", [("x-queue-type", .text("stream"))])
        try owner.declare("lease", [("x-expires", .number(6_000_000))])
        try owner.declare("plain")
        try owner.confirm()
        for queue in ["mine", "passing", "log", "lease", "plain", "records"] {
          try owner.publish(Array(queue.utf8), queue)
        }
        try owner.publish(Array("fleeting".utf8), "records", Properties(isPersistent: false))
        try owner.waitForConfirms(7)
      }
      let captured = try await fixture.capture()
      await clients.run { owner.close() }
      let notes = captured.result.notes.joined(separator: "\n")
      #expect(notes.contains("streams are copied") && notes.contains("%2F/log"))
      #expect(notes.contains("deleted when nobody uses them") && notes.contains("%2F/lease"))
      #expect(captured.result.contentDigest?.parts.keys.sorted() == ["%2F/plain", "%2F/records", "definitions"])
      try await fixture.restore(captured)
      let found = try await fixture.browse("records").map { String(decoding: $0.body, as: UTF8.self) }
      #expect(found.count == 21 && found.last == "records")
      #expect(try await fixture.browse("plain").map(\.body) == [Array("plain".utf8)])
      #expect(try await fixture.browse("lease").map(\.body) == [Array("lease".utf8)])
      for queue in ["mine", "passing"] {
        await #expect(throws: WireError.self) {
          try await fixture.with { try $0.drain(queue, isFinal: false) { _ in } }
        }
      }
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `queries ask the management plugin, which takes nothing`() async throws {
    try await RabbitMQFixture.with(plugins: ["rabbitmq_management"]) { fixture in
      let secret = fixture.server.directory.file("secret")
      try Files.replace(secret, with: Array("watching".utf8))
      let management = try Self.management(fixture)
      _ = try await Self.definitions(management)
      for (path, body) in [
        ("users/watcher", ["password": "watching", "tags": "monitoring"] as JSONValue),
        ("permissions/%2F/watcher", ["configure": "", "write": "", "read": ""]),
      ] {
        let answer = try await management.ask(.put, path, body)
        try #require((200..<300).contains(answer.status))
      }
      let driver = try fixture.driver(.usual, ["user": "watcher", "password": .string("file:\(secret)")])
      // It counts every five seconds.
      var found = QueryResult(columns: [], rows: [])
      for _ in 0..<600 where found.rows != [["20"]] {
        found = try await driver.query("COUNT records", limit: QueryLimit())
        try await SystemTime().sleep(for: .milliseconds(100))
      }
      #expect(found.rows == [["20"]])
      #expect(
        try await driver.query("QUEUES", limit: QueryLimit()).rows == [["records", "/", "classic", "20"]])
      for text in ["", "PURGE records", "COUNT", "GET records"] {
        try await expectFailure("'\(text)'", { if case .queryFailed = $0 { true } else { false } }) {
          _ = try await driver.query(text, limit: QueryLimit())
        }
      }
      try await expectFailure("an unknown queue", { if case .queryFailed = $0 { true } else { false } }) {
        _ = try await driver.query("COUNT nothing", limit: QueryLimit())
      }
      let wrong = try fixture.driver(
        .usual, ["user": "watcher", "password": .string("file:\(fixture.server.configFile)")])
      try await expectFailure("a wrong password", { if case .authenticationFailed = $0 { true } else { false } }) {
        _ = try await wrong.query("QUEUES", limit: QueryLimit())
      }
      #expect(try await fixture.browse("records").allSatisfy { !$0.isRedelivered })
    }
  }
}
