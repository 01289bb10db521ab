import Core
import IO
import Synchronization

/// A repository's snapshots as a file system: directories are read when someone looks into them, contents when someone reads.
///
/// Snapshots that come or go while it is mounted show within a minute.
package final class SnapshotFileSystem: ReadOnlyFileSystem {
  private let repository: Repository
  private let passes: @Sendable (Snapshot) -> Bool
  private let ownsAsRoot: Bool
  private let tell: @Sendable (String) -> Void
  private let blobs: ReadCache<[UInt8]>
  private let trees: ReadCache<[TreeNode]>
  private let table: InodeTable
  private let layout: LayoutKeeper
  private let told = Mutex<Set<String>>([])

  /// - Parameters:
  ///   - cacheBytes: How much content is kept in memory; directories as much again.
  ///   - passes: Which snapshots are shown.
  ///   - ownsAsRoot: Shows everything as root's.
  ///   - tell: Takes a line for each damage, once.
  package init(
    _ repository: Repository, cacheBytes: Int = 64 << 20, ownsAsRoot: Bool = false,
    passes: @escaping @Sendable (Snapshot) -> Bool = { _ in true }, tell: @escaping @Sendable (String) -> Void
  ) {
    (self.repository, self.passes, self.ownsAsRoot, self.tell) = (repository, passes, ownsAsRoot, tell)
    blobs = ReadCache(limitBytes: cacheBytes) { (id) throws(VaultError) in
      let bytes = try await repository.load(.data, id)
      return (bytes, bytes.count + 128)
    }
    trees = ReadCache(limitBytes: cacheBytes) { (id) throws(VaultError) in
      let bytes = try await repository.load(.tree, id)
      // Parsed, a node takes about as much again.
      return (try TreeParser.nodes(in: bytes, id: id), 2 * bytes.count + 128)
    }
    table = InodeTable(salt: repository.settings.randomness.bytes(32))
    layout = LayoutKeeper(repository, passes)
  }

  /// Reads the list of snapshots; what is wrong at the start is better said before anything is mounted.
  package func prepare() async throws(VaultError) { _ = try await layout.current() }

  // MARK: Entries

  package func lookUp(_ name: FileName, in directory: UInt64) async throws(MountFault) -> FileAttributes {
    let parent = try entry(directory)
    switch parent.thing {
    case .above(let path):
      guard let thing = try await thing(at: path + [name]) else { throw .noEntry }
      let identity = table.identity(of: name, in: directory)
      let entry = InodeTable.Entry(thing: thing, identity: identity)
      let number = table.mention(entry, as: table.number(identity))
      return try await attributes(of: entry, number)
    case .snapshot(let stored):
      return try await lookUp(name, in: directory, tree: stored.snapshot.tree, top: directory)
    case .node(let node, let top):
      guard let tree = node.subtree else { throw .notDirectory }
      return try await lookUp(name, in: directory, tree: tree, top: top)
    }
  }

  private func lookUp(
    _ name: FileName, in directory: UInt64, tree: BlobID, top: UInt64
  ) async throws(MountFault) -> FileAttributes {
    let nodes = try await nodes(of: tree)
    // Ascending by name: a directory may have a million entries.
    var (low, high) = (0, nodes.count)
    while low < high {
      let middle = (low + high) / 2
      if nodes[middle].name < name { low = middle + 1 } else { high = middle }
    }
    guard low < nodes.count, nodes[low].name == name else { throw .noEntry }
    let identity = table.identity(of: nodes[low], named: name, in: directory, top: top)
    let entry = InodeTable.Entry(thing: .node(nodes[low], top: top), identity: identity)
    let number = table.mention(entry, as: table.number(identity))
    return try await attributes(of: entry, number)
  }

  package func forget(_ number: UInt64, count: UInt64) async { table.forget(number, count: count) }

  package func attributes(of number: UInt64) async throws(MountFault) -> FileAttributes {
    try await attributes(of: try entry(number), number)
  }

  private func attributes(of entry: InodeTable.Entry, _ number: UInt64) async throws(MountFault) -> FileAttributes {
    switch entry.thing {
    case .node(let node, _):
      var metadata = node.metadata
      if ownsAsRoot { (metadata.userID, metadata.groupID) = (0, 0) }
      // A backup may say 0; 1 tells find(1) nothing about the number of directories below.
      metadata.links = metadata.kind.isDirectory ? 1 : max(1, metadata.links)
      return FileAttributes(number: number, metadata: metadata, isFixed: true)
    case .snapshot(let stored):
      return FileAttributes(
        number: number, metadata: Self.directory(stored.snapshot.time), isFixed: true)
    case .above(let path):
      switch try await above(path) {
      case .directory(let modified, _)?:
        return FileAttributes(number: number, metadata: Self.directory(modified), isFixed: false)
      case .link(let target, let modified)?:
        return FileAttributes(number: number, metadata: Self.link(target, modified), isFixed: false)
      case .snapshot?, nil: throw .noEntry
      }
    }
  }

  private static func directory(_ modified: Timestamp) -> FileMetadata {
    virtual(FileMetadata(kind: .directory, permissions: 0o555, modified: modified, links: 1))
  }

  private static func link(_ target: [UInt8], _ modified: Timestamp) -> FileMetadata {
    var metadata = FileMetadata(
      kind: .symbolicLink(target: target), permissions: 0o777, modified: modified, links: 1)
    metadata.size = Int64(target.count)
    return virtual(metadata)
  }

  private static func virtual(_ metadata: FileMetadata) -> FileMetadata {
    var result = metadata
    (result.accessed, result.changed) = (metadata.modified, metadata.modified)
    return result
  }

  package func entries(of directory: UInt64) async throws(MountFault) -> [DirectoryEntry] {
    switch try entry(directory).thing {
    case .above(let path):
      guard case .directory(_, let children)? = try await above(path) else { throw .notDirectory }
      return children.map { name, node in
        let kind: FileKind = if case .link(let target, _) = node { .symbolicLink(target: target) } else { .directory }
        return DirectoryEntry(name: name, number: table.number(table.identity(of: name, in: directory)), kind: kind)
      }.sorted { $0.name < $1.name }
    case .snapshot(let stored): return try await entries(of: directory, stored.snapshot.tree, top: directory)
    case .node(let node, let top):
      guard let tree = node.subtree else { throw .notDirectory }
      return try await entries(of: directory, tree, top: top)
    }
  }

  private func entries(
    of directory: UInt64, _ tree: BlobID, top: UInt64
  ) async throws(MountFault) -> [DirectoryEntry] {
    try await nodes(of: tree).map { node in
      DirectoryEntry(
        name: node.name,
        number: table.number(table.identity(of: node, named: node.name, in: directory, top: top)),
        kind: node.metadata.kind)
    }
  }

  package func target(of link: UInt64) async throws(MountFault) -> [UInt8] {
    guard case .symbolicLink(let target) = try await attributes(of: link).metadata.kind else { throw .invalid }
    return target
  }

  package func extendedAttributes(of number: UInt64) async throws(MountFault) -> [ExtendedAttribute] {
    guard case .node(let node, _) = try entry(number).thing else { return [] }
    return node.metadata.extendedAttributes
  }

  // MARK: Contents

  package func open(_ number: UInt64) async throws(MountFault) -> OpenContent {
    guard case .node(let node, _) = try entry(number).thing else { throw .isDirectory }
    switch node.metadata.kind {
    case .regular: break
    case .directory: throw .isDirectory
    default: throw .invalid
    }
    var starts: [Int64] = [0]
    starts.reserveCapacity(node.content.count + 1)
    var end: Int64 = 0
    for id in node.content {
      guard let length = repository.length(.data, id) else { throw fault(.blobMissing(.data, id)) }
      end += Int64(length)
      starts.append(end)
    }
    guard end == node.metadata.size else {
      tellOnce("the blobs of '\(node.name.lossyText)' do not add up to its size")
      throw .inputOutput
    }
    return OpenContent(blobs: node.content, starts: starts)
  }

  package func read(_ content: OpenContent, offset: Int64, count: Int) async throws(MountFault) -> [UInt8] {
    let size = content.starts.last ?? 0
    guard offset >= 0, count > 0, offset < size else { return [] }
    let end = min(size, offset + Int64(min(count, 1 << 24)))
    // The last blob that begins at or before the offset; none is empty.
    var (low, high) = (0, content.blobs.count)
    while high - low > 1 {
      let middle = (low + high) / 2
      if content.starts[middle] <= offset { low = middle } else { high = middle }
    }
    var result: [UInt8] = []
    result.reserveCapacity(Int(end - offset))
    var index = low
    while index < content.blobs.count, content.starts[index] < end {
      let bytes: [UInt8]
      do throws(VaultError) { bytes = try await blobs.load(content.blobs[index]) } catch { throw fault(error) }
      let start = content.starts[index]
      // Lengths come from the index, bytes from the pack: they were compared, but not here.
      guard Int64(bytes.count) == content.starts[index + 1] - start else {
        tellOnce("blob \(content.blobs[index].short) has another length than the index says")
        throw .inputOutput
      }
      result += bytes[Int(max(offset, start) - start)..<Int(min(end, content.starts[index + 1]) - start)]
      index += 1
    }
    return result
  }

  // MARK: What lies below

  private func entry(_ number: UInt64) throws(MountFault) -> InodeTable.Entry {
    guard let entry = table.find(number) else { throw .noEntry }
    return entry
  }

  private func thing(at path: [FileName]) async throws(MountFault) -> InodeTable.Entry.Thing? {
    switch try await above(path) {
    case .snapshot(let stored)?: .snapshot(stored)
    case .directory?, .link?: .above(path)
    case nil: nil
    }
  }

  private func above(_ path: [FileName]) async throws(MountFault) -> MountLayout.Node? {
    do throws(VaultError) { return try await layout.current().node(at: path) } catch { throw fault(error) }
  }

  private func nodes(of tree: BlobID) async throws(MountFault) -> [TreeNode] {
    do throws(VaultError) { return try await trees.load(tree) } catch { throw fault(error) }
  }

  private func fault(_ error: VaultError) -> MountFault {
    if error != .cancelled { tellOnce(error.report.description) }
    return .inputOutput
  }

  private func tellOnce(_ line: String) {
    let isNew = told.withLock { $0.count < 10_000 && $0.insert(line).inserted }
    if isNew { tell(line) }
  }
}

