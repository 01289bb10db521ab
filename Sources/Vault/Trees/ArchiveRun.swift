import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// An archive under way: one worker at a time walks on, all of them read, cut and save what the walk found.
final class ArchiveRun: Sendable {
  private let builder: SnapshotBuilder
  private let options: ArchiveOptions
  private let pool: BlockingPool
  private let state = Mutex(Shared())
  /// Held by the worker that walks.
  private let turn = Gate(limit: 1)
  private let walk = Mutex(Walk())

  private struct Shared {
    var report = ArchiveReport()
    var progress = ArchiveProgress()
  }

  private struct Walk {
    var stack: [Frame] = []
    var targets: [(target: TreePath, parentTree: [TreeNode])] = []
    var enteredTargets = 0
    /// Directories that may be open beside those being walked: each is a descriptor.
    var openLimit = 1
    var lastFailure: SystemFailure?
  }

  /// A directory being walked.
  private struct Frame: Sendable {
    var directory: OpenDirectory
    var entries: [(name: FileName, metadata: FileMetadata)]
    var next = 0
    /// Directories among the entries that were listed already, by their index.
    var prepared: [Int: Result<Listing, SystemFailure>] = [:]
  }

  /// A directory that was opened and read.
  private struct Listing: Sendable {
    var reader: DirectoryReader
    var entries: [(name: FileName, metadata: FileMetadata)] = []
    var problems: [SystemFailure] = []
    var parentTree: BlobID?
    var parentNodes: [TreeNode] = []
  }

  /// One entry for a worker.
  private enum Item: Sendable {
    /// A file to read.
    case read(OpenDirectory, FileName, FileMetadata)
    /// A node that needs no reading.
    case done(OpenDirectory, TreeNode)
    /// The walk has left this directory.
    case left(OpenDirectory)
  }

  init(_ builder: SnapshotBuilder, _ options: ArchiveOptions, _ pool: BlockingPool) {
    (self.builder, self.options, self.pool) = (builder, options, pool)
  }

  var report: ArchiveReport {
    state.withLock { state in
      var report = state.report
      report.problems.sort()
      report.notes.sort()
      return report
    }
  }

  func begin(_ targets: [TreePath]) async throws {
    var found: [(target: TreePath, parentTree: [TreeNode])] = []
    var described: Set<TreePath> = []
    // The walk keeps every directory above it open.
    let files = Files.raiseOpenFileLimit()
    walk.withLock { $0.openLimit = max(1, files / 3) }
    for target in targets {
      // The directories on the way, with their own metadata.
      for count in 1..<max(1, target.components.count) {
        let path = TreePath(Array(target.components.prefix(count)))
        guard described.insert(path).inserted else { continue }
        do {
          let metadata = try await pool.run { () throws(SystemFailure) in
            try DirectoryReader.at(path).metadata()
          }
          try builder.put(TreeNode(name: path.last ?? "", metadata: metadata), at: path, added: 0)
        } catch let error as SystemFailure { note("/\(path): \(error.report.summary)") }
      }
      found.append((target, await parentNodes(of: target)))
    }
    walk.withLock { $0.targets = found.reversed() }
  }

  /// One worker, until nothing is left.
  func work() async throws {
    while true {
      try Task.checkCancellation()
      let items = try await nextItems()
      if items.isEmpty { return }
      try await handle(items)
    }
  }

  // MARK: Walking

  private func nextItems() async throws(VaultError) -> [Item] {
    try await turn.through { () throws(VaultError) in
      do { return try await walkOn() } catch {
        throw error is CancellationError ? .cancelled : .outside(AnyFailure(error))
      }
    }
  }

