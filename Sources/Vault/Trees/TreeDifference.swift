import Core
import IO

/// How an entry differs between two trees, in restic's letters.
package struct TreeChange: Hashable, Sendable {
  package enum Modifier: Hashable, Sendable {
    case added
    case removed
    /// Another kind of thing has the name.
    case kind
    case content
    /// Mode, owner, times, attributes, or of a directory what is below it; the content of a file is the same.
    case metadata

    package var letter: String {
      switch self {
      case .added: "+"
      case .removed: "-"
      case .kind: "T"
      case .content: "M"
      case .metadata: "U"
      }
    }
  }

  package var path: TreePath
  package var modifiers: [Modifier]
  /// In the newer tree if it is there.
  package var isDirectory: Bool

  package var letters: String { modifiers.map(\.letter).joined() }
}

/// What was added to a tree, or removed from it.
package struct TreeChangeTotals: Hashable, Sendable {
  package var files = 0
  package var directories = 0
  /// Links, devices, pipes, sockets.
  package var others = 0
  package var dataBlobs = 0
  package var treeBlobs = 0
  /// Of the blobs, as files hold them.
  package var bytes = 0

  mutating func count(_ node: TreeNode) {
    switch node.metadata.kind {
    case .regular: files += 1
    case .directory: directories += 1
    default: others += 1
    }
  }
}

/// The differences of two trees; directories that are the same blob are not entered.
package struct TreeDifference: Sendable {
  package private(set) var changedFiles = 0
  package private(set) var added = TreeChangeTotals()
  package private(set) var removed = TreeChangeTotals()

  private let (before, after): (SnapshotTree, SnapshotTree)
  private let showsMetadata: Bool
  private var blobsBefore: Set<BlobKey> = []
  private var blobsAfter: Set<BlobKey> = []

  /// - Parameter showsMetadata: Tells of entries whose content is the same, too.
  package init(_ before: SnapshotTree, _ after: SnapshotTree, showsMetadata: Bool) {
    (self.before, self.after, self.showsMetadata) = (before, after, showsMetadata)
  }

  /// Calls `each` for every change, in order of path, parents first.
  package mutating func compare(_ each: (TreeChange) throws -> Void) async throws {
    blobsBefore.insert(BlobKey(kind: .tree, id: before.root))
    blobsAfter.insert(BlobKey(kind: .tree, id: after.root))
    try await compare(TreePath(), before.root, after.root, each)
    for key in blobsBefore.subtracting(blobsAfter) { Self.count(key, in: before.reader, &removed) }
    for key in blobsAfter.subtracting(blobsBefore) { Self.count(key, in: after.reader, &added) }
  }

  private static func count(_ key: BlobKey, in reader: any BlobReader, _ totals: inout TreeChangeTotals) {
    switch key.kind {
    case .data: totals.dataBlobs += 1
    case .tree: totals.treeBlobs += 1
    }
    totals.bytes += reader.length(key.kind, key.id) ?? 0
  }

  private static func note(_ node: TreeNode, _ blobs: inout Set<BlobKey>) {
    for id in node.content { blobs.insert(BlobKey(kind: .data, id: id)) }
    if let subtree = node.subtree { blobs.insert(BlobKey(kind: .tree, id: subtree)) }
  }

  private mutating func compare(
    _ place: TreePath, _ old: BlobID, _ new: BlobID, _ each: (TreeChange) throws -> Void
  ) async throws {
    guard place.components.count < TreeLimits.depth else { throw TreeError.tooDeep(place) }
    let (oldNodes, newNodes) = (try await before.nodes(of: old), try await after.nodes(of: new))
    // Trees are stored in order of name.
    var (i, j) = (0, 0)
    while i < oldNodes.count || j < newNodes.count {
      try Task.checkCancellation()
      if j == newNodes.count || (i < oldNodes.count && oldNodes[i].name < newNodes[j].name) {
        try await whole(place, oldNodes[i], .removed, each)
        i += 1
      } else if i == oldNodes.count || newNodes[j].name < oldNodes[i].name {
        try await whole(place, newNodes[j], .added, each)
        j += 1
      } else {
        try await both(place, oldNodes[i], newNodes[j], each)
        (i, j) = (i + 1, j + 1)
      }
    }
  }

  private mutating func both(
    _ place: TreePath, _ old: TreeNode, _ new: TreeNode, _ each: (TreeChange) throws -> Void
  ) async throws {
    Self.note(old, &blobsBefore)
    Self.note(new, &blobsAfter)
    let path = place.appending(new.name)
    var modifiers: [TreeChange.Modifier] = []
    if old.metadata.kind.nodeType != new.metadata.kind.nodeType { modifiers.append(.kind) }
    if old.metadata.kind.isRegular, new.metadata.kind.isRegular, old.content != new.content {
      modifiers.append(.content)
      changedFiles += 1
    } else if showsMetadata, old != new {
      modifiers.append(.metadata)
    }
    if !modifiers.isEmpty {
      try each(TreeChange(path: path, modifiers: modifiers, isDirectory: new.metadata.kind.isDirectory))
    }
    guard let below = old.subtree, let newBelow = new.subtree, below != newBelow else { return }
    try await compare(path, below, newBelow, each)
  }

  /// Something that is in one of the two only, with all that is below it.
  private mutating func whole(
    _ place: TreePath, _ node: TreeNode, _ modifier: TreeChange.Modifier, _ each: (TreeChange) throws -> Void
  ) async throws {
    guard place.components.count < TreeLimits.depth else { throw TreeError.tooDeep(place) }
    let path = place.appending(node.name)
    try each(TreeChange(path: path, modifiers: [modifier], isDirectory: node.metadata.kind.isDirectory))
    if modifier == .added {
      added.count(node)
      Self.note(node, &blobsAfter)
    } else {
      removed.count(node)
      Self.note(node, &blobsBefore)
    }
    guard let subtree = node.subtree else { return }
    for child in try await (modifier == .added ? after : before).nodes(of: subtree) {
      try await whole(path, child, modifier, each)
    }
  }
}
