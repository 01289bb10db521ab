import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A copy of a running server's files by mariadb-backup, made in a directory first: what others alter, rename and drop
/// meanwhile, it mends in its copy at the end.
struct BaseCopy: Sendable {
  /// Where the copy stands in the binary log, if there is one.
  var position: BinlogPosition?
  var gtid: String
  /// Where it stands in InnoDB's own log.
  var lsn: String

  /// Of files of other engines than InnoDB, whose blocks change in place.
  static let pageCut = Cutting.fixed(bytes: 128 << 10)
  private static let statementLimit = 1 << 16

  /// Reads what mariadb-backup wrote about its copy. Blocks.
  init(describedIn directory: String, isLogged: Bool) throws(DriverError) {
    func words(_ name: String) throws(DriverError) -> String {
      do throws(SystemFailure) {
        return String(
          decoding: try Files.read("\(directory)/\(name)", limitBytes: Self.statementLimit), as: UTF8.self)
      } catch { throw DriverError(error) }
    }
    guard
      let lsn = try words("xtrabackup_checkpoints").split(whereSeparator: \.isNewline).compactMap({ line in
        line.hasPrefix("last_lsn = ") ? UInt64(line.dropFirst(11).filter(\.isNumber)) : nil
      }).first
    else { throw .engineFailed("mariadb-backup did not say where its copy stands", log: "") }
    self.lsn = String(lsn)
    (position, gtid) = (nil, "")
    guard isLogged else { return }
    let fields = try words("xtrabackup_binlog_info").split(whereSeparator: \.isNewline).first?
      .split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
    guard let fields, fields.count >= 2, let offset = Int64(fields[1]),
      let position = BinlogPosition(file: fields[0], offset: offset)
    else { throw .engineFailed("mariadb-backup did not say where in the binary log its copy stands", log: "") }
    self.position = position
    gtid = fields.count > 2 ? fields[2] : ""
  }
}

extension MariaDBDriver {
  /// Copies the running server's files into `directory`, which is made.
  ///
  /// - Parameter since: Copy of InnoDB's files only pages that say that they changed behind this position.
  func copyFiles(to directory: String, isLogged: Bool, since: UInt64? = nil) async throws(DriverError) -> BaseCopy {
    let program = try program("mariadb-backup")
    let options = directory + ".cnf"
    let text = try await optionFile()
    try await blocking { () throws(DriverError) in
      // How much changed is not known before it is there.
      let needs = since == nil ? (try? treeBytes(dataDirectory)) ?? 0 : 0
      let place = Files.parent(of: directory)
      if let free = try? Files.freeBytes(at: place), free < needs {
        throw .system(
          .init(
            Report("DRIVER-602", "the copy needs \(needs) bytes in \(place), which has \(free) free").remedy(
              "make room there: MariaDB's files are copied there before they go into the repository")))
      }
      do throws(SystemFailure) { try Files.replace(options, with: text) } catch { throw DriverError(error) }
    }
    let incremental = since.map { ["--incremental-lsn=\($0)"] } ?? []
    let result: Result<BaseCopy, DriverError>
    do throws(DriverError) {
      try await ServerCommand(
        executable: program,
        arguments: [
          "--defaults-file=\(options)", "--backup", "--target-dir=\(directory)", "--datadir=\(dataDirectory)",
        ] + incremental, user: nil
      ).run()
      result = .success(
        try await blocking { () throws(DriverError) in
          try BaseCopy(describedIn: directory, isLogged: isLogged)
        })
    } catch {
      result = .failure(Self.explained(error))
    }
    await environment.pool.run { _ = unlink(options) }
    return try result.get()
  }

  /// Options for mariadb-backup: a password in an argument could be read by everybody.
  private func optionFile() async throws(DriverError) -> [UInt8] {
    func line(_ name: String, _ value: String) -> [UInt8] {
      let escaped = value.map { $0 == "\\" || $0 == "\"" ? "\\\($0)" : String($0) }.joined()
      return Array("\(name) = \"\(escaped)\"\n".utf8)
    }
    var text = Array("[mariadb-backup]\n".utf8) + line("user", address.user)
    if let socket = address.socket {
      text += line("socket", socket)
    } else {
      text += line("host", address.host) + line("port", String(address.port)) + line("protocol", "tcp")
    }
    if let secret = try await secret() {
      let password = secret.withBytes { Array($0) }
      guard !password.contains(10), !password.contains(0) else {
        throw .badOption(store: store, option: "password", why: "has a line break in it")
      }
      text += line("password", String(decoding: password, as: UTF8.self))
    }
    return text
  }

  /// mariadb-backup says in its output what the server said to it.
  private static func explained(_ error: DriverError) -> DriverError {
    guard case .engineFailed(_, let log) = error else { return error }
    if log.contains("Access denied for user") { return .authenticationFailed(log) }
    if log.contains("missing required privilege") || log.contains("you need (at least one of)") {
      return .permissionDenied("mariadb-backup: \(log)", needs: "the grants in docs/drivers/mariadb.md")
    }
    return error
  }
}

/// Moves a copied directory into a sink, and removes each file when it is there.
struct TreeCopy: Sendable {
  var sink: any TreeSink
  var pool: BlockingPool
  var counter: ByteCounter
  /// Whose the files were.
  var owner: FileMetadata
  var partBytes = RestoreFacts.formerPartBytes
  /// Files of which only parts are here.
  var settled: [TreePath: Increment.Settled] = [:]

