import Core
import DriverKit
import IO

/// Every promise of ``DriverKit/DataStoreDriver``, as one function each; a driver keeps them all.
///
/// The functions throw ``ContractBroken`` with what was promised and what was seen. Those about holding are for stores
/// whose traits say `held`; see ``DriverFixture`` for how to use this from a test file.
package struct DriverContract<Fixture: DriverFixture>: Sendable {
  package init() {}

  /// Runs `body` with a store of its own and ends the store whatever happened.
  package func withStore<T>(_ body: (Fixture) async throws -> T) async throws -> T {
    let fixture = try await Fixture.start()
    do {
      let result = try await body(fixture)
      await fixture.shutDown()
      return result
    } catch {
      await fixture.shutDown()
      throw error
    }
  }

  /// Runs `body` with a session, and closes it whatever happened.
  func withSession<T>(
    of driver: any DataStoreDriver, into sink: any TreeSink, wantsContentDigest: Bool = true,
    _ body: (any CaptureSession) async throws -> T
  ) async throws -> T {
    let scratch = try TemporaryDirectory("scratch")
    let session = try await driver.capture(
      CaptureContext(sink: sink, scratch: scratch.path, wantsContentDigest: wantsContentDigest))
    do {
      let result = try await body(session)
      await session.close()
      withExtendedLifetime(scratch) {}
      return result
    } catch {
      await session.close()
      throw error
    }
  }

  /// A whole capture, in the order the port asks for.
  package func capture(_ fixture: Fixture) async throws -> Captured {
    let tree = MemoryTree()
    let driver = try fixture.driver(.usual)
    return try await withSession(of: driver, into: tree) { session in
      try await session.prepare()
      try await session.hold(limit: .seconds(60))
      let position = try await session.mark()
      let wasHeld = await session.release()
      if fixture.isHeld { try promise(wasHeld, "release() says true when the hold was in force to the end") }
      let result = try await session.finish()
      if fixture.isHeld {
        try promise(result.position == position, "the content is at the mark \(position), not at \(result.position)")
      }
      try promise(!tree.entries.isEmpty, "a capture puts something into the sink")
      try promise(
        result.sizeBytes == tree.totalBytes,
        "sizeBytes (\(result.sizeBytes)) is what the sink got (\(tree.totalBytes))")
      return Captured(tree: tree, result: result)
    }
  }

  func liveBytes(_ fixture: Fixture) async throws -> [String: String] { try await fixture.liveContent() }

  func withoutWorkspaces(_ fixture: Fixture, _ body: () async throws -> Void) async throws {
    try await fixture.withoutKept(body)
  }

  /// Nothing lies next to the live state any more.
  func expectNoLeftovers(_ fixture: Fixture) async throws {
    let left = try await fixture.leftovers()
    try promise(left.isEmpty, "discardKept leaves nothing beside, but there is \(left)")
  }
}

/// What a whole capture gave.
package struct Captured: Sendable {
  package var tree: MemoryTree
  package var result: CaptureResult

  package func request(_ id: String = "contract-1", from other: MemoryTree? = nil) -> RestoreRequest {
    RestoreRequest(id: id, source: other ?? tree, capture: result)
  }
}

/// - Returns: Path to kind, rights, owner, time and digest, for everything at and below `paths`.
func fingerprint(of paths: [String]) throws -> [String: String] {
  var result: [String: String] = [:]
  func visit(_ path: String) throws {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    var text = "\(String(status.st_mode, radix: 8)) \(status.st_uid):\(status.st_gid)"
    switch status.st_mode & S_IFMT {
    case S_IFREG: text += " \(status.st_mtim.tv_sec).\(status.st_mtim.tv_nsec) \(Digest.of(try Files.read(path)))"
    case S_IFDIR: for name in try Files.names(in: path) { try visit("\(path)/\(name.lossyText)") }
    default: break
    }
    result[path] = text
  }
  for path in paths { try visit(path) }
  return result
}

#if canImport(Glibc)
  import Glibc
#endif
