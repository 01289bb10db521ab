import Core
import Foundation
import Glibc
import IO
import Synchronization
import TestSupport
import Testing

@Suite("Following a directory", .serialized) struct FilesFollowTests {
  @Test(.timeLimit(.minutes(5)))
  func `writer and follower killed, the directory gone: two seconds are lost at most`() async throws {
    try await DocumentsSite.with { it in
      try await it.site.follow("--within", ProcessInfo.processInfo.environment["SALVOR_LOG_WITHIN"] ?? "1s")
      try await it.site.salvor("backup", "-q").succeeded()
      let written = Mutex<[(Int, Double)]>([])
      let isOver = Mutex(false)
      let thread = Thread {
        var number = 0
        while !isOver.withLock({ $0 }) {
          number += 1
          guard (try? it.write(number)) != nil else { break }
          let (done, now) = (number, Date().timeIntervalSince1970)
          written.withLock { $0.append((done, now)) }
          usleep(3000)
        }
        isOver.withLock { $0 = false }
      }
      thread.start()
      try await Task.sleep(for: .seconds(6))
      it.site.killFollower()
      isOver.withLock { $0 = true }
      try await it.site.until("the writer ends") { isOver.withLock { !$0 } }
      let acknowledged = written.withLock { $0 }
      try #require(acknowledged.count > 200)
      try Files.removeTree(it.root)
      try await it.site.restore("--newest")
      let found = try it.numbers()
      let last = try #require(acknowledged.last)
      let lost = acknowledged.first { !found.contains($0.0) }.map { last.1 - $0.1 } ?? 0
      #expect(lost <= 2, "\(lost) seconds of acknowledged work: \(found.count) of \(last.0)")
      #expect(found == Set(1...found.count), "the first ones, and all of them")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a point marks the tree, and comes back as it was`() async throws {
    try await DocumentsSite.with { it in
      // Nobody follows: the point says who is missing, and nothing is copied instead.
      let early = try await it.site.salvor("point", "take", "shop")
      #expect(early.status != 0 && early.errors.contains("salvor follow"), "\(early)")
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for number in 1...5 { try it.write(number) }
      try await it.site.salvor("point", "take", "shop", "--name", "five", "-q").succeeded()
      try it.write(6)
      try it.rewrite(1, "other")
      try await it.site.salvor("point", "take", "shop", "--name", "six", "-q").succeeded()
      for number in 1...3 { unlink("\(it.root)/in/\(number).txt") }
      let points = try await it.site.salvor("points", "-o", "json").output
      #expect(points.contains(#""change""#), "\(points)")
      // Stopped, changed meanwhile, and come back to: the log goes on.
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      try it.write(7)
      try await it.site.follow()
      try it.write(8)
      try await it.site.salvor("point", "take", "shop", "--name", "eight", "-q").succeeded()
      let timeline = try await it.site.json("timeline", "shop-log")
      #expect(timeline["gaps"]?.array?.isEmpty == true && !it.site.said.contains("a gap"), "\(timeline)")
      // It follows on through a restore.
      for (name, expected) in [("five", Set(1...5)), ("six", Set(1...6)), ("eight", Set(4...8))] {
        try await it.site.restore("--point", name)
        #expect(try it.numbers() == expected, "\(name)")
      }
      try await it.site.restore("--point", "six")
      #expect(try Files.read("\(it.root)/in/1.txt") == Array("other".utf8))
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `the page's lines bring the log back without Salvor`() async throws {
    try await DocumentsSite.with { it in
      try await it.site.follow()
      try await it.site.salvor("backup", "-q").succeeded()
      for number in 1...4 { try it.write(number) }
      try it.rewrite(2, "again")
      unlink("\(it.root)/in/3.txt")
      try Files.createDirectory("\(it.root)/in/deep/er")
      try Files.replace("\(it.root)/in/deep/er/big", with: [UInt8](repeating: 7, count: 2_500_000))
      symlink("deep", "\(it.root)/in/link")
      try await it.site.salvor("point", "take", "shop", "--name", "last", "-q").succeeded()
      try await it.site.until("the log is durable") { it.site.newestDurable != nil }
      #expect(it.site.stopFollowing() == 0, "\(it.site.said)")
      let tests = Files.parent(of: Files.parent(of: #filePath))
      let text = String(decoding: try Files.read(tests + "/../docs/operating/continuous.md"), as: UTF8.self)
      let script = try #require(text.components(separatedBy: "python3 - documents").dropFirst().first)
        .components(separatedBy: "<<'END'\n")[1].components(separatedBy: "\nEND\n")[0]
      let out = it.site.home.file("out")
      let environment = [
        "RESTIC_REPOSITORY": it.site.home.file("vault"), "RESTIC_PASSWORD_FILE": it.site.home.file("password"),
        "HOME": it.site.home.path,
      ]
      func run(_ words: String...) async throws { try await CommandRun(words, environment: environment).succeeded() }
      try await run("restic", "restore", "latest", "--path", "/shop-log", "--target", out)
      let facts = try CanonicalJSON.decode(
        JSONValue.self, from: try Files.read("\(out)/salvor/shop-log.json"))
      let position = try #require(facts["position"]?["value"]?.string)
      let mark = position.split(separator: ":")
      // Pieces of all stretches, joined by where they begin.
      let listed = try await CommandRun(
        ["restic", "snapshots", "--tag", "salvor-log", "--json"], environment: environment)
      let snapshots = try CanonicalJSON.decode(JSONValue.self, from: Array(listed.output.utf8)).array ?? []
      for (index, snapshot) in snapshots.enumerated() {
        try await run("restic", "restore", try #require(snapshot["id"]?.string), "--target", "\(out)/pieces-\(index)")
      }
      try await run(
        "sh", "-ec",
        """
        mkdir \(out)/log
        for piece in \(out)/pieces-*/shop-log/log/*/*/*; do
          file=$(basename $(dirname $piece)); begin=$(basename $piece | sed 's/^0*//')
          dd if=$piece of=\(out)/log/$file bs=1M seek=${begin:-0} oflag=seek_bytes conv=notrunc status=none
        done
        """)
      let name = try #require(try Files.names(in: out + "/shop-log").first).lossyText
      try Files.replace(out + "/replay.py", with: Array(script.utf8))
      let files = try Files.names(in: out + "/log").map { "\(out)/log/\($0.lossyText)" }.filter {
        $0.hasSuffix(String(mark[0])) || $0 > "\(out)/log/\(mark[0])"
      }
      try await CommandRun(["python3", out + "/replay.py", "\(out)/shop-log/\(name)", String(mark[1])] + files)
        .succeeded()
      let compared = try await CommandRun(["diff", "-r", "--no-dereference", it.root, "\(out)/shop-log/\(name)"])
      #expect(compared.status == 0, "\(compared)")
    }
  }
}

/// A directory with a lock beside a ``LogSite`` that follows it.
final class DocumentsSite: @unchecked Sendable {
  // Used by one task at a time, and a writer's thread.
  let site: LogSite
  var root: String { site.home.file("documents") }

  private init() async throws {
    site = try await LogSite { home in
      """
      files:
              path: "\(home.file("documents"))"
              lockFile: .lock
              log: "\(home.file("notes"))"
      """
    }
    try Files.createDirectory(root + "/in")
    try Files.replace(root + "/.lock", with: [])
    let group = """

      ---
      apiVersion: salvor.dev/v1
      kind: ConsistencyGroup
      metadata: {name: shop}
      spec: {services: [shop], holdBudget: 20s}
      """
    let path = site.home.file("salvor.yaml")
    try Files.replace(path, with: try Files.read(path) + Array(group.utf8))
  }

  static func with(_ body: (DocumentsSite) async throws -> Void) async throws {
    let site = try await DocumentsSite()
    do { try await body(site) } catch {
      print(site.site.said)
      site.site.killFollower()
      throw error
    }
    site.site.killFollower()
  }

  func write(_ number: Int) throws { try rewrite(number, "\(number)") }

  func rewrite(_ number: Int, _ text: String) throws {
    let lock = try File(root + "/.lock", O_RDONLY)
    guard retryingInterrupts({ flock(lock.descriptor, LOCK_SH) }) == 0 else { throw SystemFailure("flock") }
    try Files.replace("\(root)/in/\(number).txt", with: Array(text.utf8))
    withExtendedLifetime(lock) {}
  }

  func numbers() throws -> Set<Int> {
    Set(try Files.names(in: root + "/in").compactMap { Int($0.lossyText.dropLast(4)) })
  }
}