/// The list of snapshots, at most a minute old.
private actor LayoutKeeper {
  private let repository: Repository
  private let passes: @Sendable (Snapshot) -> Bool
  private var snapshots: [Digest: StoredSnapshot] = [:]
  private var layout: MountLayout?
  private var readNanoseconds: Int64 = 0
  private var isReading = false

  init(_ repository: Repository, _ passes: @escaping @Sendable (Snapshot) -> Bool) {
    (self.repository, self.passes) = (repository, passes)
  }

  func current() async throws(VaultError) -> MountLayout {
    let now = repository.settings.time.monotonicNanoseconds()
    if let layout, isReading || now - readNanoseconds < 60_000_000_000 { return layout }
    isReading = true
    defer { isReading = false }
    let listed = Set(
      try await repository.access { store throws(StoreError) in try await store.list(.snapshot) }.compactMap(\.name.id))
    readNanoseconds = now
    if let layout, listed == Set(snapshots.keys) { return layout }
    for id in listed where snapshots[id] == nil {
      do throws(VaultError) {
        snapshots[id] = StoredSnapshot(id: id, snapshot: try await repository.loadSnapshot(id))
      } catch {
        switch error {
        case .snapshotNotFound, .snapshotDamaged: continue  // Forgotten since, or for `check` to tell of.
        default: throw error
        }
      }
    }
    snapshots = snapshots.filter { listed.contains($0.key) }
    // What a new snapshot needs was indexed before it was written.
    if layout != nil { try await repository.refreshIndex() }
    let shown = snapshots.values.filter { passes($0.snapshot) }
      .sorted { ($0.snapshot.time, $0.id) < ($1.snapshot.time, $1.id) }
    let new = MountLayout(shown)
    layout = new
    return new
  }
}
