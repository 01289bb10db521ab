import Core
import IO
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// Objects as files below a directory, laid out and written as restic does.
///
/// A file is written under a temporary name in its directory, synchronised, linked to its name, and the directory
/// synchronised. Leftovers of a crash begin with `.tmp-` and are never listed.
package struct LocalObjectStore: ObjectStore {
  package let root: String
  let pool: BlockingPool

  package var location: String { "local:\(root)" }

  /// - Parameter root: May not be there yet; ``prepare()`` makes it.
  package init(_ root: String, pool: BlockingPool = .shared) {
    self.root = root.count > 1 && root.hasSuffix("/") ? String(root.dropLast()) : root
    self.pool = pool
  }

  package func prepare() async throws(StoreError) {
    try await pool.run { [root] () throws(StoreError) in
      do throws(SystemFailure) {
        try Files.createDirectory(root, mode: 0o700)
        for kind in ObjectKind.allCases where kind != .config {
          try Files.createDirectory("\(root)/\(kind.rawValue)", mode: 0o700)
        }
        for shard in 0..<256 { try Files.createDirectory("\(root)/data/\(Hex.encode([UInt8(shard)]))", mode: 0o700) }
        try Files.synchronizeDirectory("\(root)/data")
        try Files.synchronizeDirectory(root)
        try Files.synchronizeDirectory(Files.parent(of: root))
      } catch { throw StoreError(error) }
    }
  }

  package func put(_ name: ObjectName, _ bytes: [UInt8]) async throws(StoreError) {
    try await pool.run { [self] () throws(StoreError) in
      try bytes.withRawBytes { (raw) throws(StoreError) -> Void in
        try write(name, raw) { (file) throws(SystemFailure) in try file.write(raw) }
      }
    }
  }

  package func put(_ name: ObjectName, _ pages: PageBuffer) async throws(StoreError) {
    try await pool.run { [self] () throws(StoreError) in
      try write(name, pages.bytes) { (file) throws(SystemFailure) in
        try file.writeUncached(pages.memory, count: pages.count)
      }
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>, into pages: PageBuffer) async throws(StoreError) {
    try await pool.run { [self] () throws(StoreError) in
      pages.clear()
      var size = 0
      do throws(SystemFailure) {
        let file = try File(path(name), O_RDONLY)
        size = Int(try file.status().st_size)
        if range.lowerBound >= 0, range.upperBound <= size, range.count <= pages.capacity {
          let space = UnsafeMutableRawBufferPointer(rebasing: pages.memory[..<range.count])
          pages.extend(by: try file.read(at: Int64(range.lowerBound), into: space))
        }
      } catch { throw StoreError(error, name) }
      guard pages.count == range.count else { throw .pastEnd(name, sizeBytes: size) }
    }
  }

  package func get(_ name: ObjectName) async throws(StoreError) -> [UInt8] {
    try await pool.run { [self] () throws(StoreError) in
      do throws(SystemFailure) { return try Files.read(path(name)) } catch { throw StoreError(error, name) }
    }
  }

  package func get(_ name: ObjectName, range: Range<Int>) async throws(StoreError) -> [UInt8] {
    try await pool.run { [self] () throws(StoreError) in
      var (bytes, size): ([UInt8], Int) = ([], 0)
      do throws(SystemFailure) {
        let file = try File(path(name), O_RDONLY)
        size = Int(try file.status().st_size)
        if range.lowerBound >= 0, range.upperBound <= size {
          bytes = try file.read(at: Int64(range.lowerBound), count: range.count)
        }
      } catch { throw StoreError(error, name) }
      guard bytes.count == range.count else { throw .pastEnd(name, sizeBytes: size) }
      return bytes
    }
  }

  package var listsAtOnce: Bool {
    get async { await pool.run { [root] in Files.isLocal("\(root)/\(ObjectKind.lock.rawValue)") } }
  }

  package func list(_ kind: ObjectKind) async throws(StoreError) -> [ObjectInfo] {
    try await pool.run { [self] () throws(StoreError) in
      guard Files.isDirectory(root) else { throw .location("there is no directory \(root)") }
      if kind == .config { return try status(.config).map { [ObjectInfo(.config, sizeBytes: $0)] } ?? [] }
      let directory = "\(root)/\(kind.rawValue)"
      guard kind == .data else { return try objects(kind, in: directory, shard: "") }
      var result: [ObjectInfo] = []
      for shard in try names(in: directory) where Hex.decode(shard)?.count == 1 {
        result += try objects(kind, in: "\(directory)/\(shard)", shard: shard)
      }
      return result
    }
  }

  package func size(of name: ObjectName) async throws(StoreError) -> Int? {
    try await pool.run { [self] () throws(StoreError) in try status(name) }
  }

  package func delete(_ name: ObjectName) async throws(StoreError) {
    try await pool.run { [self] () throws(StoreError) in
      let path = path(name)
      guard unlink(path) == 0 else { throw StoreError(SystemFailure("unlink", path: path), name) }
      do throws(SystemFailure) { try Files.synchronizeDirectory(Files.parent(of: path)) } catch {
        throw StoreError(error)
      }
    }
  }

  // MARK: Calls that block

  func path(_ name: ObjectName) -> String { "\(root)/\(name.path)" }

  private func write(
    _ name: ObjectName, _ bytes: UnsafeRawBufferPointer, _ fill: (File) throws(SystemFailure) -> Void
  ) throws(StoreError) {
    if try isThere(name, bytes) { return }
    let file = try beginFile(name)
    // Never one that somebody else made.
    defer { unlink(file.path) }
    do throws(SystemFailure) { try fill(file) } catch { throw StoreError(error) }
    if try publish(file, as: name) { return }
    guard try isThere(name, bytes) else { throw .exists(name) }
  }

  /// A new temporary file beside where the object will lie. Blocks.
  func beginFile(_ name: ObjectName) throws(StoreError) -> File {
    let directory = Files.parent(of: path(name))
    do throws(SystemFailure) {
      guard Files.isDirectory(root) else { throw SystemFailure("open", path: root, number: ENOENT) }
      try Files.createDirectory(directory, mode: 0o700)
      return try temporaryFile(in: directory)
    } catch { throw StoreError(error) }
  }

  /// Makes a temporary file durable under the object's name too. Blocks.
  ///
  /// - Returns: `false` if the name is taken: what is there stays.
  func publish(_ file: File, as name: ObjectName) throws(StoreError) -> Bool {
    let path = path(name)
    do throws(SystemFailure) { try file.synchronize() } catch { throw StoreError(error) }
    // A link never replaces what is there; a rename would.
    if link(file.path, path) != 0 {
      let failure = SystemFailure("link", path: path)
      switch failure.number {
      case EEXIST: return false
      case EPERM, EOPNOTSUPP, ENOSYS, EMLINK:
        // No hard links here: the look at the start must do.
        guard rename(file.path, path) == 0 else { throw StoreError(SystemFailure("rename", path: path)) }
      default: throw StoreError(failure)
      }
    }
    do throws(SystemFailure) { try Files.synchronizeDirectory(Files.parent(of: path)) } catch {
      throw StoreError(error)
    }
    return true
  }

  /// A new file of a name that nobody has: in a container, every life of a program may have the same process number, and
  /// what a killed one left still lies there.
  private func temporaryFile(in directory: String) throws(SystemFailure) -> File {
    var template = Array("\(directory)/.tmp-XXXXXX".utf8CString)
    let descriptor = mkstemp(&template)
    guard descriptor >= 0 else { throw SystemFailure("mkstemp", path: directory) }
    let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let file = File(adopting: descriptor, path: path)
    guard fchmod(descriptor, 0o400) == 0, fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else {
      let failure = SystemFailure("fchmod", path: path)
      unlink(path)
      throw failure
    }
    return file
  }

  /// - Throws: `.exists` if the name has other content.
  private func isThere(_ name: ObjectName, _ bytes: UnsafeRawBufferPointer) throws(StoreError) -> Bool {
    guard let size = try status(name) else { return false }
    guard size == bytes.count else { throw .exists(name) }
    do throws(SystemFailure) {
      guard try Files.read(path(name)).withUnsafeBytes({ $0.elementsEqual(bytes) }) else {
        throw SystemFailure("link", path: nil, number: EEXIST)
      }
      // Its first writer may have crashed before it was durable.
      try File(path(name), O_RDONLY).synchronize()
      try Files.synchronizeDirectory(Files.parent(of: path(name)))
      return true
    } catch { throw error.number == EEXIST ? .exists(name) : StoreError(error, name) }
  }

  private func status(_ name: ObjectName) throws(StoreError) -> Int? {
    var result = stat()
    if stat(path(name), &result) == 0 { return result.st_mode & S_IFMT == S_IFREG ? Int(result.st_size) : nil }
    if errno == ENOENT || errno == ENOTDIR { return nil }
    throw StoreError(SystemFailure("stat", path: path(name)), name)
  }

  private func names(in directory: String) throws(StoreError) -> [String] {
    do throws(SystemFailure) { return try Files.names(in: directory).map(\.lossyText) } catch {
      if error.number == ENOENT { return [] }
      throw StoreError(error)
    }
  }

  private func objects(_ kind: ObjectKind, in directory: String, shard: String) throws(StoreError) -> [ObjectInfo] {
    var result: [ObjectInfo] = []
    for text in try names(in: directory) {
      guard text.hasPrefix(shard), let id = Digest(hex: text) else { continue }
      let name = ObjectName(kind, id)
      // Gone since the directory was read: deleted by someone, and not part of the list.
      if let size = try status(name) { result.append(ObjectInfo(name, sizeBytes: size)) }
    }
    return result
  }
}

extension StoreError {
  /// - Parameter name: The object it was about, if "no such file" can only mean that one.
  init(_ failure: SystemFailure, _ name: ObjectName? = nil) {
    let text = failure.report.summary
    switch failure.number {
    case ENOENT, ENOTDIR: self = name.map { .notFound($0) } ?? .location(text)
    case ENOSPC, EDQUOT, EFBIG: self = .full(text)
    case EROFS: self = .readOnly(text)
    case EACCES, EPERM: self = .permission(text)
    case EIO: self = name.map { .corrupt($0, text) } ?? .unavailable(text)
    default: self = .unavailable(text)
    }
  }
}

/// Opens directories: `local:/srv/backup`.
package struct LocalObjectStoreFactory: ObjectStoreFactory {
  package static let scheme = "local"
  package static let isRemote = false
  private let pool: BlockingPool

  package init(pool: BlockingPool = .shared) { self.pool = pool }

  package func open(_ location: String) throws(StoreError) -> any ObjectStore {
    guard location.hasPrefix("/") else {
      throw .location("a local repository needs an absolute path, not '\(location)'")
    }
    return LocalObjectStore(location, pool: pool)
  }
}
