import Core
import DriverKit
import GRDBSQLite
import Glibc

extension Connection {
  /// Where the database stands, for the transaction open on this connection.
  ///
  /// In WAL mode: kind `frame`, the salts and the number of the last valid frame, as the WAL index has them. An empty WAL
  /// (every change is in the database file) is told by the file's own time and size instead. Otherwise: kind
  /// `change`, the file's change counter. Read through SQLite's own file methods: opening the files would
  /// drop this process's locks.
  ///
  /// Source: sqlite.org, "WAL-mode File Format", section 2.1, and "Database File Format", section 1.3.
  func position() throws(DriverError) -> LogPosition {
    let handle = try handle()
    var file: UnsafeMutablePointer<sqlite3_file>?
    let code = withUnsafeMutablePointer(to: &file) {
      sqlite3_file_control(handle, "main", SQLITE_FCNTL_FILE_POINTER, $0)
    }
    guard code == SQLITE_OK, let file, let methods = file.pointee.pMethods else { throw Self.error(code, handle, path) }
    if try text("PRAGMA journal_mode") == "wal" { return try frame(file, methods.pointee, handle) }
    var counter = [UInt8](repeating: 0, count: 4)
    guard let read = methods.pointee.xRead else { throw .unsupported("this SQLite has no way to read \(path)") }
    let status = read(file, &counter, 4, 24)
    guard status == SQLITE_OK || status == 522 /* an empty file: SQLITE_IOERR_SHORT_READ */ else {
      throw Self.error(status, handle, path)
    }
    return LogPosition(kind: "change", value: "\(counter.reduce(UInt32(0)) { $0 << 8 | UInt32($1) })")
  }

  private func frame(
    _ file: UnsafeMutablePointer<sqlite3_file>, _ methods: sqlite3_io_methods, _ handle: OpaquePointer
  ) throws(DriverError) -> LogPosition {
    let index = try index(file, methods, handle)
    var details = ["salts": index.saltsText, "pages": "\(index.pages)"]
    if index.lastFrame > 0 {
      return LogPosition(kind: "frame", value: "\(index.saltsText):\(index.lastFrame)", details: details)
    }
    let modified = try Self.modified(path)
    details["modified"] = modified.description
    return LogPosition(kind: "frame", value: "0@\(modified)", details: details)
  }

  static func modified(_ path: String) throws(DriverError) -> Timestamp {
    var status = stat()
    guard stat(path, &status) == 0 else { throw .unreachable("\(path): it is gone") }
    return Timestamp(seconds: Int64(status.st_mtim.tv_sec), nanoseconds: Int64(status.st_mtim.tv_nsec))
  }

  /// The WAL index's word on where the WAL ends, for whoever holds nothing: it may have moved by the next line.
  func walIndex() throws(DriverError) -> WALIndex {
    let handle = try handle()
    var file: UnsafeMutablePointer<sqlite3_file>?
    let code = withUnsafeMutablePointer(to: &file) {
      sqlite3_file_control(handle, "main", SQLITE_FCNTL_FILE_POINTER, $0)
    }
    guard code == SQLITE_OK, let file, let methods = file.pointee.pMethods else { throw Self.error(code, handle, path) }
    // A writer changes one of the two copies after the other; on a busy machine it may have to wait between them.
    for round in 0..<1100 {
      if round >= 100 { poll(nil, 0, 1) }
      let (first, second) = (
        try index(file, methods.pointee, handle), try index(file, methods.pointee, handle, copy: 1)
      )
      if first == second { return first }
      sched_yield()
    }
    throw .engineFailed("the WAL index of \(path) never stands still", log: "")
  }

  private func index(
    _ file: UnsafeMutablePointer<sqlite3_file>, _ methods: sqlite3_io_methods, _ handle: OpaquePointer, copy: Int = 0
  ) throws(DriverError) -> WALIndex {
    guard methods.iVersion >= 2, let map = methods.xShmMap else {
      throw .unsupported("this SQLite has no shared memory for \(path)")
    }
    var region: UnsafeMutableRawPointer?
    let code = map(file, 0, 32_768, 0, &region)
    guard code == SQLITE_OK, let region else { throw Self.error(code, handle, path) }
    methods.xShmBarrier?(file)
    var index = WALIndex(UnsafeRawPointer(region + copy * WALIndex.bytes))
    index.backfilled = UnsafeRawPointer(region).loadUnaligned(fromByteOffset: 2 * WALIndex.bytes, as: UInt32.self)
    return index
  }
}

/// The header of a WAL index.
///
/// Source: sqlite.org, "WAL-mode File Format", section 2.1.
struct WALIndex: Sendable, Equatable {
  static let bytes = 48

  /// As in the WAL's own header.
  var salts: [UInt8]
  var lastFrame: UInt32
  var pages: UInt32
  /// 0 before anything was written.
  var pageSize: Int
  /// The checksum of the last frame.
  var sum: WALSum
  /// How many frames are in the database file; counted beside the header, so read a moment later.
  var backfilled: UInt32 = 0

  static func == (a: WALIndex, b: WALIndex) -> Bool {
    a.salts == b.salts && a.lastFrame == b.lastFrame && a.pages == b.pages && a.pageSize == b.pageSize && a.sum == b.sum
  }

  var saltsText: String { Hex.encode(salts) }

  fileprivate init(_ raw: UnsafeRawPointer) {
    let size = raw.loadUnaligned(fromByteOffset: 14, as: UInt16.self)
    pageSize = Int(size & 0xfe00) + Int(size & 1) << 16
    lastFrame = raw.loadUnaligned(fromByteOffset: 16, as: UInt32.self)
    pages = raw.loadUnaligned(fromByteOffset: 20, as: UInt32.self)
    sum = WALSum(
      raw.loadUnaligned(fromByteOffset: 24, as: UInt32.self), raw.loadUnaligned(fromByteOffset: 28, as: UInt32.self))
    salts = (0..<8).map { raw.load(fromByteOffset: 32 + $0, as: UInt8.self) }
  }
}
