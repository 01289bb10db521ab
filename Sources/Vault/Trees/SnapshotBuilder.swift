import Core
import IO
import Synchronization

/// What a finished tree amounts to.
package struct TreeTotals: Hashable, Sendable {
  package var files: Int64 = 0
  package var directories: Int64 = 0
  /// Symbolic links, fifos, sockets and devices.
  package var others: Int64 = 0
  /// Content of regular files, before deduplication.
  package var bytes: Int64 = 0
  /// Bytes of content, and of trees, that the vault had not stored before.
  package var addedBytes: Int64 = 0
  package var addedTreeBytes: Int64 = 0

  package init() {}

  mutating func count(_ kind: FileKind) {
    switch kind {
    case .regular: files += 1
    case .directory: directories += 1
    default: others += 1
    }
  }

  mutating func add(_ other: TreeTotals) {
    files += other.files
    directories += other.directories
    others += other.others
    bytes += other.bytes
    addedBytes += other.addedBytes
    addedTreeBytes += other.addedTreeBytes
  }
}

/// A tree that is in the vault.
package struct BuiltTree: Hashable, Sendable {
  package var root: BlobID
  package var totals: TreeTotals
}

/// Takes a tree of files in any order, several at a time, and leaves it in the vault as restic would.
///
/// Content goes to the writer as it arrives; of the rest, only encoded nodes are kept. Nothing refers to the blobs
/// until a snapshot does, so an abandoned builder leaves nothing but what a prune removes.
package final class SnapshotBuilder: TreeSink {
  private let content: ContentStore
  private let writer: any BlobWriter
  private let draft = Mutex(Draft())
  private let accounts: AccountNames
  private let keepsAccessTimes: Bool
  private let reader: (any BlobReader)?

  private struct Draft: ~Copyable {
    let root = DirectoryDraft()
    var totals = TreeTotals()
    /// What went wrong and was not made good by a later try.
    var failures: [TreePath: String] = [:]
  }

  /// - Parameters:
  ///   - polynomial: The repository's own, so that cuts agree with restic's.
  ///   - keepsAccessTimes: Otherwise the time of modification stands in, as in restic: reading a directory changes its
  ///     access time, and no tree would be the same twice.
  ///   - parallel: Batches of blobs in memory at a time.
  ///   - reader: Knows what is stored, where files are to take over parts of it.
  package init(
    writer: any BlobWriter, polynomial: UInt64, pool: BlockingPool = .shared, accounts: AccountNames = .shared,
    keepsAccessTimes: Bool = false, parallel: Int = 2, reader: (any BlobReader)? = nil
  ) {
    self.reader = reader
    self.keepsAccessTimes = keepsAccessTimes
    self.writer = writer
    self.accounts = accounts
    content = ContentStore(writer: writer, chunker: RabinChunker(polynomial), pool: pool, parallel: parallel)
  }

  package convenience init(
    _ repository: Repository, pool: BlockingPool = .shared, keepsAccessTimes: Bool = false, parallel: Int = 2
  ) {
    self.init(
      writer: repository, polynomial: repository.config.chunkerPolynomial, pool: pool,
      keepsAccessTimes: keepsAccessTimes, parallel: parallel, reader: repository)
  }

  var store: ContentStore { content }

  // MARK: TreeSink

  package func add(
    _ path: TreePath, _ metadata: FileMetadata, cutting: Cutting = .content, content source: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    do throws(TreeError) {
      var node = TreeNode(name: path.last ?? "", metadata: metadata)
      var stored = StoredContent()
      if metadata.kind.isRegular, let source {
        stored = try await content.store(source, cutting: cutting, sizeHint: metadata.size)
      }
      node.metadata.size = metadata.kind.isRegular ? stored.size : 0
      node.content = stored.ids
      try put(node, at: path, added: stored.added)
      return StoredFile(size: stored.size, addedBytes: stored.added)
    } catch {
      draft.withLock { $0.failures[path] = "\(path): \(error.report.summary)" }
      throw AnyFailure(error)
    }
  }

  package func add(
    _ path: TreePath, _ metadata: FileMetadata, partBytes: Int, parts: [Digest?], content source: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    do throws(TreeError) {
      var node = TreeNode(name: path.last ?? "", metadata: metadata)
      guard metadata.kind.isRegular, let reader else { throw .badPath(path, why: "it can't take over parts") }
      var stored = StoredContent()
      if let source {
        stored = try await content.store(source, cutting: .fixed(bytes: partBytes), sizeHint: 0)
      }
      let missing = parts.count { $0 == nil }
      guard stored.ids.count == missing else {
        throw .badPath(path, why: "\(missing) parts of it were to be read, and \(stored.ids.count) came")
      }
      var new = stored.ids[...]
      var size: Int64 = 0
      for (index, part) in parts.enumerated() {
        guard let id = part ?? new.popFirst() else { continue }
        guard let length = reader.length(.data, id) else { throw .blobMissing(id, path) }
        // Only the last may be shorter, or the others would not be in their places.
        guard length == partBytes || (index == parts.count - 1 && length < partBytes) else {
          throw .badPath(path, why: "part \(index) has \(length) bytes instead of \(partBytes)")
        }
        size += Int64(length)
        node.content.append(id)
      }
      node.metadata.size = size
      try put(node, at: path, added: stored.added)
      return StoredFile(size: size, addedBytes: stored.added)
    } catch {
      draft.withLock { $0.failures[path] = "\(path): \(error.report.summary)" }
      throw AnyFailure(error)
    }
  }

  /// Writes every tree, deepest first, and returns the root's.
  ///
  /// - Throws: ``TreeError/incomplete(_:)`` if an ``add(_:_:cutting:content:)`` failed and was not repeated.
  package func finish() async throws(TreeError) -> BuiltTree {
    let (root, failures) = draft.withLock { ($0.root, $0.failures) }
    if !failures.isEmpty { throw .incomplete(failures.sorted { $0.key < $1.key }.map(\.value)) }
    let finished = try await finish(root, depth: 0)
    var totals = draft.withLock { $0.totals }
    totals.directories += finished.madeUp
    totals.addedTreeBytes += finished.added
    return BuiltTree(root: finished.id, totals: totals)
  }

  // MARK: Nodes

  /// Places a node whose content, or subtree, is stored already.
  ///
  /// - Parameter counted: Whether the totals have it already.
  func put(_ node: TreeNode, at path: TreePath, added: Int64, counted: Bool = false) throws(TreeError) {
    for name in path.components where FileName(untrusted: name.bytes) == nil {
      throw .badPath(path, why: "'\(name)' can't be a name in a directory")
    }
    guard path.components.count <= TreeLimits.depth else { throw .tooDeep(path) }
    guard let name = path.last else {
      guard node.metadata.kind.isDirectory else { throw .badPath(path, why: "the root is a directory") }
      return
    }
    let node = normalised(node)
    let encoded = node.metadata.kind.isDirectory && node.subtree == nil ? nil : TreeEncoder.encode(node)
    let problem = draft.withLock { draft -> TreeError? in
      var directory = draft.root
      for component in path.components.dropLast() {
        guard let next = directory.descend(component) else {
          return .badPath(path, why: "'\(component)' is no directory")
        }
        directory = next
      }
      if let encoded {
        guard directory.children[name] == nil, directory.nodes[name] == nil else { return .duplicate(path) }
        directory.nodes[name] = encoded
      } else {
        guard let child = directory.descend(name) else { return .badPath(path, why: "it is no directory") }
        guard child.metadata == nil else { return .duplicate(path) }
        child.metadata = node.metadata
      }
      directory.newest = max(directory.newest, node.metadata.modified)
      if !counted {
        draft.totals.count(node.metadata.kind)
        draft.totals.bytes += node.metadata.size
        draft.totals.addedBytes += added
      }
      draft.failures[path] = nil
      return nil
    }
    if let problem { throw problem }
  }

  /// Adds what was counted elsewhere, such as below a subtree that came finished.
  func count(_ body: (inout TreeTotals) -> Void) { draft.withLock { body(&$0.totals) } }

  func saveTree(_ nodes: [[UInt8]]) async throws(TreeError) -> (id: BlobID, added: Int) {
    do throws(VaultError) { return try await writer.save(.tree, TreeEncoder.join(nodes)) } catch { throw .vault(error) }
  }

  private struct Finished: Sendable {
    var id: BlobID
    var added: Int64
    var madeUp: Int64
    var newest: Timestamp
  }

  private func finish(_ directory: DirectoryDraft, depth: Int) async throws(TreeError) -> Finished {
    if Task.isCancelled { throw .cancelled }
    var nodes = directory.nodes.map { ($0.key, $0.value) }
    let children = directory.children
    var result = Finished(id: .of([]), added: 0, madeUp: 0, newest: directory.newest)
    func take(_ name: FileName, _ child: DirectoryDraft, _ finished: Finished) {
      result.added += finished.added
      result.madeUp += finished.madeUp
      var metadata = child.metadata
      if metadata == nil {
        metadata = plainDirectory(finished.newest)
        result.madeUp += 1
      }
      guard let metadata else { return }
      result.newest = max(result.newest, metadata.modified)
      let node = TreeNode(name: name, metadata: metadata, subtree: finished.id)
      nodes.append((name, TreeEncoder.encode(normalised(node))))
    }
    if children.count == 1 || depth > 64 {
      for (name, child) in children { take(name, child, try await finish(child, depth: depth + 1)) }
    } else if !children.isEmpty {
      do {
        try await withThrowingTaskGroup(of: (FileName, Finished).self) { group in
          for (name, child) in children {
            group.addTask { (name, try await self.finish(child, depth: depth + 1)) }
          }
          for try await (name, finished) in group {
            if let child = children[name] { take(name, child, finished) }
          }
        }
      } catch { throw TreeError(error) }
    }
    nodes.sort { $0.0 < $1.0 }
    let saved = try await saveTree(nodes.map(\.1))
    result.id = saved.id
    result.added += Int64(saved.added)
    return result
  }

  /// A parent nobody described: the newest time below it, so that the same tree always gets the same id.
  private func plainDirectory(_ newest: Timestamp) -> FileMetadata {
    FileMetadata(
      kind: .directory, permissions: 0o755, userName: accounts.user(0), groupName: accounts.group(0), modified: newest)
  }

  /// A node as it is stored. restic counts no links of directories, fifos and sockets.
  func normalised(_ node: TreeNode) -> TreeNode {
    var node = node
    if !keepsAccessTimes { node.metadata.accessed = node.metadata.modified }
    switch node.metadata.kind {
    case .directory, .fifo, .socket: node.metadata.links = 0
    default: break
    }
    return node
  }
}

/// A directory under construction; guarded by the builder's lock until ``SnapshotBuilder/finish()``.
private final class DirectoryDraft: @unchecked Sendable {
  var metadata: FileMetadata?
  var children: [FileName: DirectoryDraft] = [:]
  /// Encoded entries that are no directories, or whose tree is stored already.
  var nodes: [FileName: [UInt8]] = [:]
  var newest = Timestamp(nanoseconds: 0)

  func descend(_ name: FileName) -> DirectoryDraft? {
    if let child = children[name] { return child }
    guard nodes[name] == nil else { return nil }
    let child = DirectoryDraft()
    children[name] = child
    return child
  }
}
