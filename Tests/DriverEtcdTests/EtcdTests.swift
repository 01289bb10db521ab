import Core
import DriverContract
import DriverKit
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverEtcd

#if canImport(Glibc)
  import Glibc
#endif

/// What is etcd's own: revisions, leases, users, and what goes wrong in the middle.
@Suite("etcd") struct EtcdTests {
  @Test(.timeLimit(.minutes(5)))
  func `the snapshot is of a revision between the begin and the end of the mark`() async throws {
    try await EtcdFixture.with { fixture in
      let span = Mutex<(Int64, Int64)>((0, 0))
      let (captured, log) = try await withWriters(to: fixture, count: 3) { log in
        let captured = try await fixture.capture(
          prepared: { span.withLock { $0.0 = log.now() } },
          marked: {
            span.withLock { $0.1 = log.now() }
            try await log.waitForWrites(6, "after the mark")
          })
        return (captured, log)
      }
      try await fixture.restore(captured)
      let records = try await fixture.records()
      let (begun, marked) = span.withLock { $0 }
      for write in log.writes {
        if let acknowledged = write.acknowledged, acknowledged < begun {
          #expect(records.contains(write.number), "\(write.number) was acknowledged before the mark")
        }
        if write.began > marked { #expect(!records.contains(write.number), "\(write.number) began after the mark") }
      }
      let revision = try await fixture.driver().query("REVISION", limit: QueryLimit()).rows
      #expect(revision == [[captured.result.position.value]])
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `revisions, versions and leases come back`() async throws {
    try await EtcdFixture.with { fixture in
      for value in ["one", "two", "three"] { try await fixture.control("put", "colour", value) }
      try await fixture.control("put", "gone", "x")
      try await fixture.control("del", "gone")
      let lease = try await fixture.control("lease", "grant", "600").split(separator: " ")[1]
      try await fixture.control("put", "--lease=\(lease)", "leased", "for a while")
      let before = try await fixture.control("get", "", "--prefix", "-w", "json")
      let captured = try await fixture.capture()
      try await fixture.control("put", "colour", "late")
      try await fixture.restore(captured)
      let after = try await fixture.control("get", "", "--prefix", "-w", "json")
      func keys(_ text: String) throws -> JSONValue? {
        try CanonicalJSON.decode(JSONValue.self, from: Array(text.utf8))["kvs"]
      }
      #expect(try keys(after) == keys(before), "with create and modification revisions, versions and leases")
      #expect(try await fixture.control("get", "colour", "--rev=22", "--print-value-only") == "one\n")
      #expect(try await fixture.control("lease", "timetolive", String(lease)).contains("granted with TTL(600s)"))
      #expect(captured.result.contentDigest?.parts["keys"]?.count == 22)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a server killed in the middle ends the capture`() async throws {
    try await EtcdFixture.with { fixture in
      let server = fixture.server
      // More than is on its way at once.
      for number in Int64(100)...160 {
        try await fixture.control("put", "large/\(number)", String(repeating: "x", count: 100_000))
      }
      try await expectFailure(
        "a killed server", { if case .unreachable = $0 { true } else if case .logGap = $0 { true } else { false } }
      ) {
        _ = try await fixture.capture(prepared: { await clients.run { server.stop(SIGKILL) } })
      }
      try await clients.run { try server.start() }
      _ = try await fixture.capture()
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `users and passwords are those of the server`() async throws {
    let directory = try TemporaryDirectory("secret")
    for (name, text) in [("root", "s3cret"), ("wrong", "guess"), ("reader", "reader")] {
      try Files.replace(directory.file(name), with: Array("\(text)\n".utf8))
    }
    try await EtcdFixture.with { fixture in
      try await fixture.control("user", "add", "root:s3cret")
      try await fixture.control("user", "grant-role", "root", "root")
      try await fixture.control("user", "add", "reader:reader")
      try await fixture.control("role", "add", "some")
      try await fixture.control("role", "grant-permission", "some", "read", "record/", "--prefix=true")
      try await fixture.control("user", "grant-role", "reader", "some")
      try await fixture.control("auth", "enable")
      func driver(_ user: String, _ file: String) throws -> any DataStoreDriver {
        try fixture.driver(.usual, ["user": .string(user), "password": .string("file:\(directory.file(file))")])
      }
      let root = try driver("root", "root")
      let captured = try await fixture.capture(root)
      #expect(captured.result.contentDigest?.parts["keys"]?.count == 20)
      _ = try await root.restoreBeside(captured.request())
      #expect(try await root.digestBeside(captured.request()) == captured.result.contentDigest)
      try await root.discardKept(captured.request())

      try await expectFailure("a wrong password", { if case .authenticationFailed = $0 { true } else { false } }) {
        _ = try await driver("root", "wrong").traits()
      }
      try await expectFailure("a right is missing", { if case .permissionDenied = $0 { true } else { false } }) {
        _ = try await fixture.capture(driver("reader", "reader"))
      }
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `a snapshot that isn't the described one is refused`() async throws {
    try await EtcdFixture.with { fixture in
      let first = try await fixture.capture()
      try await fixture.write(77, payload: "more")
      let second = try await fixture.capture()
      let driver = try fixture.driver()
      try await expectFailure("another snapshot", { if case .corrupt = $0 { true } else { false } }) {
        _ = try await driver.restoreBeside(first.request("other", from: second.tree))
      }
      try await expectFailure("no snapshot", { if case .corrupt = $0 { true } else { false } }) {
        _ = try await driver.restoreBeside(first.request("other", from: MemoryTree()))
      }
      try await driver.discardKept(first.request("other"))
    }
  }

  /// Connections are shared by address, and a descriptor's number comes back: one name for all sockets once let a server of another
  /// store answer for this one.
  @Test func `no two proving servers are reached at one address`() throws {
    let directory = try TemporaryDirectory("sockets")
    let place = try File(directory.path, O_RDONLY | O_DIRECTORY)
    let addresses = (1...4).map { _ in ProvingSocket().address(in: place) }
    #expect(Set(addresses).count == addresses.count)
  }

  @Test(.timeLimit(.minutes(5)))
  func `etcdctl alone brings it back`() async throws {
    try await EtcdFixture.with { fixture in
      let records = try await fixture.records()
      let captured = try await fixture.capture()
      await clients.run { fixture.server.stop() }
      try await fixture.destroyLive()
      let tree = fixture.server.directory.file("tree")
      try await captured.tree.materialise(TreePath(), at: tree, first: []) { _ in }
      try await fixture.control(
        "snapshot", "restore", "\(tree)/snapshot.db", "--data-dir", fixture.server.dataDirectory, "--name", "member",
        "--initial-cluster", "member=\(fixture.server.peerURL)", "--initial-advertise-peer-urls", fixture.server.peerURL
      )
      try await clients.run { try fixture.server.start() }
      #expect(try await fixture.records() == records)
    }
  }
}

extension EtcdFixture {
  /// Runs `body` with a server of its own, and ends it whatever happened.
  static func with<T>(_ body: (EtcdFixture) async throws -> T) async throws -> T {
    let fixture = try await start()
    do {
      let result = try await body(fixture)
      await fixture.shutDown()
      return result
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  func driver() throws -> any DataStoreDriver { try driver(.usual, [:]) }

  /// One capture; the hooks run where their names say.
  func capture(
    _ driver: (any DataStoreDriver)? = nil, prepared: () async throws -> Void = {},
    marked: () async throws -> Void = {}
  ) async throws -> Taken {
    let scratch = try TemporaryDirectory("scratch")
    let tree = MemoryTree()
    let session = try await (driver ?? self.driver()).capture(CaptureContext(sink: tree, scratch: scratch.path))
    do {
      try await session.prepare()
      try await prepared()
      try await session.hold(limit: .seconds(10))
      _ = try await session.mark()
      try await marked()
      _ = await session.release()
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
    let driver = try driver()
    _ = try await driver.restoreBeside(captured.request())
    let digest = try await driver.digestBeside(captured.request())
    try promise(digest == captured.result.contentDigest, "the digests differ")
    try await driver.stop()
    try await driver.swapIn(captured.request())
    try await driver.start()
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
