import Core
import DriverContract
import DriverKit
import Foundation
import IO
import S3Client
import Synchronization
import TestSupport
import Testing

@testable import DriverBucket

/// A whole capture, in the order the port asks for.
func capture(
  _ driver: BucketDriver, after earlier: (tree: MemoryTree, result: CaptureResult)? = nil,
  atMark: () async throws -> Void = {}, afterMark: () async throws -> Void = {}
) async throws -> (tree: MemoryTree, result: CaptureResult) {
  let tree = MemoryTree(after: earlier?.tree)
  let scratch = try TemporaryDirectory("scratch")
  let session = try await driver.capture(
    CaptureContext(
      sink: tree, scratch: scratch.path,
      earlier: { () throws(AnyFailure) in earlier.map { EarlierCapture(result: $0.result, tree: $0.tree) } }))
  do {
    try await session.prepare()
    try await session.hold(limit: .seconds(60))
    try await atMark()
    let position = try await session.mark()
    try await afterMark()
    _ = await session.release()
    let result = try await session.finish()
    #expect(result.position == position)
    #expect(result.sizeBytes == tree.totalBytes)
    await session.close()
    return (tree, result)
  } catch {
    await session.close()
    throw error
  }
}

func request(_ captured: (tree: MemoryTree, result: CaptureResult), _ id: String = "restore-1") -> RestoreRequest {
  RestoreRequest(id: id, source: captured.tree, capture: captured.result)
}

func entries(_ captured: (tree: MemoryTree, result: CaptureResult)) async throws -> [ObjectEntry] {
  try await Manifest.read(captured.tree)
}

/// Keys that somebody may use, and some that nobody should.
let oddKeys: [String] = [
  "a", "a/b", "a/b/c", "A", "readme.txt", "photos/2026/one.jpg", "/lead", "//", "tail/", "x//y", "../up", "b/../c", ".",
  "..", "./x", "caf\u{e9}", "cafe\u{301}", "tab\tkey", "line\nbreak", "\u{1}\u{7f}", "blank key+plus%25&<>'\"`$;",
  "emoji-\u{1F980}", "question?x=1#y", "back\\slash", String(repeating: "n", count: 300),
  String(repeating: "d/", count: 511) + "e", "quote\"d", "trailing ", " leading", "percent%2Fslash", "~tilde*star(1)!",
]

/// What writers did, on this machine's steady clock.
final class Written: Sendable {
  struct Write: Sendable {
    var key, value: String
    var began, ended: Int64
  }

  private let state = Mutex<[Write]>([])
  var all: [Write] { state.withLock { $0 } }
  func add(_ write: Write) { state.withLock { $0.append(write) } }
}

@Suite("buckets on Ceph", .serialized) struct BucketCephTests {
  @Test(.timeLimit(.minutes(10))) func `any key comes back, with all that is said of it`() async throws {
    let bucket = try await TestBucket(on: try await .ceph())
    for (number, key) in oddKeys.enumerated() {
      try await bucket.put(
        key, number % 7 == 0 ? "" : "content \(number)",
        [
          ("content-type", "text/x-\(number)"), ("cache-control", "max-age=\(number)"),
          ("content-encoding", "identity"),
          ("content-disposition", "attachment"), ("content-language", "de"), ("x-amz-meta-number", "\(number)"),
          ("x-amz-tagging", "a%20b=c%26d&number=\(number)"),
        ])
    }
    try await bucket.put("without tags", "plain")
    let before = try await bucket.state()
    #expect(before.count == oddKeys.count + 1)
    let driver = try bucket.driver()
    let captured = try await capture(driver)
    let listed = try await entries(captured)
    #expect(captured.result.notes.isEmpty, "\(captured.result.notes)")
    #expect(Set(listed.map { Array($0.path.utf8) }).count == oddKeys.count + 1 && listed.count == oddKeys.count + 1)
    #expect(captured.tree.entries["objects/photos/2026/one.jpg"] != nil)
    #expect(listed.first { $0.key == "a" }?.path.hasPrefix("odd/") == true)
    // It goes through files as well: what a restore by hand finds.
    let place = try TemporaryDirectory("tree")
    try await captured.tree.materialise(TreePath(), at: place.file("tree")) { _ in }

    for key in oddKeys.dropFirst(3) { try await bucket.client.delete(ObjectKey(key)) }
    try await bucket.put("a", "changed")
    try await bucket.put("stranger", "new")
    let changed = try await bucket.state()
    let restore = request(captured)
    _ = try await driver.restoreBeside(restore)
    #expect(try await driver.digestBeside(restore) == captured.result.contentDigest)
    try await driver.swapIn(restore)
    expectSame(try await bucket.state(), before)
    try await driver.swapOut(restore)
    expectSame(try await bucket.state(), changed)
    try await driver.discardKept(restore)
  }

