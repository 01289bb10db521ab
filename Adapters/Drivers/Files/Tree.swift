import Core
import DriverKit
import Glibc
import IO

/// A tree on disk. Every call blocks; no symbolic link below the root is followed.
struct Tree: Sendable {
  let root: String
  let excludes: [PathPattern]

  init(_ root: String, excludes: [PathPattern]) { (self.root, self.excludes) = (root, excludes) }

  func isExcluded(_ path: TreePath) -> Bool { excludes.contains { $0.fits(path) } }

  /// Every entry that is not excluded, parents before children, siblings ascending by name; the root is the first, with an
  /// empty path. What vanishes while it is listed is left out.
  func list() throws(DriverError) -> [TreeEntry] {
    do {
      let directory = try DirectoryReader(root)
      var result = [TreeEntry(path: TreePath(), metadata: try directory.metadata())]
      try list(directory, TreePath(), &result)
      return result
    } catch {
      throw Self.error(error)
    }
  }

  private func list(
    _ directory: DirectoryReader, _ path: TreePath, _ result: inout [TreeEntry]
  ) throws(SystemFailure) {
    for name in try directory.names() {
      let child = path.appending(name)
      if isExcluded(child) { continue }
      do throws(SystemFailure) {
        let metadata = try directory.metadata(of: name)
        result.append(TreeEntry(path: child, metadata: metadata))
        if metadata.kind == .directory { try list(try directory.directory(name), child, &result) }
      } catch {
        guard error.number == ENOENT else { throw error }
      }
    }
  }

  /// Opens a regular file by its path, one directory at a time.
  func open(_ path: TreePath) throws(SystemFailure) -> (file: File, status: stat) {
    guard let name = path.last else { throw SystemFailure("open", path: root, number: EISDIR) }
    return try directory(path.parent).open(name)
  }

  func directory(_ path: TreePath) throws(SystemFailure) -> DirectoryReader {
    var directory = try DirectoryReader(root)
    for name in path.components { directory = try directory.directory(name) }
    return directory
  }

  /// One entry as the content digest sees it, its content read.
  func digestLine(of entry: TreeEntry) throws(DriverError) -> String {
    guard entry.metadata.kind == .regular else { return digestText(entry.metadata, content: nil) }
    do {
      let file = try open(entry.path).file
      var digest = RunningDigest()
      var buffer = [UInt8](repeating: 0, count: 1 << 18)
      while true {
        let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in
          let count = try file.read(into: raw)
          digest.update(UnsafeRawBufferPointer(rebasing: raw[..<count]))
          return count
        }
        if count == 0 { return digestText(entry.metadata, content: digest.finish()) }
      }
    } catch {
      throw Self.error(error)
    }
  }

  static func error(_ error: SystemFailure) -> DriverError {
    switch error.number {
    case EACCES, EPERM:
      .permissionDenied(error.report.summary, needs: "to read every file and directory of the tree")
    case ENOENT, ENOTDIR: .unreachable(error.report.summary)
    default: DriverError(error)
    }
  }
}

/// What the content digest `files-sha256-v1` says of one entry: its kind, its rights, and its content, target or number.
///
/// Owners and times are not in it: a restore by another user can't bring them all back.
func digestText(_ metadata: FileMetadata, content: Digest?) -> String {
  let rights = String(metadata.permissions & 0o777, radix: 8)
  return switch metadata.kind {
  case .regular: "file \(rights) \(content?.hex ?? "")"
  case .directory: "directory \(rights)"
  case .symbolicLink(let target): "link \(Hex.encode(target))"
  case .fifo: "fifo \(rights)"
  case .socket: "socket \(rights)"
  case .characterDevice(let number): "character \(rights) \(number)"
  case .blockDevice(let number): "block \(rights) \(number)"
  }
}

/// The content digest `files-sha256-v1`: per directory directly below the root a SHA-256 over path and text of every entry at
/// and below it, ascending by path; `.` covers the root itself and what lies in it that is no directory.
///
/// With more than 512 directories they are thrown together by the first byte of their names' SHA-256, as `#00` to `#ff`,
/// so that a digest stays small whatever the tree.
func contentDigest(ofLines lines: [TreePath: String]) -> ContentDigest {
  let directories = lines.filter { $0.key.components.count == 1 && $0.value.hasPrefix("directory ") }.count
  var groups: [String: [TreePath]] = [:]
  for (path, text) in lines {
    let isLoose = path.components.isEmpty || (path.components.count == 1 && !text.hasPrefix("directory "))
    groups[isLoose ? "." : partName(path.components[0], among: directories), default: []].append(path)
  }
  var parts: [String: ContentDigest.Part] = [:]
  for (name, paths) in groups {
    var digest = RunningDigest()
    for path in paths.sorted() {
      digest.update(path.bytes(below: "") + [0])
      digest.update((lines[path] ?? "") + "\n")
    }
    parts[name] = .init(digest: digest.finish().hex, count: Int64(paths.count))
  }
  return ContentDigest(scheme: "files-sha256-v1", parts: parts)
}

/// A name as people read it; what isn't plain UTF-8 is written as `%` and two digits per byte, so that no two are the same.
private func partName(_ name: FileName, among count: Int) -> String {
  if count > 512 { return "#" + Digest.of(name.bytes).hex.prefix(2) }
  let isPlain =
    name.lossyText.utf8.elementsEqual(name.bytes) && !name.bytes.contains(37) && !name.bytes.contains { $0 < 32 }
  return isPlain ? name.lossyText + "/" : name.bytes.map { "%" + Hex.encode([$0]) }.joined() + "/"
}