  func copy(_ directory: String, to target: TreePath) async throws(DriverError) {
    try throwIfCancelled()
    try await add(target, metadata(of: directory, kind: .directory), .content, nil)
    let names = try await pool.run { () throws(DriverError) in
      do throws(SystemFailure) { return try Files.names(in: directory) } catch { throw DriverError(error) }
    }
    for name in names.sorted() {
      let path = "\(directory)/\(name.lossyText)"
      var status = stat()
      guard lstat(path, &status) == 0 else { throw DriverError(SystemFailure("stat", path: path)) }
      let place = target.appending(name)
      switch status.st_mode & S_IFMT {
      case S_IFDIR: try await copy(path, to: place)
      case S_IFREG:
        if name.lossyText.hasSuffix(".isl") {
          throw .unsupported("\(place) leads outside the data directory: move that table back, without DATA DIRECTORY")
        }
        var metadata = self.metadata(of: path, kind: .regular)
        if let file = settled[place] {
          counter.read(metadata.size)
          var content: OpenSource?
          if metadata.size > 0 { content = { FileSource(try File(path, O_RDONLY)) } }
          metadata.size = file.size
          try await add(place, metadata, file.parts, content)
        } else {
          let isPaged = [".MYD", ".MAD", ".MYI", ".MAI"].contains { name.lossyText.hasSuffix($0) }
          let cutting: Cutting =
            InnoDBFile.isTablespace(name.lossyText)
            ? .fixed(bytes: partBytes) : isPaged ? BaseCopy.pageCut : .content
          counter.read(metadata.size)
          try await add(place, metadata, cutting) { FileSource(try File(path, O_RDONLY)) }
        }
        await pool.run { _ = unlink(path) }
      default: throw .unsupported("\(place) is neither file nor directory")
      }
    }
  }

  /// As the server keeps its files: readable for its user and group alone.
  private func metadata(of path: String, kind: FileKind) -> FileMetadata {
    var status = stat()
    _ = lstat(path, &status)
    var metadata = owner
    metadata.kind = kind
    metadata.permissions = kind == .directory ? 0o700 : 0o660
    metadata.size = kind == .regular ? Int64(status.st_size) : 0
    metadata.modified = Timestamp(seconds: Int64(status.st_mtim.tv_sec), nanoseconds: Int64(status.st_mtim.tv_nsec))
    (metadata.device, metadata.inode, metadata.links) = (0, 0, 1)
    return metadata
  }

  func add(_ path: TreePath, bytes: [UInt8]) async throws(DriverError) {
    var metadata = owner
    (metadata.kind, metadata.permissions, metadata.size) = (.regular, 0o660, Int64(bytes.count))
    (metadata.device, metadata.inode, metadata.links) = (0, 0, 1)
    try await add(path, metadata, .content) { MemorySource(bytes) }
  }

  func add(
    _ path: TreePath, size: Int64, _ content: @escaping OpenSource
  ) async throws(DriverError) {
    var metadata = owner
    (metadata.kind, metadata.permissions, metadata.size) = (.regular, 0o660, size)
    (metadata.device, metadata.inode, metadata.links) = (0, 0, 1)
    try await add(path, metadata, .content, content)
  }

  func addDirectory(_ path: TreePath) async throws(DriverError) {
    var metadata = owner
    (metadata.kind, metadata.permissions, metadata.size) = (.directory, 0o700, 0)
    try await add(path, metadata, .content, nil)
  }

  private func add(
    _ path: TreePath, _ metadata: FileMetadata, _ cutting: Cutting, _ content: OpenSource?
  ) async throws(DriverError) {
    do throws(AnyFailure) {
      counter.add(try await sink.add(path, metadata, cutting: cutting, content: content).size)
    } catch { throw sinkError(error) }
  }

  private func add(
    _ path: TreePath, _ metadata: FileMetadata, _ parts: [Digest?], _ content: OpenSource?
  ) async throws(DriverError) {
    do throws(AnyFailure) {
      counter.add(try await sink.add(path, metadata, partBytes: partBytes, parts: parts, content: content).size)
    } catch { throw sinkError(error) }
  }

  /// What the content threw comes back wrapped.
  private func sinkError(_ error: AnyFailure) -> DriverError {
    if let inner = error.underlying as? DriverError { return inner }
    if error.isCancellation { return .cancelled }
    if let inner = error.underlying as? AnyFailure, let driver = inner.underlying as? DriverError { return driver }
    return .sink(error)
  }
}

/// A file from its beginning to its end. Calls block.
private final class FileSource: ByteSource {
  private let file: File
  init(_ file: File) { self.file = file }
  func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int { try file.read(into: buffer) }
}

/// Bytes so far, told on as they come.
final class ByteCounter: Sendable {
  private let total = Mutex<Int64>(0)
  private let fromStore = Mutex<Int64>(0)
  private let progress: @Sendable (Int64) -> Void

  init(_ progress: @escaping @Sendable (Int64) -> Void) { self.progress = progress }

  func add(_ bytes: Int64) {
    let now = total.withLock { total in
      total += bytes
      return total
    }
    progress(now)
  }

  var value: Int64 { total.withLock { $0 } }

  func read(_ bytes: Int64) { fromStore.withLock { $0 += bytes } }

  /// What the sink was given to read, which is less than what the copy has if parts of it are an earlier one's.
  var readBytes: Int64 { fromStore.withLock { $0 } }
}

/// Bytes in regular files. Blocks.
func treeBytes(_ path: String) throws(SystemFailure) -> Int64 {
  var total: Int64 = 0
  for name in try Files.names(in: path) {
    let place = "\(path)/\(name.lossyText)"
    var status = stat()
    guard lstat(place, &status) == 0 else { continue }
    switch status.st_mode & S_IFMT {
    case S_IFREG: total += Int64(status.st_size)
    case S_IFDIR: total += try treeBytes(place)
    default: break
    }
  }
  return total
}