  @Test(.timeLimit(.minutes(10)), arguments: [true, false])
  func `a bucket with versions is cut at the mark`(_ isCeph: Bool) async throws {
    let server = try await isCeph ? TestServer.ceph() : TestServer.moto()
    let bucket = try await TestBucket(on: server, versioned: true)
    let writes = Written()
    let ending = Ending()
    let time = SystemTime()
    try await bucket.put("settled", "first")
    try await bucket.put("gone", "still there")
    let driver = try bucket.driver()
    var heldAt: Int64 = 0
    var releasedAt: Int64 = 0
    let captured = try await withThrowingTaskGroup(of: Void.self) { group in
      for writer in 0..<3 {
        group.addTask {
          var number = 0
          while !ending.isOver {
            number += 1
            let began = time.monotonicNanoseconds()
            // Some keys are new, one is written again and again.
            let key = number % 2 == 0 ? "again-\(writer)" : "w\(writer)-\(number)"
            try await bucket.put(key, "\(number)")
            let ended = time.monotonicNanoseconds()
            writes.add(.init(key: key, value: "\(number)", began: began, ended: ended))
          }
        }
      }
      func wait(_ more: Int) async throws {
        let goal = writes.all.count + more
        while writes.all.count < goal { try await time.sleep(for: .milliseconds(5)) }
      }
      do {
        let captured = try await capture(
          driver, atMark: { heldAt = time.monotonicNanoseconds() },
          afterMark: {
            releasedAt = time.monotonicNanoseconds()
            try await bucket.put("settled", "second")
            try await bucket.client.delete(ObjectKey("gone"))
            try await wait(30)
          })
        ending.set()
        try await group.waitForAll()
        return captured
      } catch {
        ending.set()
        throw error
      }
    }
    var content: [String: String] = [:]
    for entry in try await entries(captured) {
      content[entry.key] = String(decoding: captured.tree.entries[TreePath(entry.path)]?.content ?? [], as: UTF8.self)
    }
    #expect(content["settled"] == "first" && content["gone"] == "still there")
    let all = writes.all
    #expect(all.contains { $0.ended < heldAt } && all.contains { $0.began > releasedAt })
    for write in all where write.key.hasPrefix("w") {
      if write.ended < heldAt { #expect(content[write.key] == write.value, "\(write.key) was acknowledged before") }
      if write.began > releasedAt { #expect(content[write.key] == nil, "\(write.key) was begun after") }
    }
    for key in Set(all.map(\.key)) where key.hasPrefix("again") {
      let own = all.filter { $0.key == key }
      let least = own.filter { $0.ended < heldAt }.compactMap { Int($0.value) }.max() ?? 0
      let most = own.filter { $0.began <= releasedAt }.compactMap { Int($0.value) }.max() ?? 0
      let found = Int(content[key] ?? "0") ?? 0
      #expect(least <= found && found <= most, "\(key): \(least)...\(most), not \(found)")
    }
    await server.end()
  }

  @Test(.timeLimit(.minutes(10))) func `all that a key ever held comes back in order`() async throws {
    let bucket = try await TestBucket(on: try await .ceph(), versioned: true)
    for number in 1...3 { try await bucket.put("file", "version \(number)", [("x-amz-meta-n", "\(number)")]) }
    try await bucket.client.delete(ObjectKey("file"))
    try await bucket.put("file", "version 4")
    try await bucket.put("lost", "was here")
    try await bucket.client.delete(ObjectKey("lost"))
    func history() async throws -> [String] {
      var all: [Listed] = []
      try await bucket.client.listVersions("") { listed throws(DriverError) in all.append(listed) }
      var lines: [String] = []
      for listed in all {
        let bytes =
          listed.isMarker
          ? [] : try await bucket.client.send(.get, listed.key, query: BucketClient.version(listed.version)).body
        lines.append("\(listed.key) \(listed.isMarker) \(listed.isLatest) \(String(decoding: bytes, as: UTF8.self))")
      }
      return lines
    }
    let before = try await history()
    #expect(before.count == 7)
    let driver = try bucket.driver(["versions": true])
    let captured = try await capture(driver)
    #expect(captured.result.contentDigest?.parts["versions"]?.count == 6)
    var all: [Listed] = []
    try await bucket.client.listVersions("") { listed throws(DriverError) in all.append(listed) }
    for listed in all { try await bucket.client.delete(listed.key, version: listed.version) }
    let restore = request(captured)
    _ = try await driver.restoreBeside(restore)
    for _ in 1...2 { try await driver.swapIn(restore) }
    #expect(try await history() == before)
    // Taken back, nothing is current any more; nothing is destroyed either.
    try await driver.swapOut(restore)
    #expect(try await bucket.state().isEmpty)
    #expect(try await history().count > before.count)
    try await driver.discardKept(restore)
  }

  @Test(.timeLimit(.minutes(10)))
  func `locks are recorded, given back when asked, and told when they stand in the way`() async throws {
    let bucket = try await TestBucket(on: try await .ceph(), locked: true)
    let until = Timestamp(seconds: SystemTime().now().nanoseconds / 1_000_000_000 + 3600)
    try await bucket.put(
      "kept", "for an hour",
      [
        ("x-amz-object-lock-mode", "GOVERNANCE"), ("x-amz-object-lock-retain-until-date", until.description),
        ("x-amz-object-lock-legal-hold", "ON"),
      ])
    let driver = try bucket.driver(["restoreLocks": true])
    let captured = try await capture(driver)
    let lock = try await entries(captured).first?.metadata.lock
    #expect(lock == ObjectMetadata.Lock(mode: "GOVERNANCE", until: until, isHeld: true))
    try await bucket.put("kept", "over it")
    let restore = request(captured)
    _ = try await driver.restoreBeside(restore)
    try await driver.swapIn(restore)
    #expect(try await bucket.content("kept") == "for an hour")
    let head = try #require(try await bucket.client.head(ObjectKey("kept")))
    #expect(ObjectMetadata(head).lock == lock)
    try await driver.discardKept(restore)

    // A workspace where everything put is locked could never be cleared.
    let body = Array(
      "<ObjectLockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>"
        .utf8)
    #expect(try await bucket.client.send(.put, nil, query: [("object-lock", "")], body: body).isSuccess)
    let within = try bucket.driver(["workspace": .string("\(bucket.name)/.salvor/")])
    let findings = try await within.precheck(restore)
    #expect(findings.contains { $0.report.code == "DRIVER-644" })
    _ = try await within.restoreBeside(restore)
    do {
      try await within.discardKept(restore)
      Issue.record("locked objects were removed")
    } catch { #expect((error as? DriverError)?.report.code == "DRIVER-642") }
  }

  @Test(.timeLimit(.minutes(10))) func `the policies of the page are enough, and no more`() async throws {
    let server = try await TestServer.ceph()
    let bucket = try await TestBucket(on: server, versioned: true)
    let beside = BucketClient(
      connection: bucket.client.connection.to(bucket: "\(bucket.name)-beside"), time: SystemTime(), pageCount: 1000)
    try await beside.create(hasLocks: false)
    for number in 1...5 { try await bucket.put("record/\(number)", "content \(number)", [("x-amz-tagging", "a=b")]) }
    let limited = TestServer(
      url: server.url, accessKey: CephServer.limitedAccessKey, secretKey: CephServer.limitedSecretKey)
    let keys = try TemporaryDirectory("limited")
    try Files.replace(keys.file("access"), with: Array(limited.accessKey.utf8))
    try Files.replace(keys.file("secret"), with: Array(limited.secretKey.utf8))
    // What this user puts is this user's own, unless it says otherwise.
    let options = TestBucket.options(limited, bucket.name, keys).merging(["acl": "bucket-owner-full-control"]) { $1 }
    let driver = BucketDriver(
      try BucketConfiguration(StoreConfiguration(name: "uploads", options: options)), .live)
    await #expect(throws: DriverError.self) { try await capture(driver) }

    func allow(_ policy: String) async throws {
      for client in [bucket.client, beside] {
        let text = try Self.policy(policy, live: bucket.name, beside: "\(bucket.name)-beside", own: client.bucket)
        let done = try await client.send(.put, nil, query: [("policy", "")], body: Array(text.utf8))
        #expect(done.isSuccess, "\(String(decoding: done.body, as: UTF8.self))")
      }
    }
    try await allow("capture")
    let captured = try await capture(driver)
    #expect(captured.result.contentDigest?.parts["objects"]?.count == 5)
    let restore = request(captured)
    // Who may only read is told so before anything is begun.
    #expect(try await driver.precheck(restore).contains { $0.report.code == "DRIVER-643" })
    #expect(try await driver.client().send(.put, ObjectKey("record/1"), body: [1]).status == 403)
    try await bucket.put("record/1", "changed")
    try await bucket.put("record/6", "new")
    try await allow("restore")
    #expect(try await driver.precheck(restore).isEmpty)
    _ = try await driver.restoreBeside(restore)
    try await driver.swapIn(restore)
    #expect(try await bucket.content("record/1") == "content 1")
    #expect(try await bucket.content("record/6") == nil)
    try await driver.swapOut(restore)
    #expect(try await bucket.content("record/1") == "changed")
    try await driver.discardKept(restore)
  }

  /// A policy as the page has it, for this bucket and the user `limited`: statements about another bucket left out, as a bucket
  /// takes none about others.
  private static func policy(_ name: String, live: String, beside: String, own: String) throws -> String {
    var root = #filePath
    for _ in 0..<3 { root = Files.parent(of: root) }
    let page = String(decoding: try Files.read("\(root)/docs/drivers/bucket.md"), as: UTF8.self)
    let block = try #require(page.components(separatedBy: "<!-- policy: \(name) -->\n```json\n").dropFirst().first)
    let text = try #require(block.components(separatedBy: "```").first)
      .replacing("salvor-workspace", with: beside).replacing("uploads", with: live)
    let document = try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
    var statements: [[String: Any]] = []
    for var statement in try #require(document["Statement"] as? [[String: Any]]) {
      let resources = try #require(statement["Resource"] as? [String]).filter {
        $0 == "arn:aws:s3:::\(own)" || $0.hasPrefix("arn:aws:s3:::\(own)/")
      }
      if resources.isEmpty { continue }
      statement["Resource"] = resources
      statement["Principal"] = ["AWS": ["arn:aws:iam:::user/limited"]]
      statements.append(statement)
    }
    if statements.isEmpty {
      statements = [
        [
          "Effect": "Deny", "Principal": ["AWS": ["arn:aws:iam:::user/limited"]], "Action": ["s3:*"],
          "Resource": ["arn:aws:s3:::\(own)"],
        ]
      ]
    }
    let data = try JSONSerialization.data(withJSONObject: ["Version": "2012-10-17", "Statement": statements])
    return String(decoding: data, as: UTF8.self)
  }
}
