import Core
import IO

/// How a tree is brought back.
package struct RestoreOptions: Sendable {
  /// What may stand in the target already.
  package enum Overwrite: Sendable, Equatable {
    /// Nothing: the target must be empty or absent.
    case never
    /// Other entries may stand beside; a name that is taken is a failure of that entry.
    case besides
    /// Anything, and what has a name of the snapshot's becomes what the snapshot says.
    case inPlace(Existing)
  }

  /// Which of the files that stand in the target already are touched; the words are restic's.
  package enum Existing: String, Sendable, CaseIterable {
    /// All: each is read, and what differs is written.
    case always
    /// All, but one of the same size and time of modification is not read.
    case ifChanged = "if-changed"
    /// Those that are older than in the snapshot.
    case ifNewer = "if-newer"
    /// None.
    case never
  }

  package var overwrite: Overwrite
  /// Files that are whole before others are begun, those of an earlier pattern before those of a later one; a directory
  /// stands for all that is below it.
  package var first: [ExcludePattern]
  /// Only these entries, and what is below them, with the directories on the way; empty for everything.
  package var include: [TreePath]
  /// Never these, nor what is below them.
  package var exclude: [ExcludePattern]
  /// Counts, and writes nothing.
  package var isDryRun: Bool
  package var rights: RestoreRights
  /// Packs read side by side.
  package var parallel: Int
  /// Files that stand in the target are read in slices of this many bytes, if they have two at least.
  package var sliceBytes: Int64 = 16 << 20
  package var progress: @Sendable (_ doneBytes: Int64) -> Void

  package init(
    overwrite: Overwrite = .never, first: [ExcludePattern] = [], include: [TreePath] = [],
    exclude: [ExcludePattern] = [], isDryRun: Bool = false,
    rights: RestoreRights = RestoreRights(), parallel: Int = 4,
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void = { _ in }
  ) {
    self.overwrite = overwrite
    self.first = first
    self.include = include
    self.exclude = exclude
    self.isDryRun = isDryRun
    self.rights = rights
    self.parallel = parallel
    self.progress = progress
  }
}

/// What a restore did.
package struct RestoreReport: Sendable, Equatable {
  package var totals = TreeTotals()
  /// Names that were made as further names of a file restored before.
  package var hardLinks: Int64 = 0
  /// Content that was in its place already, and content that was written, or would be.
  package var keptBytes: Int64 = 0
  package var writtenBytes: Int64 = 0
  /// Files that stayed as they were because that is what was asked for.
  package var leftFiles: Int64 = 0
  /// Entries that are missing or incomplete, with the reason. Empty: everything is as in the snapshot.
  package var failures: [String] = []
}

/// What is to be made, in the order in which it can be made; a value, computed before anything is written.
struct RestorePlan: Sendable {
  struct Directory: Sendable {
    var path: TreePath
    /// `nil` for the target itself, whose metadata is nobody's.
    var metadata: FileMetadata?
    /// Entries of this directory: indices into `files` and `others`, names of directories below.
    var files: Range<Int>
    var others: Range<Int>
    var children: [FileName] = []
  }

  struct File: Sendable {
    var name: FileName
    var directory: Int
    var metadata: FileMetadata
    var content: [BlobID]
    /// Bytes, by the blobs' lengths, which is what will be there.
    var size: Int64
    /// Of every blob but the last, which has no more; `nil` if they differ.
    var blobBytes: Int?
  }

  struct Other: Sendable {
    var name: FileName
    var metadata: FileMetadata
    /// The entry whose further name this is.
    var linkTo: Link?
  }

  enum Link: Hashable, Sendable {
    case file(Int)
    case other(directory: Int, Int)
  }

  /// A place that a blob goes to.
  struct Place: Sendable {
    var file: Int
    var offset: Int64
  }

  var directories: [Directory] = []
  var files: [File] = []
  var others: [Other] = []
  /// Blobs of files that have more than one, or whose blob goes elsewhere too: every id and its places.
  var places: [BlobID: [Place]] = [:]
  var totals = TreeTotals()

