import Core
import DriverKit
import Glibc
import IO

extension FilesDriver: StoreCorrector {
  func corrector() -> (any StoreCorrector)? { self }

  /// Where files go that are set aside: beside the tree, so that a rename is enough and a way back is left.
  private var aside: TreePath {
    TreePath("\(Files.parent(of: path))/.salvor-aside-\(Files.last(of: path))")
  }

  func make(_ change: StoreChange) async throws(DriverError) -> ChangeEffect {
    guard case .setAside(let text, let size, let digest) = change else {
      throw StoreChange.isNone(of: "files to be set aside")
    }
    let (root, aside, excludes) = (path, aside, excludes)
    return try await pool.run { () throws(DriverError) -> ChangeEffect in
      let place = TreePath(text)
      guard !place.components.isEmpty, !place.components.contains(where: { [".", ".."].contains($0.lossyText) }) else {
        return .refused("'\(text)' is no path within the tree")
      }
      let tree = Tree(root, excludes: excludes)
      if tree.isExcluded(place) { return .refused("\(text) is excluded from the store") }
      do throws(SystemFailure) {
        // One directory at a time, and from here on by descriptor: what the path leads to may change meanwhile.
        let source = try tree.directory(place.parent)
        let name = place.components[place.components.count - 1]
        let (file, status) = try source.open(name)
        guard status.st_size == size else { return .left("\(text) has \(status.st_size) bytes by now") }
        if let digest, try Self.digest(of: file) != digest { return .left("\(text) holds something else by now") }
        let target = try Self.directory(below: aside, place.parent)
        try source.moveExclusive(name, to: target)
        // The name may have come to stand for another file since that one was opened.
        let moved = try target.metadata(of: name)
        guard moved.inode == UInt64(status.st_ino), moved.device == UInt64(status.st_dev) else {
          try target.moveExclusive(name, to: source)
          return .left("\(text) is another file by now")
        }
        try target.synchronize()
        try source.synchronize()
        return .changed(1)
      } catch {
        switch error.number {
        case ENOENT: return .left("\(text) is not there by now")
        case EEXIST: return .refused("another \(text) was set aside before")
        case ELOOP, ENOTDIR: return .refused("\(text) is no regular file of the tree")
        default: throw Tree.error(error)
        }
      }
    }
  }

  /// Where a file from `path` is set aside, made as far as it is missing; no link is followed below the tree's parent.
  private static func directory(below aside: TreePath, _ path: TreePath) throws(SystemFailure) -> DirectoryReader {
    var directory = try DirectoryReader.at(aside.parent)
    for name in aside.components.suffix(1) + path.components {
      try directory.makeDirectory(name, mode: 0o700)
      directory = try directory.directory(name)
    }
    return directory
  }

  static func digest(of file: File) throws(SystemFailure) -> String {
    var digest = RunningDigest()
    var buffer = [UInt8](repeating: 0, count: 1 << 18)
    while true {
      let count = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) -> Int in
        let count = try file.read(into: raw)
        digest.update(UnsafeRawBufferPointer(rebasing: raw[..<count]))
        return count
      }
      if count == 0 { return digest.finish().hex }
    }
  }

  func queryBeside(
    _ request: RestoreRequest, _ texts: [String], limit: QueryLimit
  ) async throws(DriverError) -> [QueryResult] {
    let swap = swap(request)
    let place = try await pool.run { () throws(DriverError) -> String in
      try swap.isSwapped() ? swap.live : swap.beside
    }
    let copy = FilesDriver(
      path: place, excludes: excludes, lockFile: nil, isImmutable: isImmutable, log: nil, environment: environment)
    var results: [QueryResult] = []
    for text in texts { results.append(try await copy.query(text, limit: limit)) }
    return results
  }
}

/// Changes by descriptor: what a path leads to by now doesn't matter.
extension DirectoryReader {
  /// The directory itself, and an entry of it, under a name that no rename changes. Source: proc(5), `/proc/pid/fd`.
  private func fixed(_ name: FileName) throws(SystemFailure) -> String {
    guard let text = String(validating: name.bytes, as: UTF8.self) else {
      throw SystemFailure("rename", path: shown(name), number: EILSEQ)
    }
    return "/proc/self/fd/\(descriptor)/\(text)"
  }

  /// Renames an entry into another directory, itself if it is a link; never over another.
  fileprivate func moveExclusive(_ name: FileName, to other: DirectoryReader) throws(SystemFailure) {
    try Files.renameExclusive(try fixed(name), to: try other.fixed(name))
  }

  /// Fine if there is one.
  fileprivate func makeDirectory(_ name: FileName, mode: mode_t) throws(SystemFailure) {
    let code = name.withCString { mkdirat(descriptor, $0, mode) }
    guard code == 0 || errno == EEXIST else { throw SystemFailure("mkdir", path: shown(name)) }
  }

  fileprivate func synchronize() throws(SystemFailure) {
    guard fsync(descriptor) == 0 else { throw SystemFailure("fsync", path: shownPath) }
  }
}
