import Core
import Foundation
import IO
import Vault

/// What two trees on disk must agree in: everything but what no program can set.
struct TreeComparison {
  static func differences(
    _ left: String, _ right: String, compareSockets: Bool = true, compareLinkAttributes: Bool = true,
    compareAccessTimes: Bool = true
  ) throws -> [String] {
    let leftTree = try entries(left)
    let rightTree = try entries(right)
    var result: [String] = []
    for path in Set(leftTree.keys).union(rightTree.keys).sorted() {
      guard let a = leftTree[path] else {
        result.append("\(path) is only on the right")
        continue
      }
      if a.metadata.kind == .socket, !compareSockets { continue }
      guard let b = rightTree[path] else {
        result.append("\(path) is only on the left")
        continue
      }
      var (x, y) = (a.metadata, b.metadata)
      (x.changed, y.changed) = (x.modified, y.modified)
      (x.inode, y.inode, x.device, y.device) = (0, 0, 0, 0)
      if !x.kind.isRegular || !compareAccessTimes { (x.accessed, y.accessed) = (x.modified, y.modified) }
      if case .symbolicLink = x.kind, !compareLinkAttributes { (x.extendedAttributes, y.extendedAttributes) = ([], []) }
      if x.kind.isDirectory { (x.links, y.links) = (1, 1) }
      if x != y { result.append("\(path): \(x) became \(y)") }
      if a.content != b.content { result.append("\(path): the content differs") }
      if a.sameFile != b.sameFile { result.append("\(path): its other names are \(b.sameFile), not \(a.sameFile)") }
    }
    return result
  }

  struct Entry {
    var metadata: FileMetadata
    var content: Digest?
    var sameFile: [TreePath]
  }

  static func entries(_ root: String) throws -> [TreePath: Entry] {
    let scanned = try TreeReader.scan(root)
    var names: [UInt64: [TreePath]] = [:]
    for entry in scanned where !entry.metadata.kind.isDirectory {
      names[entry.metadata.inode, default: []].append(entry.path)
    }
    var result: [TreePath: Entry] = [:]
    for entry in scanned {
      let same = entry.metadata.kind.isDirectory ? [] : (names[entry.metadata.inode] ?? []).sorted()
      result[entry.path] = Entry(
        metadata: entry.metadata, content: try content(of: entry, root), sameFile: same.count > 1 ? same : [])
    }
    return result
  }

  private static func content(of entry: TreeEntry, _ root: String) throws -> Digest? {
    guard entry.metadata.kind == .regular, let name = entry.path.last else { return nil }
    let directory = try DirectoryReader.at(TreePath(root).appending(entry.path.parent))
    let (file, status) = try directory.open(name)
    var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
    let count = try bytes.withMutableRawBytes { (raw) throws(SystemFailure) in try file.read(at: 0, into: raw) }
    return Digest.of(bytes.prefix(count))
  }
}
