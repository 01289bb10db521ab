import Core
import DriverKit
import IO
import Synchronization
import Vault

/// One store on its way into the vault.
final class CaptureInProgress: Sendable {
  struct Finished: Sendable {
    var tree: BuiltTree
    var result: CaptureResult
    var prepareNanoseconds: Int64
    var finishNanoseconds: Int64
  }

  private struct State {
    var session: (any CaptureSession)?
    var prepareNanoseconds: Int64 = 0
  }

  private let name: StoreName
  private let member: PointTaker.Member
  private let builder: SnapshotBuilder
  private let scratch: String
  private let wantsDigest: Bool
  private let time: any Timekeeper
  private let pool: BlockingPool
  private let progress: @Sendable (Int64) -> Void
  private let earlier: EarlierCaptures
  private let state = Mutex(State())

  init(
    name: StoreName, member: PointTaker.Member, builder: SnapshotBuilder, scratch: String, wantsDigest: Bool,
    time: any Timekeeper, pool: BlockingPool, earlier: EarlierCaptures, progress: @escaping @Sendable (Int64) -> Void
  ) {
    self.earlier = earlier
    (self.name, self.member, self.builder, self.scratch) = (name, member, builder, scratch)
    (self.wantsDigest, self.time, self.pool, self.progress) = (wantsDigest, time, pool, progress)
  }

  /// Asks the store what it can do, and copies ahead.
  func prepare() async throws(DriverError) -> Cut.Member {
    let start = time.monotonicNanoseconds()
    let scratch = scratch
    do throws(SystemFailure) {
      try await pool.run { () throws(SystemFailure) in
        try Files.removeTree(scratch)
        // Some engines write here as a user of their own; they are given this one directory, not its parent.
        try Files.createDirectory(scratch, mode: 0o700)
      }
    } catch { throw DriverError(error) }
    let traits = try await member.driver.traits()
    let (name, member, earlier) = (name, member, earlier)
    let session = try await member.driver.capture(
      CaptureContext(
        sink: PrefixedSink(below: TreePath([FileName(name.text)]), in: builder), scratch: scratch,
        wantsContentDigest: wantsDigest, progress: progress
      ) { () async throws(AnyFailure) in try await earlier.newest(of: name, member) })
    state.withLock { $0.session = session }
    try await session.prepare()
    state.withLock { $0.prepareNanoseconds = time.monotonicNanoseconds() - start }
    return Cut.Member(session: session, support: traits.hold)
  }

  /// Copies what remains, and closes the tree.
  func finish() async throws(DriverError) -> Finished {
    let (open, prepareNanoseconds) = state.withLock { ($0.session, $0.prepareNanoseconds) }
    guard let session = open else { throw .unsupported("finish before prepare") }
    let start = time.monotonicNanoseconds()
    let result = try await session.finish()
    do {
      // Beside the data, for whoever restores with stock tools: what this is, and where it stands.
      let facts = try CanonicalJSON.encode(result, pretty: true)
      let metadata = FileMetadata(kind: .regular, permissions: 0o600, size: Int64(facts.count), modified: time.now())
      _ = try await builder.add(TreePath("salvor/\(name).json"), metadata, cutting: .content) { MemorySource(facts) }
      let tree = try await builder.finish()
      return Finished(
        tree: tree, result: result, prepareNanoseconds: prepareNanoseconds,
        finishNanoseconds: time.monotonicNanoseconds() - start)
    } catch {
      throw .sink(AnyFailure(error))
    }
  }

  func close() async {
    let open = state.withLock { state in
      defer { state.session = nil }
      return state.session
    }
    await open?.close()
    let scratch = scratch
    await pool.run { try? Files.removeTree(scratch) }
  }
}

/// A part of a tree, as a tree of its own.
struct PrefixedSink: TreeSink {
  private let prefix: TreePath
  private let sink: any TreeSink

  init(below prefix: TreePath, in sink: any TreeSink) { (self.prefix, self.sink) = (prefix, sink) }

  func add(
    _ path: TreePath, _ metadata: FileMetadata, cutting: Cutting, content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    try await sink.add(prefix.appending(path), metadata, cutting: cutting, content: content)
  }

  func add(
    _ path: TreePath, _ metadata: FileMetadata, partBytes: Int, parts: [Digest?], content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    try await sink.add(prefix.appending(path), metadata, partBytes: partBytes, parts: parts, content: content)
  }
}

/// A part of a tree, read as a tree of its own.
package struct PrefixedSource: TreeSource {
  private let prefix: TreePath
  private let source: any TreeSource

  package init(below prefix: TreePath, in source: any TreeSource) { (self.prefix, self.source) = (prefix, source) }

  package func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] {
    try await source.entries(below: prefix.appending(root)).map { entry in
      TreeEntry(
        path: TreePath(Array(entry.path.components.dropFirst(prefix.components.count))), metadata: entry.metadata)
    }
  }

  package func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    try await source.contents(of: prefix.appending(path), limitBytes: limitBytes)
  }

  package func contents(of path: TreePath, range: Range<Int64>) async throws(AnyFailure) -> [UInt8] {
    try await source.contents(of: prefix.appending(path), range: range)
  }

  package func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    try await source.materialise(prefix.appending(root), at: directory, first: first, progress: progress)
  }
}
