import Core
import DriverKit
import Glibc
import IO

extension FilesDriver: StoreCorrector {
  func corrector() -> (any StoreCorrector)? { self }

  /// Where files go that are set aside: beside the tree, so that a rename is enough and a way back is left.
  private var aside: String { "\(Files.parent(of: path))/.salvor-aside-\(Files.last(of: path))" }

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
        let (file, status) = try tree.open(place)
        guard status.st_size == size else { return .left("\(text) has \(status.st_size) bytes by now") }
        if let digest, try Self.digest(of: file) != digest { return .left("\(text) holds something else by now") }
        let target = "\(aside)/\(text)"
        try Files.createDirectory(Files.parent(of: target), mode: 0o700)
        // The way there was followed without links a moment ago, and the name is taken as it stands.
        try Files.renameExclusive("\(root)/\(text)", to: target)
        try Files.synchronizeDirectory(Files.parent(of: target))
        try Files.synchronizeDirectory(Files.parent(of: "\(root)/\(text)"))
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
