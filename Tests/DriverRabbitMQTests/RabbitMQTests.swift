import Core
import DriverContract
import DriverKit
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverRabbitMQ

/// What is RabbitMQ's own: kinds of queues, order, properties, what is on its way, what time takes, what is defined.
@Suite("RabbitMQ") struct RabbitMQTests {
  /// Queues that keep what was confirmed.
  static let kinds: [(queue: String, arguments: [(String, Field)])] = [
    ("classic", []), ("quorum", [("x-queue-type", .text("quorum"))]), ("lazy", [("x-queue-mode", .text("lazy"))]),
  ]

  /// The number that a message begins with.
  private static func number(_ delivery: Delivery) -> Int {
    Int(String(decoding: delivery.body.prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self)) ?? -1
  }

  /// A number, and so much that only this message has.
  private static func body(_ number: Int, _ size: Int) -> [UInt8] {
    Array("\(number) ".utf8) + SeededRandomness(seed: UInt64(number)).bytes(size)
  }

  // MARK: What a capture holds

  @Test(.timeLimit(.minutes(60)))
  func `every confirmed message comes back in its place, small and large, in every kind of queue`() async throws {
    try await RabbitMQFixture.with { fixture in
      // Small ones lie in a queue's index, large ones in the store of messages; more than one file of each.
      let sizes = (0..<2500).map { $0 % 50 == 7 ? 100_000 : 100 + $0 % 60 }
      try await fixture.with { connection in
        try connection.confirm()
        for (queue, arguments) in Self.kinds { try connection.declare(queue, arguments) }
        for (number, size) in sizes.enumerated() {
          for (queue, _) in Self.kinds { try connection.publish(Self.body(number, size), queue) }
        }
        try connection.waitForConfirms(sizes.count * Self.kinds.count)
      }
      let captured = try await fixture.capture()
      #expect(captured.result.contentDigest?.parts["%2F/quorum"]?.count == 2500)
      // What came after the cut, and what was taken after it, is as if it had not been.
      try await fixture.with { connection in
        try connection.confirm()
        for (queue, _) in Self.kinds {
          try connection.publish(Self.body(9999, 10), queue)
        }
        try connection.waitForConfirms(3)
        try connection.drain("lazy", isFinal: true) { _ in }
      }
      try await fixture.restore(captured)
      for (queue, _) in Self.kinds {
        let found = try await fixture.browse(queue)
        #expect(found.map(Self.number) == Array(0..<2500), "\(queue): every message, in order")
        #expect(
          found.enumerated().allSatisfy { $0.element.body == Self.body($0.offset, sizes[$0.offset]) },
          "\(queue): as it was published")
      }
    }
  }

  @Test(.timeLimit(.minutes(60)), arguments: ["process", "none"])
  func `publishers that go on lose nothing that was confirmed, and nothing comes from behind the cut`(
    _ hold: String
  ) async throws {
    try await RabbitMQFixture.with(options: ["hold": .string(hold)]) { fixture in
      try await fixture.with { connection in
        for (queue, arguments) in Self.kinds { try connection.declare(queue, arguments) }
      }
      let progress = Self.kinds.map { _ in Progress() }
      let captured = try await withThrowingTaskGroup(of: Void.self) { group in
        for (index, kind) in Self.kinds.enumerated() {
          group.addTask {
            try await fixture.with { try Self.publish(on: $0, to: kind.queue, progress[index]) }
          }
        }
        let result: Result<(Taken, [Int], [Int]), any Error>
        do {
          result = .success(try await Self.cut(fixture, progress))
        } catch { result = .failure(error) }
        for one in progress { one.stop() }
        try await group.waitForAll()
        return try result.get()
      }
      try await fixture.restore(captured.0)
      for (index, kind) in Self.kinds.enumerated() {
        let numbers = try await fixture.browse(kind.queue).map(Self.number)
        // What nobody was told of may be missing, large messages sooner than small ones; in order it is in any case.
        let confirmed = captured.1[index]
        #expect(
          numbers.prefix(confirmed) == Array(1...confirmed)[...], "\(kind.queue): what was confirmed before the cut")
        #expect(zip(numbers, numbers.dropFirst()).allSatisfy { $0 < $1 }, "\(kind.queue): in order")
        #expect((numbers.last ?? 0) < captured.2[index], "\(kind.queue): nothing from behind it")
      }
    }
  }

  private final class Progress: Sendable {
    private let state = Mutex((sent: 0, confirmed: 0, isStopped: false))
    func sent(_ number: Int) { state.withLock { $0.sent = number } }
    func confirmed(_ number: Int) { state.withLock { $0.confirmed = number } }
    func stop() { state.withLock { $0.isStopped = true } }
    var now: (sent: Int, confirmed: Int, isStopped: Bool) { state.withLock { $0 } }
  }

  /// Ten at a time, until it is told to stop.
  private static func publish(on connection: Connection, to queue: String, _ progress: Progress) throws {
    try connection.confirm()
    var (number, confirms) = (0, Confirms())
    while !progress.now.isStopped {
      for _ in 0..<10 {
        number += 1
        progress.sent(number)
        try connection.publish(body(number, number % 10 == 3 ? 20_000 : 80), queue)
      }
      try connection.waitForConfirms(number, &confirms)
      progress.confirmed(number)
    }
  }

  /// - Returns: Also what was confirmed before the cut, and the first message of each that was sent behind it.
  private static func cut(
    _ fixture: RabbitMQFixture, _ progress: [Progress]
  ) async throws -> (Taken, [Int], [Int]) {
    func wait(_ what: (Progress) -> Bool) async throws {
      while !progress.allSatisfy(what) { try await SystemTime().sleep(for: .milliseconds(20)) }
    }
    try await wait { $0.now.confirmed >= 300 }
    let before = Mutex<[Int]>([])
    let after = Mutex<[Int]>([])
    let captured = try await fixture.capture(
      prepared: {
        // There is something to bring up to date.
        let begun = progress.map(\.now.confirmed)
        try await wait { one in one.now.confirmed > (begun.min() ?? 0) + 200 }
        before.withLock { $0 = progress.map(\.now.confirmed) }
      },
      marked: {
        after.withLock { $0 = progress.map { $0.now.sent + 1 } }
        if !fixture.isHeld { return }
        let standing = progress.map(\.now.confirmed)
        try await SystemTime().sleep(for: .milliseconds(300))
        try promise(progress.map(\.now.confirmed) == standing, "nothing is confirmed while it stands still")
      },
      released: {
        let begun = progress.map(\.now.confirmed)
        try await wait { one in one.now.confirmed > (begun.max() ?? 0) + 100 }
      })
    return (captured, before.withLock { $0 }, after.withLock { $0 })
  }

  @Test(.timeLimit(.minutes(60)))
  func `another node's directory is not captured, and a capture of one node is not restored as another`() async throws {
    try await RabbitMQFixture.with { fixture in
      let captured = try await fixture.capture()
      let other = "\(fixture.server.mnesia)/rabbit@other"
      let driver = try fixture.driver(.usual, ["dataDirectory": .string(other)])
      #expect(try await driver.precheck(captured.request()).map(\.report.code).contains("DRIVER-101"))
      try await expectFailure("another name", { if case .badOption = $0 { true } else { false } }) {
        _ = try await driver.restoreBeside(captured.request())
      }
      try await clients.run {
        try Files.createDirectory(other)
        try Files.replace(
          "\(other)/cluster_nodes.config", with: Array("{[rabbit@other],[rabbit@other]}.".utf8))
      }
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await expectFailure("another's directory", { if case .unsupported = $0 { true } else { false } }) {
        try await session.prepare()
      }
      await session.close()
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `the server's own script starts it on what was captured`() async throws {
    try await RabbitMQFixture.with { fixture in
      let before = try await fixture.browse(RabbitMQFixture.queue)
      let captured = try await fixture.capture()
      await clients.run { fixture.server.stop() }
      try await fixture.destroyLive()
      let tree = fixture.server.directory.file("tree")
      try await captured.tree.materialise(TreePath(), at: tree, first: []) { _ in }
      try await CommandRun([
        "bash", "-euc",
        "mv '\(tree)'/\(RabbitMQServer.node)* '\(fixture.server.mnesia)'; chown -R rabbitmq: '\(fixture.server.mnesia)'",
      ]).succeeded()
      try await clients.run { try fixture.server.start() }
      #expect(try await fixture.browse(RabbitMQFixture.queue).map(\.body) == before.map(\.body))
    }
  }

  @Test(.timeLimit(.minutes(60)))
  func `properties, headers and priorities are kept, and what a consumer has not acknowledged is in its place`()
    async throws
  {
    try await RabbitMQFixture.with { fixture in
      try await fixture.with { connection in
        try connection.declare("ranked", [("x-max-priority", .number(5))])
        for (queue, arguments) in Self.kinds { try connection.declare(queue, arguments) }
        try connection.confirm()
        for number in 0..<60 {
          let properties = Properties(
            priority: UInt8(number % 6), messageID: "message \(number)",
            headers: [
              ("trace", .text("t-\(number)")), ("depth", .number(Int64(number))), ("isFirst", .flag(number == 0)),
              ("route", .table([("hops", .list([.text("a"), .number(2)]))])),
            ])
          for queue in ["ranked", "classic", "quorum"] {
            try connection.publish(Self.body(number, 50), queue, properties)
          }
        }
        try connection.waitForConfirms(180)
      }
      let ranked = try await fixture.browse("ranked")
      let plain = try await fixture.browse("classic")
      #expect(ranked.map(Self.number).prefix(2) == [5, 11] && plain.map(Self.number) == Array(0..<60))
      // A consumer that holds seven of each, and has acknowledged the third.
      let consumer = try await fixture.open()
      try await clients.run {
        for queue in ["classic", "quorum"] {
          for number in 0..<7 {
            let delivery = try consumer.one(of: queue)
            #expect(Self.number(delivery) == number)
            if number == 2 { try consumer.acknowledge(delivery.tag) }
          }
        }
      }
      let taken = try await fixture.capture()
      await clients.run { consumer.close() }
      try await fixture.restore(taken)
      let left = [0, 1] + Array(3..<60)
      for queue in ["classic", "quorum"] {
        // What was acknowledged a moment ago may come again, as after a crash; nothing else does, and nothing is missing.
        let found = try await fixture.browse(queue).filter { Self.number($0) != 2 }
        // A quorum queue gives back what a consumer had before all else, in an order of its own.
        let ordered = queue == "quorum" ? found.sorted { Self.number($0) < Self.number($1) } : found
        #expect(ordered.map(Self.number) == left, "\(queue): in their places")
        #expect(ordered.map(\.properties) == left.map { plain[$0].properties }, "\(queue): with everything they had")
      }
      #expect(try await fixture.browse("ranked").map(\.properties) == ranked.map(\.properties))
    }
  }
}

extension Connection {
  /// Takes one message and keeps it.
  fileprivate func one(of queue: String) throws -> Delivery {
    var found: Delivery?
    try drain(queue, limit: 1, isFinal: false) { delivery throws(WireError) in found = delivery }
    return try #require(found)
  }
}
