import Core
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverNATS

/// How often what chance has a part in is tried: `SALVOR_LOG_RUNS`.
private let runs = ProcessInfo.processInfo.environment["SALVOR_LOG_RUNS"].flatMap { Int($0) }

@Suite("Following NATS", .serialized) struct NATSFollowTests {
  @Test(.timeLimit(.minutes(10)))
  func `server and follower killed, the disk gone: two seconds are lost at most`() async throws {
    try await NATSSite.with { it in
      // With 60s here it must fail.
      try await it.site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "2s")
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      try await Task.sleep(for: .seconds(6))
      it.site.killFollower()
      let before = try await it.lines()
      try await it.loseServer()
      it.endWriting()
      let acknowledged = it.acknowledged
      try #require(acknowledged.count > 300)
      let standing = try await it.site.json("rpo").array?.first
      #expect(standing?["state"]?.string == "followed", "\(String(describing: standing))")
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      let found = try await it.lines()
      #expect(found == Array(before.prefix(found.count)), "numbers, times, subjects and content are those that were")
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { $0.number > Int64(found.count) }.map { last.seconds - $0.seconds } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found.count) of \(last.number)")
      #expect(found.count > 100)
      let next = try await it.publish("s.more", "more")
      #expect(next == Int64(found.count) + 1, "numbers go on")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a follower that is killed again and again under load misses nothing`() async throws {
    try await NATSSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      try it.startWriting()
      for _ in 1...(runs ?? 3) {
        try await Task.sleep(for: .milliseconds(Int.random(in: 200...2500)))
        it.site.killFollower()
        try await it.site.follow()
      }
      it.stopWriting()
      // The server too comes back with what it had.
      await it.killServer()
      try await it.startServer()
      try await it.publish("s.end", "end")
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      let before = try await it.lines()
      try await it.loseServer()
      try await it.site.salvor("restore", "shop", "--newest", "--yes", "-q").succeeded()
      #expect(try await it.lines() == before)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `any moment comes back as it was: messages, what was taken away, settings, streams, consumers`() async throws {
    try await NATSSite.with { it in
      try await it.publish("s.first", "before the log")
      try await it.site.salvor("backup", "-q").succeeded()
      try await it.site.follow()
      var history: [(time: Timestamp, contents: [String: [String]])] = []
      func done() async throws {
        // What is no message is known a second later.
        try await Task.sleep(for: .milliseconds(2500))
        let contents = try await it.contents()
        history.append((Timestamp(nanoseconds: Int64(Date().timeIntervalSince1970 * 1e9)), contents))
        // What went with a stream between two looks nobody knows.
        try await Task.sleep(for: .milliseconds(2000))
      }
      for n in 1...5 { try await it.publish("s.\(n)", "\(n)", headers: n == 3 ? "A: b" : "") }
      try await done()
      try await it.api(
        "STREAM.CREATE.KV_k", ["name": "KV_k", "subjects": ["$KV.k.>"], "max_msgs_per_subject": 1])
      for (key, value) in [("a", "1"), ("b", "1"), ("a", "2")] { try await it.publish("$KV.k.\(key)", value) }
      try await done()
      try await it.api("STREAM.MSG.DELETE.S", ["seq": 3])
      try await done()
      try await it.api(
        "CONSUMER.DURABLE.CREATE.S.work",
        ["stream_name": "S", "config": ["durable_name": "work", "ack_policy": "explicit"]])
      try await it.acknowledge(3, by: "work")
      try await done()
      try await it.api("STREAM.PURGE.S", ["seq": 2])
      try await done()
      try await it.api("STREAM.UPDATE.S", ["name": "S", "subjects": ["s.>", "t.>"], "max_msgs": 1000])
      for n in 1...3 { try await it.publish("t.\(n)", "\(n)") }
      try await done()
      try await it.api("STREAM.CREATE.BRIEF", ["name": "BRIEF", "subjects": ["brief.>"]])
      for n in 1...3 { try await it.publish("brief.\(n)", "\(n)") }
      try await done()
      try await it.api("STREAM.DELETE.BRIEF")
      try await done()
      try await it.api("STREAM.CREATE.BRIEF", ["name": "BRIEF", "subjects": ["brief.>"]])
      try await it.publish("brief.again", "anew")
      try await it.acknowledge(2, by: "work")
      try await done()
      let last = try await it.publish("s.last", "goes again")
      try await it.api("STREAM.MSG.DELETE.S", ["seq": .integer(last)])
      try await done()
      try await it.settle()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true, "\(timeline)")
      for (index, moment) in history.enumerated() {
        try await it.site.restore("--to", "\(moment.time)")
        #expect(try await it.contents() == moment.contents, "moment \(index)")
      }
      // To the nanosecond: with a message's own time it is there, before it it isn't.
      let line = try #require(history[0].contents["S"]?[3].split(separator: " ")[1])
      let time = Timestamp(nanoseconds: try #require(Int64(line)))
      try await it.site.restore("--to", "\(time)")
      #expect(try await it.lines() == Array((history[0].contents["S"] ?? []).prefix(4)))
      try await it.site.restore("--to", "\(time - .nanoseconds(1))")
      #expect(try await it.lines() == Array((history[0].contents["S"] ?? []).prefix(3)))
      try await it.site.restore("--newest")
      #expect(try await it.contents() == history.last?.contents)
      #expect(try await it.publish("s.more", "more") == last + 1, "no number is given twice")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a server that comes back with less leaves a gap with a name, and a new copy leads on`() async throws {
    try await NATSSite.with { it in
      try await it.publish("s.1", "1")
      await it.stopServer()
      let old = it.site.home.file("old")
      _ = try await CommandRun(["cp", "-r", it.server.storeDirectory, old], in: "/", environment: [:]).succeeded()
      try await it.startServer()
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for n in 2...6 { try await it.publish("s.\(n)", "\(n)") }
      try await it.settle()
      try await it.loseServer()
      _ = try await CommandRun(
        ["cp", "-r", "\(old)/jetstream", it.server.storeDirectory], in: "/", environment: [:]
      ).succeeded()
      try await it.startServer()
      try await it.publish("s.other", "other")
      try await it.site.until("the gap is told") { it.site.said.contains("a gap in the log") }
      let timeline = try await it.site.json("timeline", "shop-log")
      let gap = try #require(timeline["gaps"]?.array?.first, "\(timeline)")
      #expect(gap["why"]?.string?.contains(", before 6: the server lost what it had") == true, "\(gap)")
      try await it.site.salvor("backup", "-q").succeeded()
      try await it.publish("s.more", "more")
      try await it.settle()
      let before = try await it.lines()
      try await it.site.restore("--newest")
      #expect(try await it.lines() == before)
      #expect(before.count == 3)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `an account with a work queue is refused with a reason, and copied unless it is to be followed`() async throws {
    try await NATSSite.with { it in
      try await it.api("STREAM.CREATE.Q", ["name": "Q", "subjects": ["q.>"], "retention": "workqueue"])
      let ran = try await it.site.salvor("follow")
      #expect(ran.status != 0 && ran.errors.contains("DRIVER-204") && ran.errors.contains("'log: true'"), "\(ran)")
      let point = try await it.site.salvor("point", "take")
      #expect(point.status != 0 && (point.errors + point.output).contains("work queue"), "\(point)")
      try it.site.declare(NATSSite.store(it.server, ", hold: process"))
      let none = try await it.site.salvor("follow")
      #expect(none.status != 0 && !none.errors.contains("DRIVER-204"), "\(none)")
      try await it.site.salvor("backup", "-q").succeeded()
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `points of a held group only mark the streams, and each comes back whole`() async throws {
    try await NATSSite.with { it in
      let notes = it.site.home.file("notes")
      try Files.createDirectory(notes)
      try Files.replace("\(notes)/.lock", with: [])
      try Files.replace("\(notes)/effects", with: [])
      try it.site.declare(
        NATSSite.store(it.server, NATSSite.standing) + """

              - name: notes
                files: {path: "\(notes)", lockFile: .lock}
          ---
          apiVersion: salvor.dev/v1
          kind: ConsistencyGroup
          metadata: {name: pair}
          spec: {stores: [shop-log, notes], holdBudget: 5s}
          """)
      try await it.site.follow("--within", "300ms")
      try await it.site.salvor("backup", "-q").succeeded()
      let writer = try effectWriter(it.server.port, notes)
      try await it.site.until("work is done") { writer.rows.count >= 100 }
      let taken = try await it.site.salvor("point", "take", "pair", "--every", "500ms", "--count", "6", "-q")
        .succeeded()
      try await it.site.salvor("point", "take", "pair", "--wait", "60s", "-q").succeeded()
      writer.stop()
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let points = try #require(try await it.site.json("points").array)
      let marked = points.filter { $0["logged"] != nil && $0["mode"]?.string == "barrier" }
      // On a busy machine one may be refused; that is told, and none is missing without a word.
      let refused = taken.errors.split(separator: "\n").count { $0.hasPrefix("pair: warning:") }
      try #require(marked.count + refused == 7 && marked.count >= 4, "\(taken.errors) \(points)")
      var sizes: [Int] = []
      for point in [marked[0], marked[marked.count / 2], marked[marked.count - 1]] {
        try await it.site.salvor("restore", "--point", try #require(point["id"]?.string), "--yes", "-q").succeeded()
        let causes = try await it.lines().count
        let text = String(decoding: try Files.read("\(notes)/effects", limitBytes: 1 << 24), as: UTF8.self)
        let effects = text.split(separator: "\n").count
        #expect(effects <= causes && causes - effects <= 1, "\(causes) causes, \(effects) effects")
        sizes.append(effects)
        try await it.site.salvor("run", "release", "latest", "--yes").succeeded()
      }
      #expect(sizes == sizes.sorted() && Set(sizes).count == 3 && sizes[0] >= 100, "\(sizes)")
    }
  }
}

/// A service of two stores: a message, and then a line in a file that says so.
private func effectWriter(_ port: UInt16, _ notes: String) throws -> WriterThread {
  let server = try NATSSite.connect(port)
  let lock = try File("\(notes)/.lock", O_RDONLY)
  let file = try File("\(notes)/effects", O_WRONLY | O_APPEND)
  let done = Atomic<Int64>(0)
  return WriterThread(everyMicroseconds: 500) {
    let number = done.add(1, ordering: .relaxed).newValue
    guard let answer = try? server.client.request("s.cause", Array("\(number)".utf8)),
      (try? JetStream.value(answer.payload)) != nil
    else { return nil }
    flock(lock.descriptor, LOCK_SH)
    let line = Array("\(number)\n".utf8)
    _ = line.withUnsafeBytes { write(file.descriptor, $0.baseAddress, $0.count) }
    flock(lock.descriptor, LOCK_UN)
    return WrittenRow(number: number, seconds: Date().timeIntervalSince1970)
  }
}

#if canImport(Glibc)
  import Glibc
#endif
