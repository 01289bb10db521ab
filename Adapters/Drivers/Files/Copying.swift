import Core
import DriverKit
import Glibc
import IO
import Synchronization

/// Streams the entries of a listing into the sink, a few at a time.
final class Copying: Sendable {
  private struct State {
    var next = 0
    var lines: [TreePath: String] = [:]
    var sizeBytes: Int64 = 0
    var notes: [String] = []
    var unsaidNotes = 0
  }

  private let tree: Tree
  private let entries: [TreeEntry]
  /// Whether the listing is the mark, which every file must still fit.
  private let isListed: Bool
  private let name: FileName
  private let context: CaptureContext
  private let pool: BlockingPool
  private let state = Mutex(State())

  init(
    tree: Tree, entries: [TreeEntry], isListed: Bool, under name: FileName, context: CaptureContext, pool: BlockingPool
  ) {
    (self.tree, self.entries, self.isListed) = (tree, entries, isListed)
    (self.name, self.context, self.pool) = (name, context, pool)
  }

  var outcome: (lines: [TreePath: String], sizeBytes: Int64, notes: [String]) {
    state.withLock { state in
      let more =
        state.unsaidNotes > 0 ? ["\(state.unsaidNotes) more files changed or vanished while they were read"] : []
      return (state.lines, state.sizeBytes, state.notes + more)
    }
  }

  /// - Throws: ``DriverKit/DriverError/sink(_:)`` for what the sink says; the first error ends all.
  func run() async throws(DriverError) {
    do {
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<4 { group.addTask { try await self.work() } }
        try await group.waitForAll()
      }
    } catch {
      throw DriverError(error)
    }
  }

  private func work() async throws(DriverError) {
    while let entry = takeNext() {
      if Task.isCancelled { throw .cancelled }
      if entry.metadata.kind == .regular { try await copyFile(entry) } else { try await add(entry, nil) }
    }
  }

  private func takeNext() -> TreeEntry? {
    state.withLock { state in
      guard state.next < entries.count else { return nil }
      state.next += 1
      return entries[state.next - 1]
    }
  }

  private func copyFile(_ listed: TreeEntry) async throws(DriverError) {
    let (tree, isListed) = (tree, isListed)
    let opened: Opened
    do {
      opened = try await pool.run { () throws(SystemFailure) in try Opened(listed, in: tree, tries: isListed ? 1 : 3) }
    } catch {
      guard [ENOENT, ENOTDIR, ELOOP, EINVAL].contains(error.number) else { throw Tree.error(error) }
      if isListed { throw changed(listed.path, "is gone") }
      return note("\(listed.path) vanished before it was read and is not in the copy")
    }
    if isListed, let how = opened.difference(from: listed.metadata) { throw changed(listed.path, how) }
    let size = isListed ? listed.metadata.size : opened.metadata.size
    let source = ListedSource(opened, sizeBytes: size)
    try await add(TreeEntry(path: listed.path, metadata: isListed ? listed.metadata : opened.metadata), source)
    let after = source.after
    if isListed {
      if after.isShort { throw changed(listed.path, "became shorter") }
      if let metadata = after.metadata, let how = Opened.difference(of: metadata, from: listed.metadata) {
        throw changed(listed.path, how)
      }
    } else if !opened.isStable, after.isShort || after.metadata.map({ $0 != opened.identity }) ?? true {
      note("\(listed.path) changed while it was read; its copy may mix two states")
    }
  }

  private func add(_ entry: TreeEntry, _ source: ListedSource?) async throws(DriverError) {
    var content: OpenSource?
    if let source { content = { source.reader() } }
    let stored: StoredFile
    do {
      stored = try await context.sink.add(
        TreePath([name]).appending(entry.path), entry.metadata, cutting: .content, content: content)
    } catch {
      throw error.isCancellation ? .cancelled : .sink(error)
    }
    if let source, source.after.size != stored.size {
      throw .sink(AnyFailure(SystemFailure("read", path: "\(tree.root)/\(entry.path)", number: EIO)))
    }
    let line = digestText(entry.metadata, content: source?.after.digest)
    let done = state.withLock { state in
      state.lines[entry.path] = line
      state.sizeBytes += stored.size
      return state.sizeBytes
    }
    context.progress(done)
  }

  private func note(_ text: String) {
    state.withLock { state in
      if state.notes.count < 100 { state.notes.append(text) } else { state.unsaidNotes += 1 }
    }
  }

  private func changed(_ path: TreePath, _ how: String) -> DriverError {
    .system(
      .init(
        Report(
          "DRIVER-621", "\(tree.root)/\(path) \(how) after the mark, so it can't be copied as it was then",
          retry: .afterBackoff
        )
        .state("nobody waits for this capture any more")
        .remedy("take the point again; writers that replace files often should add new ones and delete old ones later"))
    )
  }
}

