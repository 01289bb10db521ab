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
    guard methods.iVersion >= 2, let map = methods.xShmMap else {
      throw .unsupported("this SQLite has no shared memory for \(path)")
    }
    var region: UnsafeMutableRawPointer?
    let code = map(file, 0, 32_768, 0, &region)
    guard code == SQLITE_OK, let region else { throw Self.error(code, handle, path) }
    let lastFrame = region.loadUnaligned(fromByteOffset: 16, as: UInt32.self)
    let pages = region.loadUnaligned(fromByteOffset: 20, as: UInt32.self)
    let salts = (0..<8).map { region.load(fromByteOffset: 32 + $0, as: UInt8.self) }
    var details = ["salts": Hex.encode(salts), "pages": "\(pages)"]
    if lastFrame > 0 {
      return LogPosition(kind: "frame", value: "\(Hex.encode(salts)):\(lastFrame)", details: details)
    }
    var status = stat()
    guard stat(path, &status) == 0 else { throw .unreachable("\(path): it is gone") }
    let modified = Timestamp(seconds: Int64(status.st_mtim.tv_sec), nanoseconds: Int64(status.st_mtim.tv_nsec))
    details["modified"] = modified.description
    return LogPosition(kind: "frame", value: "0@\(modified)", details: details)
  }
}
