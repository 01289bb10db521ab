import Core
import DriverContract
import DriverKit
import Glibc
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverBucket

@Suite("buckets") struct BucketMotoTests {
  private func with(
    versioned: Bool = false, _ body: (TestBucket) async throws -> Void
  ) async throws {
    let server = try await TestServer.moto()
    do {
      try await body(try await TestBucket(on: server, versioned: versioned))
      await server.end()
    } catch {
      await server.end()
      throw error
    }
  }

  @Test(.timeLimit(.minutes(10)), arguments: [true, false])
  func `what did not change is not read again`(_ versioned: Bool) async throws {
    try await with(versioned: versioned) { bucket in
      for number in 1...20 { try await bucket.put("n/\(number)", String(repeating: "\(number)", count: number * 1000)) }
      try await bucket.put("empty", "")
      let driver = try bucket.driver()
      let first = try await capture(driver)
      #expect(first.result.facts["reused"] == "0")
      try await bucket.put("n/7", "changed")
      try await bucket.client.delete(ObjectKey("n/8"))
      try await bucket.put("n/9/below", "new")
      // Tags change without a trace in the listing.
      let tags = Array("<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>".utf8)
      #expect(try await bucket.client.send(.put, ObjectKey("n/3"), query: [("tagging", "")], body: tags).isSuccess)
      let second = try await capture(driver, after: first)
      #expect(second.result.facts["reused"] == "18")
      let found = try await entries(second)
      #expect(found.first { $0.key == "n/3" }?.metadata.tags == [.init(key: "k", value: "v")])
      // What became the directory of another is found elsewhere by now, and was not read again.
      #expect(found.first { $0.key == "n/9" }?.path == KeyPaths.oddPath(ObjectKey("n/9")))
      for entry in found {
        #expect(
          second.tree.entries[TreePath(entry.path)]?.content == Array((try await bucket.content(entry.key) ?? "-").utf8)
        )
      }
      let anew = try await capture(driver)
      #expect(anew.result.contentDigest == second.result.contentDigest)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `events stand in for a listing, until one is due`() async throws {
    try await with { bucket in
      let place = try TemporaryDirectory("events")
      let file = place.file("events.jsonl")
      func event(_ key: String, in name: String? = nil) -> String {
        "{\"Records\":[{\"eventName\":\"ObjectCreated:Put\",\"s3\":{\"bucket\":{\"name\":\"\(name ?? bucket.name)\"},\"object\":{\"key\":\"\(key)\"}}}]}\n"
      }
      try Files.replace(file, with: Array("{\"Event\":\"s3:TestEvent\"}\n".utf8))
      for number in 1...5 { try await bucket.put("n\(number)", "\(number)") }
      let driver = try bucket.driver(["events": .string(file), "listEvery": 3])
      let first = try await capture(driver)
      #expect(first.result.facts["sinceListing"] == "0")
      try await bucket.put("n1", "changed and told")
      try await bucket.put("n2", "changed and not told")
      try await bucket.put("a b", "new")
      try await bucket.client.delete(ObjectKey("n3"))
      let told = event("n1") + event("a+b") + event("n3") + event("n4", in: "another") + "{\"Records\":[{\"s3\":"
      let written = try File(file, O_WRONLY | O_APPEND)
      try Array(told.utf8).withRawBytes { (raw) throws(SystemFailure) -> Void in try written.write(raw) }
      let second = try await capture(driver, after: first)
      #expect(second.result.facts["sinceListing"] == "1")
      var content: [String: String] = [:]
      for entry in try await entries(second) {
        content[entry.key] = String(decoding: second.tree.entries[TreePath(entry.path)]?.content ?? [], as: UTF8.self)
      }
      #expect(content == ["n1": "changed and told", "n2": "2", "a b": "new", "n4": "4", "n5": "5"])
      let third = try await capture(driver, after: second)
      #expect(third.result.facts["sinceListing"] == "2")
      // The third after a listing lists: what nobody told of is found.
      let fourth = try await capture(driver, after: third)
      #expect(fourth.result.facts["sinceListing"] == "0")
      #expect(try await entries(fourth).first { $0.key == "n2" }?.size == 20)
      // A file begun anew says nothing of what was missed.
      try Files.replace(file, with: Array(event("n1").utf8))
      #expect(try await capture(driver, after: fourth).result.facts["sinceListing"] == "0")
      try Files.replace(file, with: Array("no event\n".utf8))
      let now = try #require(EventFile.Place(try EventFile(path: file).end().text))
      #expect(throws: DriverError.self) {
        try EventFile(path: file).keys(
          from: EventFile.Place(device: now.device, inode: now.inode, offset: 0), to: now, bucket: bucket.name)
      }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `an object that is replaced while it is read is read again, never mixed`()
    async throws
  {
    try await with { bucket in
      let states = (0..<5).map { String(repeating: "\($0)", count: 40_000) }
      try await bucket.put("large", states[0])
      let ending = Ending()
      let driver = try bucket.driver([:]) { $0.rangeBytes = 1000 }
      let found = try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask {
          // Often enough to meet a reading, seldom enough to let one pass.
          for number in 1..<400 where !ending.isOver {
            try await bucket.put("large", states[number % 5])
            try await SystemTime().sleep(for: .milliseconds(number < 20 ? 10 : 2000))
          }
        }
        defer { ending.set() }
        var found: [[UInt8]] = []
        for _ in 1...3 {
          do {
            let captured = try await capture(driver)
            found += captured.tree.entries.filter { $0.key == "objects/large" }.map { $0.value.content }
          } catch { #expect((error as? DriverError)?.report.code == "DRIVER-641") }
        }
        group.cancelAll()
        return found
      }
      #expect(!found.isEmpty)
      for content in found {
        #expect(states.contains(String(decoding: content, as: UTF8.self)), "two states were mixed")
      }
    }
  }

  @Test(.timeLimit(.minutes(10))) func `large objects go in ranges and in parts`() async throws {
    try await with { bucket in
      let bytes = SeededRandomness(seed: 7).bytes(11 << 20)
      try await bucket.client.put(
        ObjectKey("large"), bytes, headers: [("x-amz-meta-a", "b"), ("x-amz-tagging", "t=u")])
      let before = try await bucket.state()
      let driver = try bucket.driver([:]) { configuration in
        configuration.rangeBytes = 1 << 20
        (configuration.partThresholdBytes, configuration.copyLimitBytes) = (1 << 20, 5 << 20)
        configuration.pageCount = 1
      }
      let captured = try await capture(driver)
      #expect(captured.tree.entries["objects/large"]?.content == bytes)
      try await bucket.put("large", "small")
      let changed = try await bucket.state()
      let restore = request(captured)
      _ = try await driver.restoreBeside(restore)
      try await driver.swapIn(restore)
      expectSame(try await bucket.state(), before)
      try await driver.swapOut(restore)
      expectSame(try await bucket.state(), changed)
      try await driver.discardKept(restore)
    }
  }

  /// Every request that changes something is the last one once; then the same call is made again, whole.
  @Test(.timeLimit(.minutes(30)), arguments: [false, true])
  func `a restore that is stopped anywhere is mended by doing it again`(_ versioned: Bool) async throws {
    try await with(versioned: versioned) { bucket in
      for number in 1...4 { try await bucket.put("n\(number)", "old \(number)", [("x-amz-meta-n", "\(number)")]) }
      let before = try await bucket.state()
      let captured = try await capture(try bucket.driver())
      try await bucket.put("n1", "changed")
      try await bucket.client.delete(ObjectKey("n2"))
      try await bucket.put("n5", "new")
      let changed = try await bucket.state()
      let acts: [(name: String, body: @Sendable (BucketDriver, RestoreRequest) async throws -> Void)] = [
        ("restoreBeside", { _ = try await $0.restoreBeside($1) }), ("swapIn", { try await $0.swapIn($1) }),
        ("swapOut", { try await $0.swapOut($1) }), ("swapIn again", { try await $0.swapIn($1) }),
        ("swapOut again", { try await $0.swapOut($1) }), ("discardKept", { try await $0.discardKept($1) }),
      ]
      let plain = try bucket.driver()
      var stops = 0
      for (index, act) in acts.enumerated() {
        var isStopped = true
        var limit = 0
        while isStopped {
          limit += 1
          let restore = request(captured, "crash-\(index)-\(limit)")
          for earlier in acts[..<index] { try await earlier.body(plain, restore) }
          let count = Mutex(0)
          var driver = plain
          let last = limit
          driver.beforeChange = { call throws(DriverError) in
            let number = count.withLock { count in
              count += 1
              return count
            }
            if number >= last { throw .engineFailed("stopped before \(call)", log: "") }
          }
          do {
            try await act.body(driver, restore)
            isStopped = false
          } catch { stops += 1 }
          if limit % 2 == 0, act.name.hasPrefix("swapIn") {
            // Not finished, but taken back at once.
            try await plain.swapOut(restore)
            expectSame(try await bucket.state(), changed, "\(act.name), stopped before its change \(limit), and back")
          }
          try await act.body(plain, restore)
          let expected = act.name.hasPrefix("swapIn") ? before : changed
          expectSame(try await bucket.state(), expected, "\(act.name), stopped before its change \(limit)")
          // Whatever happened, the way back is open.
          if index < 5 { try await plain.swapOut(restore) }
          expectSame(try await bucket.state(), changed, "\(act.name), stopped before its change \(limit), and back")
          try await plain.discardKept(restore)
          if isStopped, limit > 200 { throw ContractBroken("\(act.name) never ends") }
        }
      }
      #expect(stops > 30)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `what was written after the swap is kept until everything is given up`()
    async throws
  {
    try await with { bucket in
      try await bucket.put("n", "old")
      let driver = try bucket.driver()
      let captured = try await capture(driver)
      let restore = request(captured)
      _ = try await driver.restoreBeside(restore)
      try await driver.swapIn(restore)
      try await bucket.put("n", "late")
      try await bucket.put("m", "later")
      try await driver.swapOut(restore)
      #expect(try await bucket.content("n") == "old")
      #expect(try await bucket.content("m") == nil)
      let workspace = try driver.workspace(restore, try await driver.client())
      for (key, text) in [("n", "late"), ("m", "later")] {
        #expect(try await workspace.client.get(workspace.late(ObjectKey(key)), limitBytes: 100) == Array(text.utf8))
      }
      try await driver.discardKept(restore)
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `the workspace in the bucket itself is no part of the store, nor is what is above the prefix`() async throws {
    try await with { bucket in
      try await bucket.put("mine/n", "old")
      try await bucket.put("other", "somebody else's")
      let driver = try bucket.driver([
        "bucket": .string("\(bucket.name)/mine"), "workspace": .string("\(bucket.name)/.salvor/"),
      ])
      let captured = try await capture(driver)
      #expect(try await entries(captured).map(\.key) == ["n"])
      try await bucket.put("mine/n", "new")
      let restore = request(captured)
      _ = try await driver.restoreBeside(restore)
      let whole = try bucket.driver(["workspace": .string("\(bucket.name)/.salvor/")])
      #expect(try await entries(try await capture(whole)).map(\.key) == ["mine/n", "other"])
      try await driver.swapIn(restore)
      #expect(try await bucket.content("mine/n") == "old")
      #expect(try await bucket.content("other") == "somebody else's")
      try await driver.discardKept(restore)
      #expect(try await bucket.state().count == 2)
    }
  }

  @Test(.timeLimit(.minutes(10))) func `a manifest that lies is refused`() async throws {
    try await with { bucket in
      try await bucket.put("n", "old")
      let driver = try bucket.driver()
      let captured = try await capture(driver)
      let line = try #require(try await entries(captured).first)
      for change: (inout ObjectEntry) -> Void in [
        { $0.path = "objects/m" }, { $0.path = "../n" }, { $0.path = "" }, { $0.size = -1 }, { $0.key = "" },
        { $0.sha256 = nil }, { $0.kind = .version }, { $0.key = String(repeating: "k", count: 1025) },
      ] {
        var changed = line
        change(&changed)
        let tree = MemoryTree()
        let bytes = try Manifest.parts([changed])[0]
        _ = try await tree.add(
          "manifest/000000.jsonl", FileMetadata(kind: .regular, permissions: 0o600, modified: Timestamp(seconds: 0)),
          cutting: .content
        ) { MemorySource(bytes) }
        await #expect(throws: DriverError.self) { try await Manifest.read(tree) }
      }
    }
  }

  /// Word for word what the page says, with stock Python, and with rclone for the keys it can name.
  @Test(.timeLimit(.minutes(10))) func `the exit door`() async throws {
    try await with { bucket in
      // A server of one's own may not take the very oddest; Ceph does, in its own test.
      let keys = [
        "a", "a/b", "A", "photos/one.jpg", "tail/", "cafe\u{301}", "caf\u{e9}", "blank key+&", "\u{1}\u{7f}",
        "deep/er/x",
      ]
      for (number, key) in keys.enumerated() {
        try await bucket.put(
          key, "content \(number)",
          [("content-type", "text/x-\(number)"), ("x-amz-meta-number", "\(number)"), ("x-amz-tagging", "a%20b=c%2Bd")])
      }
      let before = try await bucket.state()
      #expect(before.count == keys.count)
      let captured = try await capture(try bucket.driver())
      let place = try TemporaryDirectory("door")
      try await captured.tree.materialise(TreePath(), at: place.file("captured")) { _ in }
      // Through restic, which must take every name there is.
      let restic = [
        "RESTIC_REPOSITORY": place.file("repository"), "RESTIC_PASSWORD": "correct horse",
        "RESTIC_CACHE_DIR": place.file("cache"),
      ]
      for words in [["init"], ["backup", "."], ["restore", "latest", "--target", place.file("tree")]] {
        try await CommandRun(["restic"] + words, in: place.file("captured"), environment: restic, pool: clients)
          .succeeded()
      }
      for key in keys { try await bucket.client.delete(ObjectKey(key)) }
      #expect(try await bucket.state().isEmpty)
      var root = #filePath
      for _ in 0..<3 { root = Files.parent(of: root) }
      let page = String(decoding: try Files.read("\(root)/docs/drivers/bucket.md"), as: UTF8.self)
      let block = page.components(separatedBy: "<!-- exit-door: bucket -->\n```python\n").dropFirst().first
      let script = try #require(block?.components(separatedBy: "```").first)
      try Files.replace(place.file("back.py"), with: Array(script.utf8))
      let variables = [
        "AWS_ACCESS_KEY_ID": bucket.server.accessKey, "AWS_SECRET_ACCESS_KEY": bucket.server.secretKey,
        "AWS_DEFAULT_REGION": "us-east-1",
      ]
      try await CommandRun(
        [TestServer.tool("python3"), place.file("back.py"), place.file("tree"), bucket.server.url, bucket.name],
        environment: variables, pool: clients
      ).succeeded()
      expectSame(try await bucket.state(), before)

      let other = try await TestBucket(on: bucket.server)
      let remote = [
        "RCLONE_CONFIG_REMOTE_TYPE": "s3", "RCLONE_CONFIG_REMOTE_PROVIDER": "Other",
        "RCLONE_CONFIG_REMOTE_ENDPOINT": bucket.server.url, "RCLONE_CONFIG_REMOTE_ENV_AUTH": "true",
      ].merging(variables) { $1 }
      try await CommandRun(
        [
          TestServer.tool("rclone"), "copy", "--no-unicode-normalization", "--config", "/dev/null",
          "\(place.path)/tree/objects", "remote:\(other.name)",
        ],
        environment: remote, pool: clients
      ).succeeded()
      for (number, key) in keys.enumerated()
      where captured.tree.entries[TreePath("objects/" + key)] != nil && key != "tail/" && key != "a" {
        #expect(try await other.content(key) == "content \(number)", "\(key)")
      }
    }
  }

  @Test func `keys have one path each`() {
    let keys = oddKeys.map { ObjectKey($0) }
    #expect(Set(keys).count == oddKeys.count)
    let paths = KeyPaths(keys)
    let all = keys.map { Array(paths.path($0).utf8) }
    #expect(Set(all).count == keys.count)
    // As files: no path is above another.
    for path in all { for other in all where other != path { #expect(!other.starts(with: path + [47])) } }
    for key in keys {
      for name in paths.path(key).split(separator: "/", omittingEmptySubsequences: false) {
        #expect(FileName(untrusted: Array(name.utf8)) != nil && name.utf8.count <= 255)
      }
    }
    #expect(paths.path(ObjectKey("photos/2026/one.jpg")) == "objects/photos/2026/one.jpg")
  }

  @Test func `the server's clock is known between bounds`() {
    var clock = ServerClock()
    // It is 100.4 s there when it is 5.0 s here, and a request takes 10 ms.
    let second: Int64 = 1_000_000_000
    for tick in 0..<100 {
      let began = 5 * second + Int64(tick) * 20_000_000
      let there = began + 5_000_000 + 95 * second + 400_000_000
      clock.saw(
        Timestamp(nanoseconds: there / second * second), began: began, ended: began + 10_000_000)
    }
    #expect(clock.width <= 30_000_000 && !clock.isTorn)
    let offset = 95 * second + 400_000_000
    #expect(clock.least <= offset && offset <= clock.most)
    let now = 7 * second
    let cut = clock.cut(at: now, skew: .zero, hasFractions: true)
    #expect(cut.nanoseconds >= now + offset && cut.nanoseconds < now + offset + 40_000_000)
    #expect(clock.cut(at: now, skew: .zero, hasFractions: false).nanoseconds == 103 * second - 1)
    // Another server behind the same name, two seconds off: nothing narrower than both is believed.
    clock.saw(Timestamp(seconds: 104), began: now, ended: now + 10_000_000)
    #expect(clock.isTorn && clock.width > second)
    #expect(ServerClock.date("Sun, 06 Nov 1994 08:49:37 GMT") == Timestamp("1994-11-06T08:49:37Z"))
    #expect(ServerClock.date("yesterday") == nil)
  }

  @Test(.timeLimit(.minutes(10))) func `a server with a directory behind it`() async throws {
    let place = try TemporaryDirectory("rclone")
    let server = try await TestServer.rclone(place.path)
    let bucket = try await TestBucket(on: server)
    for number in 1...5 { try await bucket.put("n/\(number)", "old \(number)") }
    let driver = try bucket.driver()
    guard case .outside = try await driver.traits().hold else {
      Issue.record("a bucket without versions is held")
      return
    }
    let captured = try await capture(driver)
    #expect(captured.result.notes.contains { $0.contains("tags") })
    try await bucket.put("n/1", "new")
    try await bucket.client.delete(ObjectKey("n/2"))
    let restore = request(captured)
    _ = try await driver.restoreBeside(restore)
    try await driver.swapIn(restore)
    // It says of a copy when it was made; what it holds is what it was.
    for number in 1...5 { #expect(try await bucket.content("n/\(number)") == "old \(number)") }
    try await driver.swapOut(restore)
    #expect(try await bucket.content("n/1") == "new")
    #expect(try await bucket.content("n/2") == nil)
    try await driver.discardKept(restore)
    try Files.replace(bucket.keys.file("secret"), with: Array("another".utf8))
    await #expect(throws: DriverError.self) { _ = try await driver.traits() }
    await server.end()
  }
}
