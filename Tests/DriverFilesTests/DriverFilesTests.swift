import CShim
import Core
import DriverContract
import DriverKit
import Foundation
import Glibc
import IO
import TestSupport
import Testing

@testable import DriverFiles

@Suite("Files") struct DriverFilesTests {
  let contract = DriverContract<FilesFixture>()

  /// What happens to the tree between the release and the copy.
  enum Change: String, CaseIterable { case rewritten, replaced, deleted, shortened, appended, added }

  @Test(arguments: Change.allCases)
  func `after the mark only growth and new files are allowed`(_ change: Change) async throws {
    try await contract.withStore { fixture in
      let tree = MemoryTree()
      let scratch = try TemporaryDirectory("scratch")
      let driver = try fixture.driver(.usual)
      let session = try await driver.capture(CaptureContext(sink: tree, scratch: scratch.path))
      try await session.prepare()
      try await session.hold(limit: .seconds(60))
      let mark = try await session.mark()
      #expect(await session.release())
      let file = fixture.root + "/records/1.txt"
      let before = try Files.read(file)
      switch change {
      case .rewritten: try Array("X".utf8).withRawBytes { try File(file, O_WRONLY).write($0, at: 0) }
      case .replaced: try Files.replace(file, with: before)
      case .deleted: unlink(file)
      case .shortened: try File(file, O_WRONLY).truncate(to: 3)
      case .appended: try Array("more".utf8).withRawBytes { try File(file, O_WRONLY | O_APPEND).write($0) }
      case .added: try Files.replace(fixture.root + "/records/new.txt", with: before)
      }
      switch change {
      case .rewritten, .replaced, .deleted, .shortened:
        let error = await #expect(throws: DriverError.self) { try await session.finish() }
        #expect(error?.report.code == "DRIVER-621", "\(String(describing: error))")
        #expect(error?.report.summary.contains("records/1.txt") == true)
      case .appended, .added:
        let result = try await session.finish()
        #expect(result.position == mark)
        #expect(tree.entries["documents/records/1.txt"]?.content == before)
        #expect(tree.entries["documents/records/new.txt"] == nil)
        let again = try await driver.restoreBeside(RestoreRequest(id: "again", source: tree, capture: result))
        #expect(again.position == mark)
      }
      await session.close()
    }
  }

  @Test func `marked without a hold, the tree is copied as it is found`() async throws {
    try await contract.withStore { fixture in
      let tree = MemoryTree()
      let scratch = try TemporaryDirectory("scratch")
      let session = try await fixture.driver(.usual).capture(CaptureContext(sink: tree, scratch: scratch.path))
      try await session.prepare()
      let mark = try await session.mark()
      #expect(mark.kind == "time", "nobody waited, so no listing has to hold")
      unlink(fixture.root + "/records/1.txt")
      _ = try await session.finish()
      #expect(tree.entries["documents/records/1.txt"] == nil)
      #expect(!tree.entries.isEmpty)
      await session.close()
    }
  }

  @Test func `metadata comes back: kinds, rights, times, attributes, links`() async throws {
    try await contract.withStore { fixture in
      let file = fixture.root + "/records/readme"
      try #require(salvor_lsetxattr(file, "user.note", "kept", 4) == 0)
      let captured = try await contract.capture(fixture)
      let driver = try fixture.driver(.usual)
      let before = try TreeReader.scan(fixture.root)
      _ = try await driver.restoreBeside(captured.request())
      try await driver.swapIn(captured.request())
      let after = try TreeReader.scan(fixture.root)
      #expect(after.map(\.path) == before.map(\.path))
      for (a, b) in zip(after, before) {
        #expect(a.metadata.kind == b.metadata.kind && a.metadata.permissions == b.metadata.permissions, "\(a.path)")
        #expect(a.metadata.modified == b.metadata.modified, "\(a.path)")
        #expect(a.metadata.extendedAttributes == b.metadata.extendedAttributes, "\(a.path)")
        #expect(a.metadata.links == b.metadata.links && a.metadata.userID == b.metadata.userID, "\(a.path)")
      }
      #expect(before.contains { $0.metadata.extendedAttributes.contains { $0.name == "user.note" } })
    }
  }