  private func walkOn() async throws -> [Item] {
    var items: [Item] = []
    var bytes: Int64 = 0
    // A directory stays open until its files were read; with one file each, batches would have thousands.
    var entered = 0
    let enterLimit = walk.withLock { max(1, $0.openLimit / (options.workers + 1)) }
    while items.count < Self.batchItems, bytes < Self.batchBytes {
      if Task.isCancelled { throw CancellationError() }
      let step = walk.withLock { walk -> Step in
        guard let top = walk.stack.indices.last else {
          return walk.targets.popLast().map { .target($0.target, $0.parentTree) } ?? .end
        }
        guard walk.stack[top].next < walk.stack[top].entries.count else {
          return .leave(walk.stack.removeLast().directory)
        }
        let frame = walk.stack[top]
        walk.stack[top].next += 1
        return .entry(
          frame.directory, frame.next, frame.entries[frame.next].name, frame.entries[frame.next].metadata)
      }
      switch step {
      case .end: return items
      case .target(let path, let nodes):
        if let item = try await enterTarget(path, nodes) { items.append(item) }
      case .leave(let directory): items.append(.left(directory))
      case .entry(let directory, let index, let name, let metadata):
        let path = directory.path.appending(name)
        if options.excludes.contains(where: { $0.matches(path) }) { continue }
        directory.expect()
        if metadata.kind.isDirectory {
          if let item = try await enter(directory, index, name, metadata) { items.append(item) }
          entered += 1
          if entered >= enterLimit, !items.isEmpty { return items }
        } else if metadata.kind.isRegular {
          if let content = unchanged(directory.parentNode(name), metadata) {
            count(metadata.size, isUnchanged: true)
            items.append(.done(directory, TreeNode(name: name, metadata: metadata, content: content)))
          } else {
            bytes += metadata.size
            items.append(.read(directory, name, metadata))
          }
        } else {
          items.append(.done(directory, TreeNode(name: name, metadata: metadata)))
        }
      }
    }
    return items
  }

  private enum Step {
    case target(TreePath, [TreeNode])
    case entry(OpenDirectory, Int, FileName, FileMetadata)
    case leave(OpenDirectory)
    case end
  }

  /// Walks into a directory next.
  ///
  /// - Returns: `nil`, unless the directory can't be read and its parent must hear of it.
  private func enter(
    _ parent: OpenDirectory, _ index: Int, _ name: FileName, _ metadata: FileMetadata
  ) async throws -> Item? {
    func prepared() -> Result<Listing, SystemFailure>? {
      walk.withLock { $0.stack[$0.stack.count - 1].prepared.removeValue(forKey: index) }
    }
    var listing = prepared()
    if listing == nil {
      try await prepare(from: index)
      listing = prepared()
    }
    switch listing {
    case .success(let listing):
      for failure in listing.problems { problem(failure) }
      let directory = OpenDirectory(
        listing.reader, path: parent.path.appending(name), metadata: metadata, parent: parent,
        parentTree: listing.parentTree, parentNodes: listing.parentNodes, device: metadata.device)
      walk.withLock { $0.stack.append(Frame(directory: directory, entries: listing.entries)) }
      return nil
    case .failure(let failure):
      problem(failure)
      return .left(parent)
    case nil: return .left(parent)
    }
  }

  /// Lists the next directories of the topmost frame, from one of its entries on: several in one go, because each is small
  /// and handing work over is what costs. Not many at once: what was listed long ago isn't true any more.
  private func prepare(from index: Int) async throws {
    let (parent, entries, limit) = walk.withLock { walk in
      let frame = walk.stack[walk.stack.count - 1]
      let open = walk.stack.reduce(0) { $0 + $1.prepared.count }
      return (frame.directory, frame.entries, max(1, min(Self.preparedDirectories, walk.openLimit - open)))
    }
    let options = options
    var listed = await pool.run { () -> [(index: Int, listing: Result<Listing, SystemFailure>)] in
      var result: [(index: Int, listing: Result<Listing, SystemFailure>)] = []
      var (count, bytes): (Int, Int64) = (0, 0)
      for index in index..<entries.count where entries[index].metadata.kind.isDirectory {
        let (name, metadata) = entries[index]
        if !result.isEmpty, options.excludes.contains(where: { $0.matches(parent.path.appending(name)) }) { continue }
        do throws(SystemFailure) {
          var listing = Listing(reader: try parent.reader.directory(name))
          let isForeign = options.staysOnFileSystem && metadata.device != parent.device
          if !isForeign { (listing.entries, listing.problems) = try Self.list(listing.reader) }
          count += listing.entries.count
          for entry in listing.entries { bytes += entry.metadata.size }
          result.append((index, .success(listing)))
        } catch { result.append((index, .failure(error))) }
        if result.count == limit || count > Self.preparedEntries || bytes > Self.preparedBytes {
          break
        }
      }
      return result
    }
    var subtrees: [BlobID] = []
    for position in listed.indices {
      guard case .success(var listing) = listed[position].listing else { continue }
      listing.parentTree = parent.parentNode(entries[listed[position].index].name)?.subtree
      if let subtree = listing.parentTree { subtrees.append(subtree) }
      listed[position].listing = .success(listing)
    }
    if !subtrees.isEmpty, let before = options.parent {
      let nodes = await parentNodes(of: subtrees, in: before)
      for position in listed.indices {
        guard case .success(var listing) = listed[position].listing, let subtree = listing.parentTree else { continue }
        listing.parentNodes = nodes[subtree] ?? []
        listed[position].listing = .success(listing)
      }
    }
    let done = listed
    walk.withLock { walk in
      for (index, listing) in done { walk.stack[walk.stack.count - 1].prepared[index] = listing }
    }
  }

