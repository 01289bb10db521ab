import Core
import DriverContract
import DriverKit
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverNATS

#if canImport(Glibc)
  import Glibc
#endif

/// What is NATS' own: consumers, retention, limits, rights, and what goes wrong in the middle.
@Suite("NATS JetStream") struct NATSTests {
  // MARK: What a capture holds

  @Test(.timeLimit(.minutes(10)), arguments: ["none", "process"])
  func `a consumer goes on behind what it had acknowledged at the mark`(_ hold: String) async throws {
    try await NATSFixture.with(options: ["hold": .string(hold)]) { fixture in
      try await fixture.consumer("worker", acknowledging: 5)
      let captured = try await fixture.capture(marked: {
        guard hold == "none" else { return }
        try await fixture.take("worker", 4)
      })
      if hold == "process" { try await fixture.take("worker", 4) }
      try await fixture.restore(captured)
      #expect(try await fixture.take("worker", 1) == ["record.6"])
      let info = try await fixture.with { try $0.consumers(of: NATSFixture.stream) }
      #expect(info.map(\.name) == ["worker"])
      #expect(info.first?.config["ack_wait"] == 30_000_000_000, "its settings came along")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `every stream is cut at one moment`() async throws {
    try await NATSFixture.with { fixture in
      try await fixture.api("STREAM.CREATE.EFFECTS", ["name": "EFFECTS", "subjects": ["effect.>"]])
      // Each record is followed by its effect on another stream, once it has been acknowledged.
      let (captured, begun, marked) = try await withWriters(to: Chained(fixture: fixture), count: 4) { log in
        let span = Mutex<(Int64, Int64)>((0, 0))
        let captured = try await fixture.capture(
          prepared: { span.withLock { $0.0 = log.now() } },
          marked: {
            span.withLock { $0.1 = log.now() }
            try await log.waitForWrites(40, "after the mark")
          })
        let (begun, marked) = span.withLock { $0 }
        return (captured, (log, begun), marked)
      }
      try await fixture.restore(captured)
      let records = try await fixture.records()
      let driver = try fixture.driver()
      let effects = Set(
        try await driver.query("MESSAGES EFFECTS", limit: QueryLimit()).rows.compactMap {
          $0[1].flatMap { Int64($0.dropFirst(7)) }
        })
      #expect(!effects.isEmpty && effects.isSubset(of: records), "no effect without its cause")
      for write in begun.0.writes {
        if let acknowledged = write.acknowledged, acknowledged < begun.1 {
          #expect(effects.contains(write.number), "\(write.number) was whole before the mark")
        }
        if write.began > marked { #expect(!records.contains(write.number), "\(write.number) began after the mark") }
      }
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `large messages with headers come back`() async throws {
    try await NATSFixture.with { fixture in
      let payload = SeededRandomness(seed: 7).bytes(900_000)
      for number in Int64(100)...112 { try await fixture.request("record.\(number)", payload) }
      let headers = Array("NATS/1.0\r\nKind: order\r\nKind: late\r\n\r\n".utf8)
      try await fixture.with { server in
        try server.client.publish("record.200", reply: nil, Array("with headers".utf8), headers: headers)
        try server.call("INFO")
      }
      let captured = try await fixture.capture()
      #expect(captured.result.sizeBytes > 11_700_000)
      #expect(captured.result.contentDigest?.parts[NATSFixture.stream]?.count == 34)
      try await fixture.restore(captured)
      let found = try await fixture.api("STREAM.MSG.GET.RECORDS", ["last_by_subj": "record.112"])
      #expect(found["message"]?["data"]?.string == Base64.encode(payload))
      let last = try await fixture.api("STREAM.MSG.GET.RECORDS", ["last_by_subj": "record.200"])
      #expect(last["message"]?["hdrs"]?.string == Base64.encode(headers))
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a key-value bucket comes back with its history`() async throws {
    try await NATSFixture.with { fixture in
      try await fixture.api(
        "STREAM.CREATE.KV_settings",
        [
          "name": "KV_settings", "subjects": ["$KV.settings.>"], "max_msgs_per_subject": 3, "discard": "new",
          "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "max_bytes": 1_000_000,
        ])
      for number in 1...5 { try await fixture.request("$KV.settings.colour", Array("value \(number)".utf8)) }
      try await fixture.request("$KV.settings.shape", Array("round".utf8))
      let captured = try await fixture.capture()
      try await fixture.request("$KV.settings.colour", Array("late".utf8))
      try await fixture.restore(captured)
      let rows = try await fixture.driver().query("MESSAGES KV_settings", limit: QueryLimit()).rows
      #expect(rows.map { $0[3] } == ["value 3", "value 4", "value 5", "round"])
      #expect(rows.map { $0[0] } == ["3", "4", "5", "6"], "under their own sequences")
      let config = try await fixture.api("STREAM.INFO.KV_settings")["config"]
      #expect(config?["deny_delete"] == true && config?["max_msgs_per_subject"] == 3)
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: ["none", "process"])
  func `what ages is not lost by being proved`(_ hold: String) async throws {
    try await NATSFixture.with(options: ["hold": .string(hold)]) { fixture in
      // Where everything takes long, they would be gone before they are captured: then they may grow older.
      var age: Int64 = 12
      var captured: Taken
      while true {
        try await fixture.api(
          "STREAM.CREATE.SHORT",
          [
            "name": "SHORT", "subjects": ["short.>"], "max_age": .integer(age * 1_000_000_000),
            "duplicate_window": 1_000_000_000,
          ])
        let start = SystemTime().monotonicNanoseconds()
        for number in 1...9 { try await fixture.request("short.\(number)", [1, 2, 3]) }
        captured = try await fixture.capture()
        if SystemTime().monotonicNanoseconds() - start < age * 1_000_000_000 || age > 100 { break }
        try await fixture.api("STREAM.DELETE.SHORT")
        age *= 4
      }
      #expect(captured.result.contentDigest?.parts["SHORT"]?.count == 9)
      try await SystemTime().sleep(for: .seconds(age + 1))
      let driver = try fixture.driver()
      _ = try await driver.restoreBeside(captured.request())
      #expect(try await driver.digestBeside(captured.request()) == captured.result.contentDigest)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `what a work queue gave away after the mark is told`() async throws {
    try await NATSFixture.with { fixture in
      try await fixture.api(
        "STREAM.CREATE.WORK", ["name": "WORK", "subjects": ["work.>"], "retention": "workqueue"])
      for number in 1...10 { try await fixture.request("work.\(number)", Array("do".utf8)) }
      try await fixture.consumer("worker", of: "WORK", acknowledging: 2)
      let captured = try await fixture.capture(marked: { try await fixture.take("worker", 3, of: "WORK") })
      #expect(captured.result.notes.contains { $0.contains("stream WORK: 3 messages") })
      try await fixture.restore(captured)
      #expect(try await fixture.driver().query("COUNT WORK", limit: QueryLimit()).rows == [["5"]])
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a work queue that stood still is whole`() async throws {
    try await NATSFixture.with(options: ["hold": "process"]) { fixture in
      try await fixture.api(
        "STREAM.CREATE.WORK", ["name": "WORK", "subjects": ["work.>"], "retention": "workqueue"])
      for number in 1...10 { try await fixture.request("work.\(number)", Array("do".utf8)) }
      try await fixture.consumer("worker", of: "WORK", acknowledging: 2)
      let captured = try await fixture.capture(released: { try await fixture.take("worker", 3, of: "WORK") })
      #expect(captured.result.notes.isEmpty)
      try await fixture.restore(captured)
      // As after a crash: what was acknowledged just before may be there again; what was not is there.
      let rows = try await fixture.driver().query("MESSAGES WORK", limit: QueryLimit()).rows
      #expect(Set(rows.map { $0[1] }).isSuperset(of: (3...10).map { "work.\($0)" }), "\(rows)")
      let next = try await fixture.take("worker", 1, of: "WORK")
      #expect(["work.1", "work.2", "work.3"].contains(next[0]), "nothing that was not acknowledged is left out")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `streams in memory are named`() async throws {
    try await NATSFixture.with { fixture in
      try await fixture.api("STREAM.CREATE.MEM", ["name": "MEM", "subjects": ["mem.>"], "storage": "memory"])
      let traits = try await fixture.driver().traits()
      #expect(traits.notes.contains { $0.contains("MEM") })
      let captured = try await fixture.capture()
      #expect(captured.result.contentDigest?.parts["MEM"] == nil)
    }
  }

  // MARK: What goes wrong

  @Test(.timeLimit(.minutes(10)))
  func `a stream that vanished after the mark is a gap`() async throws {
    for again in [false, true] {
      try await NATSFixture.with { fixture in
        try await expectFailure("a stream that was deleted", { if case .logGap = $0 { true } else { false } }) {
          _ = try await fixture.capture(marked: {
            try await fixture.api("STREAM.DELETE.\(NATSFixture.stream)")
            if again {
              try await fixture.api("STREAM.CREATE.RECORDS", ["name": "RECORDS", "subjects": ["record.>"]])
            }
          })
        }
      }
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: ["none", "process"])
  func `a server killed in the middle ends the capture`(_ hold: String) async throws {
    try await NATSFixture.with(options: ["hold": .string(hold)]) { fixture in
      let server = fixture.server
      let kill: @Sendable () async throws -> Void = { await clients.run { server.stop(SIGKILL) } }
      if hold == "none" {
        try await expectFailure(
          "a killed server", { if case .unreachable = $0 { true } else if case .logGap = $0 { true } else { false } }
        ) { _ = try await fixture.capture(marked: kill) }
      } else {
        // Its files were copied while it stood still: nothing more is needed of it.
        _ = try await fixture.capture(released: kill)
      }
      try await clients.run { try server.start() }
      _ = try await fixture.capture()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a wrong password is told as that`() async throws {
    let directory = try TemporaryDirectory("secret")
    try Files.replace(directory.file("right"), with: Array("s3cret\n".utf8))
    try Files.replace(directory.file("wrong"), with: Array("guess\n".utf8))
    let lines = ["authorization { users: [ {user: \"salvor\", password: \"s3cret\"} ] }"]
    func options(_ file: String) -> [String: JSONValue] {
      ["user": "salvor", "password": .string("file:\(directory.file(file))")]
    }
    let server = try await clients.run { try NATSServer(lines) }
    let fixture = NATSFixture(server: server, options: options("right"))
    do {
      let secret = Secret("s3cret")
      _ = try await fixture.with(.password(user: "salvor", secret)) {
        try $0.call("STREAM.CREATE.RECORDS", ["name": "RECORDS", "subjects": ["record.>"]])
      }
      let wrong = try fixture.driver(options("wrong"))
      try await expectFailure("a wrong password", { if case .authenticationFailed = $0 { true } else { false } }) {
        _ = try await wrong.traits()
      }
      try await expectFailure("no password", { if case .authenticationFailed = $0 { true } else { false } }) {
        _ = try await NATSFixture(server: server).driver().traits()
      }
      _ = try await fixture.capture()
    } catch {
      await fixture.shutDown()
      throw error
    }
    await fixture.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `the rights of the page are enough, and fewer are not`() async throws {
    let directory = try TemporaryDirectory("secret")
    try Files.replace(directory.file("password"), with: Array("s3cret\n".utf8))
    let less = Rights.capture.replacing("\"$JS.API.STREAM.LIST\", ", with: "")
    let lines = [
      "authorization { users: [",
      " {user: \"all\", password: \"all\"}",
      " {user: \"salvor\", password: \"s3cret\", permissions: { \(Rights.capture) }}",
      " {user: \"less\", password: \"s3cret\", permissions: { \(less) }}", "] }",
    ]
    let server = try await clients.run { try NATSServer(lines) }
    func fixture(_ user: String) -> NATSFixture {
      NATSFixture(
        server: server, options: ["user": .string(user), "password": .string("file:\(directory.file("password"))")])
    }
    do {
      try await fixture("salvor").with(.password(user: "all", Secret("all"))) { server in
        try server.call("STREAM.CREATE.RECORDS", ["name": "RECORDS", "subjects": ["record.>"]])
        for number in 1...50 {
          _ = try server.client.request("record.\(number)", SeededRandomness(seed: 1).bytes(10_000))
        }
        try server.call(
          "CONSUMER.DURABLE.CREATE.RECORDS.w",
          ["stream_name": "RECORDS", "config": ["durable_name": "w", "ack_policy": "explicit"]])
      }
      let captured = try await fixture("salvor").capture()
      #expect(captured.result.contentDigest?.parts["RECORDS"]?.count == 50)
      try await expectFailure("a right is missing", { if case .permissionDenied = $0 { true } else { false } }) {
        _ = try await fixture("less").capture()
      }
    } catch {
      await fixture("all").shutDown()
      throw error
    }
    await fixture("all").shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `a hold that takes too long lets go and is no part of a cut`() async throws {
    try await NATSFixture.with(options: ["hold": "process"]) { fixture in
      let driver = try fixture.driver()
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await session.prepare()
      try await session.hold(limit: .milliseconds(200))
      try await SystemTime().sleep(for: .milliseconds(600))
      try await expectFailure("a mark without a hold", { if case .holdImpossible = $0 { true } else { false } }) {
        _ = try await session.mark()
      }
      #expect(await session.release() == false)
      await session.close()
      try await fixture.write(500, payload: "goes on")
    }
  }

  // MARK: Damage

  @Test(.timeLimit(.minutes(10)))
  func `settings that were changed are found`() async throws {
    try await NATSFixture.with { fixture in
      try await fixture.consumer("worker", acknowledging: 3)
      let captured = try await fixture.capture()
      let driver = try fixture.driver()
      let stream: TreePath = "jetstream/$G/streams/RECORDS"
      for name in ["meta.inf", "meta.sum", "obs/worker/meta.inf", "obs/worker/meta.sum", "obs/worker/o.dat"] {
        let path = stream.appending(TreePath(name))
        let content = try #require(captured.tree.entries[path]?.content, "\(name)")
        // In `o.dat` the floor comes first; what was delivered and is on its way is another matter.
        let offset = name.hasSuffix("o.dat") ? 3 : content.count / 2
        let damaged = try captured.tree.damaged(at: path, offset: offset)
        try await expectFailure(name, { if case .corrupt = $0 { true } else { false } }) {
          _ = try await driver.restoreBeside(captured.request("damage", from: damaged))
        }
      }
      try await driver.discardKept(captured.request("damage"))
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `where nobody is held it is still cut at one moment, its own`() async throws {
    try await NATSFixture.with(options: ["hold": "process"]) { fixture in
      let scratch = try TemporaryDirectory("scratch")
      let tree = MemoryTree()
      let session = try await fixture.driver().capture(CaptureContext(sink: tree, scratch: scratch.path))
      let result: CaptureResult
      let marked: Set<Int64>
      do {
        try await session.prepare()
        for number in Int64(21)...30 { try await fixture.write(number, payload: "before the mark") }
        _ = try await session.mark()
        marked = try await fixture.records()
        for number in Int64(31)...40 { try await fixture.write(number, payload: "after it, and nobody waited") }
        result = try await session.finish()
        await session.close()
      } catch {
        await session.close()
        throw error
      }
      try await fixture.restore(Taken(tree: tree, result: result))
      #expect(try await fixture.records() == marked)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a machine that is busy for longer than the server may stand still only delays the mark`() async throws {
    try await NATSFixture.with(options: ["hold": "process"]) { fixture in
      let scratch = try TemporaryDirectory("scratch")
      var environment = DriverEnvironment.live
      environment.pool = BlockingPool(threads: 1)
      let session = try await fixture.driver(.usual, [:], in: environment)
        .capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await session.prepare()
      // The copy waits for this, the hold doesn't.
      let pool = environment.pool
      async let busy: Void = pool.run { _ = usleep(2_500_000) }
      await #expect(throws: Never.self) { _ = try await session.mark() }
      await busy
      await session.close()
      try await fixture.write(500, payload: "goes on")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `payloads are those of every message that is left, in order`() async throws {
    try await NATSFixture.with { fixture in
      for number in Int64(21)...700 { try await fixture.write(number, payload: "payload \(number)") }
      for sequence in [Int64(30), 300, 301, 700] {
        try await fixture.api("STREAM.MSG.DELETE.\(NATSFixture.stream)", ["seq": .integer(sequence)])
      }
      let driver = try fixture.driver()
      let all = try await driver.query("PAYLOADS \(NATSFixture.stream)", limit: QueryLimit())
      let expected = (Int64(21)...700).filter { ![30, 300, 301, 700].contains($0) }.map { "payload \($0)" }
      #expect(all.columns == ["payload"] && all.rows.dropFirst(20).map { $0[0] } == expected)
      let some = try await driver.query("PAYLOADS \(NATSFixture.stream) record.55", limit: QueryLimit())
      #expect(some.rows == [["payload 55"]])
      let few = try await driver.query("PAYLOADS \(NATSFixture.stream)", limit: QueryLimit(rows: 290))
      #expect(few.rows.count == 290 && few.isTruncated)
      let messages = try await driver.query("MESSAGES \(NATSFixture.stream)", limit: QueryLimit())
      #expect(messages.rows.map { $0[3] } == all.rows.map { $0[0] })
    }
  }

  // MARK: The way out

  @Test(.timeLimit(.minutes(10)))
  func `a plain server serves what was captured`() async throws {
    try await NATSFixture.with { fixture in
      let records = try await fixture.records()
      let captured = try await fixture.capture()
      await clients.run { fixture.server.stop() }
      try await fixture.destroyLive()
      try await captured.tree.materialise(TreePath(), at: fixture.server.directory.file("tree"), first: []) { _ in }
      try Files.removeTree(fixture.server.storeDirectory)
      try Files.rename(fixture.server.directory.file("tree"), to: fixture.server.storeDirectory)
      try await clients.run { try fixture.server.start() }
      #expect(try await fixture.records() == records)
    }
  }
}
