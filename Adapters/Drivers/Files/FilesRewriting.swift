import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

extension FilesDriver {
  func rewriter() -> (any StoreRewriter)? { FilesRewriter(path: path, pool: pool) }
}

/// Makes a tree of files anew: the files a rewriting carries, under the names it gives, with nothing else of them than their mode.
///
/// Directories come with the files in them. Times, owners and extended attributes stay behind.
struct FilesRewriter: StoreRewriter {
  /// What is rewritten is held in memory.
  static let largestBytes: Int64 = 64 << 20

  let path: String
  let pool: BlockingPool

  private struct Found {
    var name: [UInt8]
    var path: String
    var mode: mode_t
    var sizeBytes: Int64
    var isRegular: Bool
  }

  private func blocking<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws(AnyFailure) -> T {
    try await pool.run { () throws(AnyFailure) in do { return try body() } catch { throw AnyFailure(error) } }
  }

  /// Regular files and what is neither that nor a directory, in order.
  private func found() throws(SystemFailure) -> [Found] {
    var found: [Found] = []
    var open: [(String, [UInt8])] = [(path, [])]
    while let (directory, prefix) = open.popLast() {
      for name in try Files.names(in: directory) {
        guard let text = String(validating: name.bytes, as: UTF8.self) else {
          throw SystemFailure("open", path: "\(directory)/\(name.lossyText)", number: EILSEQ)
        }
        let place = "\(directory)/\(text)"
        var information = stat()
        guard lstat(place, &information) == 0 else { throw SystemFailure("lstat", path: place) }
        let full = prefix + (prefix.isEmpty ? [] : [47]) + name.bytes
        if information.st_mode & S_IFMT == S_IFDIR {
          open.append((place, full))
        } else {
          found.append(
            Found(
              name: full, path: place, mode: information.st_mode & 0o777, sizeBytes: Int64(information.st_size),
              isRegular: information.st_mode & S_IFMT == S_IFREG))
        }
      }
    }
    return found.sorted { $0.name.lexicographicallyPrecedes($1.name) }
  }

  private func other(_ file: Found) -> String { "link \(String(decoding: file.name, as: UTF8.self))" }

  func shape() async throws(AnyFailure) -> StoreShape {
    try await blocking {
      var shape = StoreShape()
      let all = try found()
      shape.entries = all.filter(\.isRegular).map { String(decoding: $0.name, as: UTF8.self) }
      shape.others = all.filter { !$0.isRegular }.map { other($0) }
      return shape
    }
  }

  func read(
    limit: Int, _ each: @escaping @Sendable (ContentPiece) throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    try await blocking {
      for file in try found().filter(\.isRegular).prefix(limit) {
        let content = file.sizeBytes <= Self.largestBytes ? EntryContent.bytes(try Files.read(file.path)) : nil
        try each(.entry(file.name, content))
      }
    }
  }

  func rewrite(to place: String, by rewriting: any ContentRewriting) async throws(AnyFailure) -> RewriteCount {
    try await blocking {
      var count = RewriteCount()
      try Files.createDirectory(place, mode: 0o700)
      for file in try found() {
        guard file.isRegular else {
          if try rewriting.carries(other(file)) {
            throw DriverError.unsupported("\(other(file)) can't be made anew: drop it")
          }
          count.dropped += 1
          continue
        }
        switch try rewriting.plan(file.name) {
        case .drop: count.dropped += 1
        case .keep(let name):
          try copy(file, to: try target(name, below: place))
          count.entries += 1
        case .rewrite(let name):
          guard file.sizeBytes <= Self.largestBytes else {
            throw DriverError.unsupported(
              "\(String(decoding: file.name, as: UTF8.self)) has more than \(Self.largestBytes >> 20) MiB: keep or drop it"
            )
          }
          let content = try rewriting.content(.bytes(try Files.read(file.path)), of: file.name)
          guard case .bytes(let bytes) = content else { throw DriverError.unsupported("a file holds bytes alone") }
          let output = try create(try target(name, below: place), file.mode)
          try bytes.withUnsafeBytes { try output.write($0) }
          count.entries += 1
        }
      }
      return count
    }
  }

  /// - Throws: For a name that leads out of the tree.
  private func target(_ name: [UInt8], below place: String) throws -> String {
    let text = String(decoding: name, as: UTF8.self)
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard !parts.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }), !name.contains(0) else {
      throw DriverError.unsupported("a rule gives a file a name that leads out of the tree")
    }
    var directory = place
    for part in parts.dropLast() {
      directory += "/\(part)"
      try Files.createDirectory(directory, mode: 0o755)
    }
    return "\(place)/\(text)"
  }

  /// - Throws: `EEXIST` where two files would come to have one name.
  private func create(_ path: String, _ mode: mode_t) throws(SystemFailure) -> File {
    let file = try File(path, O_WRONLY | O_CREAT | O_EXCL, mode: mode)
    guard fchmod(file.descriptor, mode) == 0 else { throw SystemFailure("fchmod", path: path) }
    return file
  }

  private func copy(_ file: Found, to place: String) throws {
    let input = try File(file.path, O_RDONLY | O_NOFOLLOW)
    let output = try create(place, file.mode)
    var buffer = [UInt8](repeating: 0, count: 1 << 18)
    while true {
      let count = try buffer.withUnsafeMutableBytes { try input.read(into: $0) }
      if count == 0 { return }
      try buffer.withUnsafeBytes { try output.write(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
    }
  }
}