  private static let preparedDirectories = 64
  private static let preparedEntries = 20_000
  private static let preparedBytes: Int64 = 64 << 20

  private func enterTarget(_ path: TreePath, _ nodes: [TreeNode]) async throws -> Item? {
    do {
      guard let name = path.last else {
        let (reader, metadata) = try await pool.run { () throws(SystemFailure) in
          let reader = try DirectoryReader("/")
          return (reader, try reader.metadata())
        }
        let root = OpenDirectory(
          reader, path: path, metadata: metadata, parent: nil, parentNodes: nodes, device: metadata.device)
        let entries = try await list(root)
        walk.withLock { walk in
          walk.stack.append(Frame(directory: root, entries: entries))
          walk.enteredTargets += 1
        }
        return nil
      }
      let (parentReader, metadata) = try await pool.run { () throws(SystemFailure) in
        let reader = try DirectoryReader.at(path.parent)
        return (reader, try reader.metadata(of: name))
      }
      // A stand-in for the directory above, whose only entry is the target.
      let above = OpenDirectory(
        parentReader, path: path.parent, metadata: nil, parent: nil, parentNodes: nodes, device: metadata.device)
      walk.withLock { walk in
        walk.stack.append(Frame(directory: above, entries: [(name, metadata)]))
        walk.enteredTargets += 1
      }
      return nil
    } catch let error as SystemFailure {
      problem(error)
      walk.withLock { $0.lastFailure = error }
      return nil
    }
  }

  /// - Throws: If not one target could be entered: an empty snapshot would look like a backup.
  func checkEntered() throws(TreeError) {
    let (entered, failure) = walk.withLock { ($0.enteredTargets, $0.lastFailure) }
    if entered == 0, let failure { throw .system(failure) }
  }

  private func list(_ directory: OpenDirectory) async throws -> [(name: FileName, metadata: FileMetadata)] {
    let (entries, problems) = try await pool.run { () throws(SystemFailure) in try Self.list(directory.reader) }
    for failure in problems { problem(failure) }
    return entries
  }

  /// Blocks.
  private static func list(
    _ reader: DirectoryReader
  ) throws(SystemFailure) -> (entries: [(name: FileName, metadata: FileMetadata)], problems: [SystemFailure]) {
    var entries: [(name: FileName, metadata: FileMetadata)] = []
    var problems: [SystemFailure] = []
    for name in try reader.names() {
      do throws(SystemFailure) { entries.append((name, try reader.metadata(of: name))) } catch {
        problems.append(error)
      }
    }
    return (entries, problems)
  }

  // MARK: The parent snapshot

  private func parentNodes(of target: TreePath) async -> [TreeNode] {
    guard let parent = options.parent else { return [] }
    do throws(TreeError) {
      return try await parent.nodes(of: try await parent.tree(at: target.parent))
    } catch { return [] }
  }