  /// How early each file comes: 0 for those of the first pattern.
  func ranks(_ first: [ExcludePattern]) -> [Int] {
    guard !first.isEmpty else { return [Int](repeating: 0, count: files.count) }
    func rank(_ path: TreePath) -> Int { first.firstIndex { $0.matches(path) } ?? first.count }
    var ofDirectories: [TreePath: Int] = [:]
    // Parents come before children.
    for directory in directories {
      let above = directory.path.components.isEmpty ? nil : ofDirectories[directory.path.parent]
      ofDirectories[directory.path] = min(above ?? first.count, rank(directory.path))
    }
    return files.map { file in
      let directory = directories[file.directory].path
      return min(ofDirectories[directory] ?? first.count, rank(directory.appending(file.name)))
    }
  }

  /// - Parameter length: The plaintext's length of a blob.
  init(
    _ trees: SnapshotTree.LoadedTrees, _ selection: RestoreSelection, length: (BlobID) -> Int?
  ) throws(TreeError) {
    var firstNames: [Inode: Link] = [:]
    let limit = trees.entryLimit
    // Parents come before children: the list grows while it is walked.
    var pending: [(tree: BlobID, path: TreePath)] = [(trees.root, TreePath())]
    directories.append(Directory(path: TreePath(), metadata: nil, files: 0..<0, others: 0..<0))
    var next = 0
    while next < pending.count {
      let (tree, path) = pending[next]
      if path.components.count > TreeLimits.depth { throw .tooDeep(path) }
      let (filesFrom, othersFrom) = (files.count, others.count)
      if files.count + others.count + directories.count > limit { throw .tooManyEntries(limit: limit) }
      for node in trees.nodes(tree) {
        if !selection.isEverything {
          let place = path.appending(node.name)
          guard selection.isWanted(place, isDirectory: node.metadata.kind.isDirectory) else { continue }
        }
        totals.count(node.metadata.kind)
        if let subtree = node.subtree {
          let place = path.appending(node.name)
          directories[next].children.append(node.name)
          directories.append(Directory(path: place, metadata: node.metadata, files: 0..<0, others: 0..<0))
          pending.append((subtree, place))
          continue
        }
        let inode = Inode(node.metadata)
        if let inode, let first = firstNames[inode], isSame(first, node) {
          others.append(Other(name: node.name, metadata: node.metadata, linkTo: first))
          continue
        }
        if node.metadata.kind.isRegular {
          if let inode { firstNames[inode] = .file(files.count) }
          try add(node, in: path, directory: next, length)
        } else {
          if let inode { firstNames[inode] = .other(directory: next, others.count) }
          others.append(Other(name: node.name, metadata: node.metadata, linkTo: nil))
        }
      }
      directories[next].files = filesFrom..<files.count
      directories[next].others = othersFrom..<others.count
      next += 1
    }
  }

  private mutating func add(
    _ node: TreeNode, in parent: TreePath, directory: Int, _ length: (BlobID) -> Int?
  ) throws(TreeError) {
    var offset: Int64 = 0
    var blobBytes: Int?
    var isEven = true
    for (index, id) in node.content.enumerated() {
      guard let bytes = length(id) else { throw .blobMissing(id, parent.appending(node.name)) }
      let usual = blobBytes ?? bytes
      blobBytes = usual
      if bytes > usual || bytes < usual && index < node.content.count - 1 { isEven = false }
      places[id, default: []].append(Place(file: files.count, offset: offset))
      let (sum, overflow) = offset.addingReportingOverflow(Int64(bytes))
      if overflow {
        throw .malformed(why: "the file '\(parent.appending(node.name))' is too large", offset: 0)
      }
      offset = sum
    }
    files.append(
      File(
        name: node.name, directory: directory, metadata: node.metadata, content: node.content, size: offset,
        blobBytes: isEven ? blobBytes : nil))
    totals.bytes += offset
  }

  /// A file system may give an inode's number away again while a backup runs: what differs is not the same file.
  private func isSame(_ link: Link, _ node: TreeNode) -> Bool {
    switch link {
    case .file(let index): node.metadata.kind.isRegular && files[index].content == node.content
    case .other(_, let index): others[index].metadata.kind == node.metadata.kind
    }
  }

  /// What makes two names one file: only files that had several names take part.
  private struct Inode: Hashable {
    var device: UInt64
    var inode: UInt64

    init?(_ metadata: FileMetadata) {
      guard metadata.links > 1, metadata.inode != 0 else { return nil }
      (device, inode) = (metadata.device, metadata.inode)
    }
  }
}