  @Test func `excluded entries are neither copied nor seen`() async throws {
    try await contract.withStore { fixture in
      let driver = try fixture.driver([
        "path": .string(fixture.root), "excludes": ["*.txt", "/records/deep", "**/pipe", "nothing/at/all"],
      ])
      let tree = MemoryTree()
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: tree, scratch: scratch.path))
      try await session.prepare()
      try await session.hold(limit: .seconds(60))
      _ = try await session.mark()
      _ = await session.release()
      _ = try await session.finish()
      await session.close()
      #expect(
        tree.entries.keys.map(\.description).sorted() == [
          "documents", "documents/.lock", "documents/empty", "documents/records", "documents/records/again",
          "documents/records/link", "documents/records/readme",
        ])
      #expect(
        try await driver.query("list *", limit: QueryLimit()).rows.map { $0[0] } == [
          ".lock", "records/again", "records/readme",
        ])
    }
  }

  @Test func `queries list and read, within their limits`() async throws {
    try await contract.withStore { fixture in
      let driver = try fixture.driver(.usual)
      let list = try await driver.query("list records/deep/**", limit: QueryLimit())
      #expect(list == QueryResult(columns: ["path", "size"], rows: [["records/deep/er/more", "300000"]]))
      let lines = try await driver.query("lines readme", limit: QueryLimit())
      #expect(
        lines
          == QueryResult(columns: ["path", "line"], rows: [["records/readme", "plain"], ["records/readme", "text"]]))
      // The link to /etc/passwd is not followed.
      #expect(try await driver.query("lines link", limit: QueryLimit()).rows.isEmpty)
      await #expect(throws: DriverError.self) { try await driver.query("list *", limit: QueryLimit(timeout: .zero)) }
    }
  }

  @Test func `a writer that keeps the lock makes the hold give up, and nobody waits then`() async throws {
    try await contract.withStore { fixture in
      let writer = try File(fixture.root + "/.lock", O_RDONLY)
      try #require(flock(writer.descriptor, LOCK_SH) == 0)
      let driver = try fixture.driver(.usual)
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      try await session.prepare()
      let error = await #expect(throws: DriverError.self) { try await session.hold(limit: .milliseconds(200)) }
      #expect(error?.report.code == "DRIVER-301", "\(String(describing: error))")
      #expect(await session.release() == false)
      try await fixture.write(77, payload: "x")
      await session.close()
      withExtendedLifetime(writer) {}
    }
  }

  @Test func `a lock file that is not there holds nobody, and that is said`() async throws {
    try await contract.withStore { fixture in
      let driver = try fixture.driver(["path": .string(fixture.root), "lockFile": "no-such-lock"])
      let error = await #expect(throws: DriverError.self) { try await driver.traits() }
      #expect(error?.report.summary.contains("no-such-lock") == true)
      let scratch = try TemporaryDirectory("scratch")
      let session = try await driver.capture(CaptureContext(sink: MemoryTree(), scratch: scratch.path))
      await #expect(throws: DriverError.self) { try await session.prepare() }
      await session.close()
    }
  }

  @Test func `a file that changes all the time is copied and told, without a lock`() async throws {
    try await LooseFilesFixture.start().withRestlessFile { fixture, file in
      let captured = try await DriverContract<LooseFilesFixture>().capture(fixture)
      #expect(captured.result.notes.contains { $0.contains(file) }, "\(captured.result.notes)")
      _ = try await fixture.driver(.usual).restoreBeside(captured.request())
    }
  }

  @Test func `snapshots from a hostile hand are refused`() async throws {
    try await contract.withStore { fixture in
      let captured = try await contract.capture(fixture)
      let driver = try fixture.driver(.usual)
      for name in ["", "..", "a/b", "zz", "2e2e"] {
        var request = captured.request()
        request.capture.facts["directory"] = name == "a/b" ? Hex.encode(Array(name.utf8)) : name
        await #expect(throws: DriverError.self, "\(name)") { try await driver.restoreBeside(request) }
        #expect(try await !driver.precheck(request).isEmpty)
      }
    }
  }

  @Test func `patterns fit what a shell's would`() {
    func fits(_ pattern: String, _ path: String) -> Bool { PathPattern(pattern)?.fits(TreePath(path)) == true }
    #expect(fits("*.txt", "a/b/c.txt") && !fits("*.txt", "a/b.txt/c"))
    #expect(fits("/a/*", "a/b") && !fits("/a/*", "a/b/c") && !fits("/a", "b/a"))
    #expect(fits("a/**", "a/b/c") && fits("**/c", "c") && fits("a/**/d", "a/d") && !fits("a/**/d", "b/d"))
    #expect(fits("[ab]?", "x/bc") && !fits("[ab]?", "cb"))
  }
}

extension LooseFilesFixture {
  /// Runs `body` while somebody appends to a large file without pause.
  func withRestlessFile(_ body: (LooseFilesFixture, String) async throws -> Void) async throws {
    let path = files.root + "/restless"
    try Files.replace(path, with: [UInt8](repeating: 1, count: 6 << 20))
    let stop = WriteLog()
    let writing = Thread {
      guard let file = try? File(path, O_WRONLY) else { return }
      var byte: UInt8 = 0
      while !stop.isStopped {
        byte &+= 1
        try? withUnsafeBytes(of: byte) { try file.write($0, at: Int64(byte) * 20_000) }
        usleep(200)
      }
    }
    writing.start()
    defer { stop.stop() }
    try await body(self, "restless")
  }
}