  /// Trees of the parent; one that can't be used is noted, and its files are read again.
  private func parentNodes(of trees: [BlobID], in parent: SnapshotTree) async -> [BlobID: [TreeNode]] {
    let nodes = Collected<BlobID, [TreeNode]>()
    do throws(VaultError) {
      try await parent.reader.loadMany(.tree, trees, parallel: 2) { (id, bytes) throws(VaultError) -> Void in
        nodes.insert(id, try TreeParser.nodes(in: bytes, id: id))
      }
    } catch {
      // Which of them it is shows one by one.
      for tree in trees where !nodes.contains(tree) {
        do throws(TreeError) { nodes.insert(tree, try await parent.nodes(of: tree)) } catch {
          note("the parent's tree \(tree.short) can't be used: \(error.report.summary)")
        }
      }
    }
    return nodes.all
  }

  /// - Returns: The parent's content, if size, modification and change times and inode are the same and every blob
  ///   is still there.
  private func unchanged(_ old: TreeNode?, _ metadata: FileMetadata) -> [BlobID]? {
    guard let old, let parent = options.parent, old.metadata.kind.isRegular, old.metadata.size == metadata.size,
      old.metadata.modified == metadata.modified, old.metadata.changed == metadata.changed,
      old.metadata.inode == metadata.inode
    else { return nil }
    var size: Int64 = 0
    for id in old.content {
      guard let length = parent.reader.length(.data, id) else { return nil }
      size += Int64(length)
    }
    return size == metadata.size ? old.content : nil
  }

  // MARK: Reading and saving

  private func handle(_ items: [Item]) async throws {
    var contents = items.map { _ in Content.none }
    var saved: [SavedBlob] = []
    if items.contains(where: { if case .read = $0 { true } else { false } }) {
      (contents, saved) = try await builder.store.withBatch { batch in
        let contents = await pool.run { self.readSmall(items, into: batch) }
        return (contents, batch.count > 0 ? try await builder.store.writer.take(.data, batch) : [])
      }
      try await builder.store.writer.sendFull()
    }
    for (item, content) in zip(items, contents) {
      if Task.isCancelled { throw CancellationError() }
      switch item {
      case .left(let directory): try await settle(directory)
      case .done(let directory, let node):
        try await deliver(node, to: directory, StoredContent(size: node.metadata.size))
      case .read(let directory, let name, let before):
        let stored: StoredContent
        let metadata: FileMetadata
        switch content {
        case .none: continue
        case .small(let index, let size, let now):
          metadata = now
          let blob = index.map { saved[$0] }
          stored = StoredContent(
            ids: blob.map { [$0.id] } ?? [], size: size, added: blob.map { Int64($0.added) } ?? 0)
          count(size, isUnchanged: false, inParent: directory.parentNode(name))
        case .large(let file, let now):
          metadata = now
          do throws(TreeError) {
            stored = try await builder.store.store({ file }, cutting: .content, sizeHint: before.size) { bytes in
              self.count(Int64(bytes), isUnchanged: nil)
            }
          } catch {
            guard case .system(let failure) = error else { throw error }
            problem(failure)
            try await settle(directory)
            continue
          }
          count(0, isUnchanged: false, inParent: directory.parentNode(name))
          checkChanged(file, metadata)
        case .failed(let failure):
          problem(failure)
          try await settle(directory)
          continue
        }
        try await deliver(TreeNode(name: name, metadata: metadata, content: stored.ids), to: directory, stored)
      }
    }
  }

  private enum Content: Sendable {
    case none
    /// In the batch, unless it is empty.
    case small(index: Int?, size: Int64, FileMetadata)
    case large(File, FileMetadata)
    case failed(SystemFailure)
  }

