import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// An archive under way: one worker at a time walks through what a survey lists, all of them read, cut and save what the walk
/// found.
final class ArchiveRun: Sendable {
  private let builder: SnapshotBuilder
  private let survey: Survey
  private let options: ArchiveOptions
  private let pool: BlockingPool
  private let earlier: EarlierTrees?
  private let state: SharedReport
  /// Held by the worker that walks.
  private let turn = Gate(limit: 1)
  private let walk = Mutex(Walk())
  /// Trees that are complete and not saved yet.
  private let trees = Mutex(BlobBatch())

  /// What the workers tell.
  private final class SharedReport: Sendable {
    private let state = Mutex((report: ArchiveReport(), progress: ArchiveProgress()))

    func change<T>(_ body: (inout ArchiveReport, inout ArchiveProgress) -> T) -> T {
      state.withLock { body(&$0.report, &$0.progress) }
    }
  }

  /// Touched only by the worker whose turn it is.
  private struct Walk {
    /// Listed, and not yet come to; the next one last.
    var steps: [Survey.Step] = []
    /// Directories from the target down to where the walk is.
    var stack: [Frame] = []
    /// Files of the topmost directory that are to be read, the next one last.
    var unread: [Survey.Entry] = []
    /// What the parent snapshot has above each target.
    var above: [TreePath: [TreeNode]] = [:]
    var items: [Item] = []
    var bytes: Int64 = 0
    /// Directories that the files among the items lie in, with those above that are opened on the way, and how many there
    /// may be: each is a descriptor.
    var entered = 0
    var enterLimit = 1
    var enteredTargets = 0
    var lastFailure: SystemFailure?
  }

  private struct Frame {
    var directory: OpenDirectory
    /// What the parent snapshot has in place of the directories still to come, the next one last.
    var subtrees: [BlobID?] = []
    /// Whether it counts among those entered.
    var isEntered = false
  }

  /// One entry for a worker.
  private enum Item: Sendable {
    /// A file to read.
    case read(OpenDirectory, FileName, FileMetadata)
    /// A node that needs no reading.
    case done(OpenDirectory, TreeNode)
    /// Nothing is pending in this directory any more.
    case settled(OpenDirectory)
  }

  /// What the walk can't go on without.
  private enum Need: Sendable {
    case nothing
    case steps
    case trees([BlobID])
  }

  init(_ builder: SnapshotBuilder, _ survey: Survey, _ options: ArchiveOptions, _ pool: BlockingPool) {
    (self.builder, self.survey, self.options, self.pool) = (builder, survey, options, pool)
    let state = SharedReport()
    self.state = state
    earlier = options.parent.map { parent in
      EarlierTrees(parent.reader) { text in state.change { report, _ in report.notes.append(text) } }
    }
  }

  var report: ArchiveReport {
    state.change { report, _ in
      report.problems.sort()
      report.notes.sort()
      return report
    }
  }

  func begin() async throws {
    var described: Set<TreePath> = []
    var above: [TreePath: [TreeNode]] = [:]
    for target in survey.targets {
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
      above[target.parent] = await earlierNodes(of: target.parent)
    }
    // Files that wait to be read keep the directories above them open.
    let files = Files.raiseOpenFileLimit()
    let (found, limit) = (above, max(1, files / 3 / (options.workers + 1)))
    walk.withLock { ($0.above, $0.enterLimit) = (found, limit) }
  }