/// A file that was opened before the sink is asked to take it, so that one that is gone never gets there.
struct Opened: Sendable {
  /// What tells that a file is as it was.
  struct Identity: Sendable, Equatable {
    var device: UInt64
    var inode: UInt64
    var size: Int64
    var modified: Timestamp
    var changed: Timestamp

    init(_ status: stat) {
      (device, inode, size) = (UInt64(status.st_dev), UInt64(status.st_ino), Int64(status.st_size))
      (modified, changed) = (Timestamp(status.st_mtim), Timestamp(status.st_ctim))
    }
  }

  /// Files up to this size are read whole before they go to the sink, again if they changed meanwhile.
  static let wholeLimitBytes = 4 << 20

  let file: File
  let identity: Identity
  let metadata: FileMetadata
  /// The content, if it was read whole.
  let content: [UInt8]?
  /// Whether it is known that `content` is one state of the file.
  let isStable: Bool

  /// - Parameter tries: How often a small file is read until it holds still; 1 leaves that to whoever reads.
  init(_ listed: TreeEntry, in tree: Tree, tries: Int) throws(SystemFailure) {
    var (file, status) = try tree.open(listed.path)
    var content: [UInt8]?
    var isStable = false
    for attempt in 0..<(tries > 1 ? tries : 0) where !isStable {
      if attempt > 0 { (file, status) = try tree.open(listed.path) }
      guard Int64(status.st_size) <= Int64(Self.wholeLimitBytes) else {
        content = nil
        break
      }
      var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
      let count = try bytes.withMutableRawBytes { (raw) throws(SystemFailure) in try file.read(at: 0, into: raw) }
      isStable = Identity(status) == Identity(try file.status()) && count == bytes.count
      content = Array(bytes.prefix(count))
    }
    (self.file, self.content, self.isStable) = (file, content, isStable)
    identity = Identity(status)
    var metadata = listed.metadata
    metadata.permissions = UInt16(status.st_mode & 0o7777)
    (metadata.userID, metadata.groupID) = (status.st_uid, status.st_gid)
    (metadata.modified, metadata.changed, metadata.inode) = (identity.modified, identity.changed, identity.inode)
    metadata.size = content.map { Int64($0.count) } ?? identity.size
    self.metadata = metadata
  }

  func difference(from listed: FileMetadata) -> String? { Self.difference(of: identity, from: listed) }

  /// - Returns: `nil` if it is as listed, or only grew.
  static func difference(of found: Identity, from listed: FileMetadata) -> String? {
    if found.inode != listed.inode || found.device != listed.device { return "was replaced" }
    if found.size > listed.size { return nil }
    if found.size < listed.size { return "became shorter" }
    return found.modified != listed.modified || found.changed != listed.changed ? "was changed" : nil
  }
}

/// The first bytes of an open file, digested while they are read; may be opened again after a failure.
final class ListedSource: Sendable {
  struct After: Sendable {
    var size: Int64 = 0
    var digest: Digest?
    var isShort = false
    /// The file's identity when the end was reached.
    var metadata: Opened.Identity?
  }

  private let opened: Opened
  private let sizeBytes: Int64
  private let state = Mutex(After())

  init(_ opened: Opened, sizeBytes: Int64) { (self.opened, self.sizeBytes) = (opened, sizeBytes) }

  var after: After { state.withLock { $0 } }

  func reader() -> any ByteSource {
    state.withLock { $0 = After() }
    return Reader(self)
  }

  private final class Reader: ByteSource {
    private let source: ListedSource
    private var offset: Int64 = 0
    private var digest = RunningDigest()

    init(_ source: ListedSource) { self.source = source }

    func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int {
      let wanted = Int(min(Int64(buffer.count), source.sizeBytes - offset))
      var count = 0
      if wanted > 0 {
        let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted])
        if let content = source.opened.content {
          content.withUnsafeBytes {
            part.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[Int(offset)..<Int(offset) + wanted]))
          }
          count = wanted
        } else {
          count = try source.opened.file.read(at: offset, into: part)
        }
      }
      digest.update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      offset += Int64(count)
      if count == 0 { try source.ended(at: offset, digest.finish()) }
      return count
    }
  }

  private func ended(at size: Int64, _ digest: Digest) throws {
    let status = try opened.file.status()
    state.withLock {
      $0 = After(size: size, digest: digest, isShort: size < sizeBytes, metadata: Opened.Identity(status))
    }
  }
}