  /// Opens every file, and reads those that fit one blob. Blocks.
  private func readSmall(_ items: [Item], into batch: BlobBatch) -> [Content] {
    var end = 0
    return items.map { item in
      guard case .read(let directory, let name, let metadata) = item else { return .none }
      do throws(SystemFailure) {
        let (file, status) = try directory.reader.open(name)
        var now = metadata
        if UInt64(status.st_ino) != metadata.inode || UInt64(status.st_dev) != metadata.device
          || Timestamp(status.st_ctim) != metadata.changed
        {
          // Another file has taken the name since, or this one has changed: take its metadata as they are now.
          now = try directory.reader.metadata(of: name)
        }
        guard status.st_size <= RabinChunker.minimum else { return .large(file, now) }
        // One byte more, to see whether the file has grown.
        let wanted = Int(status.st_size) + 1
        batch.reserve(end + wanted, keeping: end)
        let space = UnsafeMutableRawBufferPointer(rebasing: batch.buffer[end..<end + wanted])
        let count = try file.read(at: 0, into: space)
        if count == wanted, count > 1 { return .large(file, now) }
        checkChanged(file, now)
        guard count > 0 else { return .small(index: nil, size: 0, now) }
        batch.append(end..<end + count)
        end += count
        return .small(index: batch.count - 1, size: Int64(count), now)
      } catch { return .failed(error) }
    }
  }

  /// Notes a file that moved under the reader; its content may never have existed as a whole.
  private func checkChanged(_ file: File, _ before: FileMetadata) {
    guard let after = try? file.status() else { return }
    if Timestamp(after.st_mtim) != before.modified || Int64(after.st_size) != before.size {
      note("\(file.path) changed while it was read")
    }
  }

  private func deliver(_ node: TreeNode, to directory: OpenDirectory, _ stored: StoredContent) async throws {
    var node = node
    if node.metadata.kind.isRegular { node.metadata.size = stored.size }
    if directory.metadata == nil {
      try builder.put(node, at: directory.path.appending(node.name), added: stored.added)
    } else {
      directory.add(node)
      builder.count { totals in
        totals.count(node.metadata.kind)
        totals.bytes += node.metadata.size
        totals.addedBytes += stored.added
      }
    }
    try await settle(directory)
  }

  /// One entry less to wait for; the last one saves the tree and settles the directory above.
  private func settle(_ directory: OpenDirectory) async throws {
    var directory = directory
    while directory.settle() {
      guard let metadata = directory.metadata else { return }
      let nodes = directory.takeNodes()
      if directory.isRoot {
        for node in nodes { try builder.put(node, at: TreePath([node.name]), added: 0, counted: true) }
        return
      }
      let normal = nodes.map { [builder] in builder.normalised($0) }
      let saved: (id: BlobID, added: Int)
      if let same = directory.parentTree, normal == directory.parentNodes, isStored(same) {
        saved = (same, 0)
      } else {
        saved = try await builder.saveTree(normal.map { TreeEncoder.encode($0) })
      }
      builder.count { $0.addedTreeBytes += Int64(saved.added) }
      guard let parent = directory.parent, let name = directory.path.last else { return }
      let node = TreeNode(name: name, metadata: metadata, subtree: saved.id)
      if parent.metadata == nil {
        try builder.put(node, at: directory.path, added: 0)
      } else {
        builder.count { $0.count(.directory) }
        parent.add(node)
      }
      directory = parent
    }
  }

  private func isStored(_ tree: BlobID) -> Bool { options.parent?.reader.contains(.tree, tree) ?? false }

  // MARK: Reporting

  private func problem(_ failure: SystemFailure) {
    state.withLock { $0.report.problems.append(failure.report.summary) }
  }

  private func note(_ text: String) { state.withLock { $0.report.notes.append(text) } }

  /// - Parameters:
  ///   - isUnchanged: `nil` while a file is still being read.
  ///   - old: What the parent has in the file's place.
  private func count(_ bytes: Int64, isUnchanged: Bool?, inParent old: TreeNode? = nil) {
    let progress = state.withLock { state in
      state.progress.bytes += bytes
      if let isUnchanged {
        state.progress.files += 1
        if isUnchanged { state.report.unchangedFiles += 1 }
        if !isUnchanged, old?.metadata.kind == .regular { state.report.changedFiles += 1 }
      }
      return state.progress
    }
    options.progress(progress)
  }

  private static let batchItems = 256
  private static let batchBytes: Int64 = 4 << 20
}