  private func earlierNodes(of directory: TreePath) async -> [TreeNode] {
    guard let parent = options.parent else { return [] }
    do throws(TreeError) { return try await parent.nodes(of: try await parent.tree(at: directory)) } catch { return [] }
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

  /// - Throws: If not one target could be entered: an empty snapshot would look like a backup.
  func checkEntered() throws(TreeError) {
    let (entered, failure) = walk.withLock { ($0.enteredTargets, $0.lastFailure) }
    if entered == 0, let failure { throw .system(failure) }
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
    while true {
      try Task.checkCancellation()
      switch await pool.run({ [self] in walk.withLock { walkOn(&$0) } }) {
      case .nothing: return takeItems()
      case .trees(let trees): await earlier?.load(trees)
      case .steps:
        let steps = await survey.next()
        if steps.isEmpty {
          if survey.isCut { throw CancellationError() }
          walk.withLock { walk in while let frame = walk.stack.popLast() { settle(frame.directory, &walk) } }
          return takeItems()
        }
        walk.withLock { $0.steps = steps.reversed() }
      }
    }
  }

  private func takeItems() -> [Item] {
    walk.withLock { walk in
      defer { (walk.items, walk.bytes, walk.entered) = ([], 0, 0) }
      return walk.items
    }
  }

  /// Keeps a processor busy.
  private func walkOn(_ walk: inout Walk) -> Need {
    while walk.items.count < Self.batchItems, walk.bytes < Self.batchBytes {
      if let file = walk.unread.popLast(), let frame = walk.stack.last {
        walk.bytes += file.metadata.size
        walk.items.append(.read(frame.directory, file.name, file.metadata))
        continue
      }
      if walk.entered >= walk.enterLimit, !walk.items.isEmpty { return .nothing }
      guard let step = walk.steps.popLast() else { return .steps }
      while walk.stack.count > step.depth { settle(walk.stack.removeLast().directory, &walk) }
      if let missing = missingTrees(step, walk) {
        walk.steps.append(step)
        return .trees(missing)
      }
      enter(step, &walk)
    }
    return .nothing
  }

  /// Trees without which a directory can't be compared, and those that will be needed next.
  private func missingTrees(_ step: Survey.Step, _ walk: Walk) -> [BlobID]? {
    guard let earlier, step.depth > 0, step.failure == nil, let subtrees = walk.stack.last?.subtrees,
      let tree = subtrees.last.flatMap(\.self), case .absent = earlier.find(tree)
    else { return nil }
    return subtrees.suffix(EarlierTrees.levelLimit).reversed().compactMap(\.self)
  }

  private func enter(_ step: Survey.Step, _ walk: inout Walk) {
    let parent = walk.stack.last?.directory
    var tree: BlobID?
    if step.depth > 0 { tree = walk.stack[walk.stack.count - 1].subtrees.popLast().flatMap(\.self) }
    if let failure = step.failure {
      problem(failure)
      if let parent, let name = step.path.last, step.depth > 0 {
        parent.lose(name)
        settle(parent, &walk)
      } else {
        walk.lastFailure = failure
      }
      return
    }
    for failure in step.problems { problem(failure) }
    if step.depth == 0 { walk.enteredTargets += 1 }
    let (same, match, nodes) = compare(step, with: tree, walk)
    let directory = OpenDirectory(
      path: step.path, metadata: step.metadata, parent: step.depth > 0 ? parent : nil,
      earlier: same.map { .same($0) } ?? .nodes(nodes), earlierTree: same == nil && nodes.isEmpty ? nil : tree)
    var frame = Frame(directory: directory)
    var (totals, unchanged) = (TreeTotals(), ArchiveProgress())
    var done: [TreeNode] = []
    var subtrees = match.subtrees[...]
    for (index, entry) in step.entries.enumerated() {
      if entry.metadata.kind.isDirectory {
        frame.subtrees.append(
          index < match.count ? subtrees.popFirst() : directory.earlierNode(entry.name)?.subtree)
        continue
      }
      var node: TreeNode?
      if index >= match.count {
        if !entry.metadata.kind.isRegular {
          node = TreeNode(name: entry.name, metadata: entry.metadata)
        } else if let content = self.unchanged(directory.earlierNode(entry.name), entry.metadata) {
          node = TreeNode(name: entry.name, metadata: entry.metadata, content: content)
        } else {
          walk.unread.append(entry)
          continue
        }
      } else if same == nil {
        node = nodes[index]
      }
      if entry.metadata.kind.isRegular {
        unchanged.files += 1
        unchanged.bytes += entry.metadata.size
      }
      if let node, directory.metadata == nil {
        directory.expect(1)
        walk.items.append(.done(directory, node))
        continue
      }
      totals.count(entry.metadata.kind)
      totals.bytes += entry.metadata.size
      if let node { done.append(node) }
    }
    directory.add(done)
    directory.expect(frame.subtrees.count + walk.unread.count)
    frame.subtrees.reverse()
    walk.unread.reverse()
    walk.stack.append(frame)
    if !walk.unread.isEmpty {
      for index in walk.stack.indices.reversed() {
        // Then those above it are, too.
        if walk.stack[index].isEntered { break }
        walk.stack[index].isEntered = true
        walk.entered += 1
      }
    }
    let counted = totals
    builder.count { $0.add(counted) }
    count(unchanged)
  }

  /// What a directory has in common with the parent snapshot's.
  ///
  /// - Returns: The stored tree if it is the same, or else its nodes.
  private func compare(
    _ step: Survey.Step, with tree: BlobID?, _ walk: Walk
  ) -> (same: [UInt8]?, TreeMatcher.Match, nodes: [TreeNode]) {
    guard let earlier, let parent = options.parent else { return (nil, TreeMatcher.Match(), []) }
    if step.depth == 0 { return (nil, TreeMatcher.Match(), walk.above[step.path] ?? []) }
    guard let tree, case .tree(let stored) = earlier.find(tree) else { return (nil, TreeMatcher.Match(), []) }
    let match = TreeMatcher.match(stored, count: step.entries.count, length: { parent.reader.length(.data, $0) }) {
      builder.normalised(TreeNode(name: step.entries[$0].name, metadata: step.entries[$0].metadata))
    }
    if match.isWhole { return (stored, match, []) }
    do throws(TreeError) {
      let nodes = try TreeParser.parse(stored)
      // What fits by its spelling comes first there, too, unless they were stored in another order.
      let isInOrder = zip(nodes, step.entries).prefix(match.count).allSatisfy { $0.name == $1.name }
      return (nil, isInOrder ? match : TreeMatcher.Match(), nodes)
    } catch {
      earlier.giveUp(tree, error.report.summary)
      return (nil, TreeMatcher.Match(), [])
    }
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

  /// One entry less for the walk to wait for; what is as it was needs no worker.
  private func settle(_ directory: OpenDirectory, _ walk: inout Walk) {
    var directory = directory
    while directory.settle() {
      guard directory.isUnchanged, directory.metadata != nil, let parent = directory.parent, parent.metadata != nil,
        let tree = directory.earlierTree
      else { return walk.items.append(.settled(directory)) }
      deliver(directory, tree, to: parent)
      directory = parent
    }
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
      case .settled(let directory): try await finish(directory)
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
          count(size, isWhole: true, inParent: directory.earlierNode(name))
        case .large(let file, let now):
          metadata = now
          do throws(TreeError) {
            stored = try await builder.store.store({ file }, cutting: .content, sizeHint: before.size) { bytes in
              self.count(Int64(bytes), isWhole: false)
            }
          } catch {
            guard case .system(let failure) = error else { throw error }
            problem(failure)
            try await settle(directory)
            continue
          }
          count(0, isWhole: true, inParent: directory.earlierNode(name))
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
        let reader = try directory.reader()
        let (file, status) = try reader.open(name)
        var now = metadata
        if UInt64(status.st_ino) != metadata.inode || UInt64(status.st_dev) != metadata.device
          || Timestamp(status.st_ctim) != metadata.changed
        {
          // Another file has taken the name since, or this one has changed: take its metadata as they are now.
          now = try reader.metadata(of: name)
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
    if directory.settle() { try await finish(directory) }
  }

  /// Nothing is pending in it any more.
  private func finish(_ directory: OpenDirectory) async throws {
    var directory = directory
    while directory.metadata != nil {
      let tree: BlobID
      if directory.isUnchanged, !directory.isRoot, let same = directory.earlierTree {
        tree = same
      } else {
        let nodes = try directory.takeNodes()
        if directory.isRoot {
          for node in nodes { try builder.put(node, at: TreePath([node.name]), added: 0, counted: true) }
          return
        }
        let normal = nodes.map { [builder] in builder.normalised($0) }
        if case .nodes(let before) = directory.earlier, let same = directory.earlierTree, normal == before,
          isStored(same)
        {
          tree = same
        } else {
          tree = try await save(TreeEncoder.join(normal.map { TreeEncoder.encode($0) }))
        }
      }
      guard let parent = directory.parent else { return }
      if parent.metadata == nil {
        guard let name = directory.path.last, let metadata = directory.metadata else { return }
        try builder.put(TreeNode(name: name, metadata: metadata, subtree: tree), at: directory.path, added: 0)
      } else {
        deliver(directory, tree, to: parent)
      }
      guard parent.settle() else { return }
      directory = parent
    }
  }

  private func deliver(_ directory: OpenDirectory, _ tree: BlobID, to parent: OpenDirectory) {
    builder.count { $0.count(.directory) }
    if case .same = parent.earlier, tree == directory.earlierTree { return }
    guard let name = directory.path.last, let metadata = directory.metadata else { return }
    parent.add(TreeNode(name: name, metadata: metadata, subtree: tree))
  }

  /// Names a tree, and saves it with others: to wake a thread for it costs more than to seal it.
  private func save(_ tree: [UInt8]) async throws(TreeError) -> BlobID {
    let (id, full) = tree.withUnsafeBytes { bytes in
      let full = trees.withLock { batch -> BlobBatch? in
        batch.append(copying: bytes)
        guard batch.count >= Self.treesTogether || batch.ranges[batch.count - 1].upperBound >= Self.treeBytes else {
          return nil
        }
        defer { batch = BlobBatch() }
        return batch
      }
      return (PairedDigest.of(bytes), full)
    }
    if let full { try await save(full) }
    return id
  }

  /// Saves the trees that are left, once every worker is through: until then the snapshot's root is of no use.
  func saveTrees() async throws(TreeError) {
    let left = trees.withLock { batch in
      defer { batch = BlobBatch() }
      return batch
    }
    if left.count > 0 { try await save(left) }
  }

  private func save(_ batch: BlobBatch) async throws(TreeError) {
    let saved: [SavedBlob]
    do throws(VaultError) { saved = try await builder.store.writer.save(.tree, batch) } catch { throw .vault(error) }
    builder.count { $0.addedTreeBytes += saved.reduce(0) { $0 + Int64($1.added) } }
  }

  private func isStored(_ tree: BlobID) -> Bool { options.parent?.reader.contains(.tree, tree) ?? false }

  // MARK: Reporting

  private func problem(_ failure: SystemFailure) {
    state.change { report, _ in report.problems.append(failure.report.summary) }
  }

  private func note(_ text: String) { state.change { report, _ in report.notes.append(text) } }

  /// Files as in the parent.
  private func count(_ unchanged: ArchiveProgress) {
    if unchanged == ArchiveProgress() { return }
    options.progress(
      state.change { report, progress in
        report.unchangedFiles += unchanged.files
        progress.files += unchanged.files
        progress.bytes += unchanged.bytes
        return progress
      })
  }

  /// - Parameters:
  ///   - isWhole: Whether the file has been read to its end.
  ///   - old: What the parent has in the file's place.
  private func count(_ bytes: Int64, isWhole: Bool, inParent old: TreeNode? = nil) {
    options.progress(
      state.change { report, progress in
        progress.bytes += bytes
        if isWhole {
          progress.files += 1
          if old?.metadata.kind == .regular { report.changedFiles += 1 }
        }
        return progress
      })
  }

  private static let treesTogether = 64
  private static let treeBytes = 256 << 10
  private static let batchItems = 256
  private static let batchBytes: Int64 = 4 << 20
}
