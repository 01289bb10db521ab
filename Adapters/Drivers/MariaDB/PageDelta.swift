import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// The pages of one file that changed since a position, as `mariadb-backup --incremental-lsn` writes them.
///
/// Source: MariaDB 10.11, extra/mariabackup/write_filt.cc. Groups of pages; the first of each says `xtra`, or `XTRA` in the last
/// group, and then the numbers of those behind it, four bytes each, ended by 0xffffffff where there are fewer than fit.
struct PageDelta: Sendable {
  struct Page: Equatable, Sendable {
    var number: UInt32
    /// Where it begins in the delta.
    var offset: Int64
  }

  /// The number of the tablespace.
  var space: UInt32
  /// As they are on disk, which is less than the server's own length for compressed rows.
  var pageBytes: Int
  /// Ascending by number.
  var pages: [Page]

  static let suffix = ".delta"
  static let descriptionSuffix = ".meta"

  /// Reads where the pages are, not the pages. Blocks.
  ///
  /// - Parameter path: Of the data file in the copy, without a suffix.
  init(of path: String) throws(DriverError) {
    let file: File
    let size: Int64
    do throws(SystemFailure) {
      let text = String(decoding: try Files.read(path + Self.descriptionSuffix, limitBytes: 1 << 16), as: UTF8.self)
      var fields: [Substring: UInt64] = [:]
      for line in text.split(whereSeparator: \.isNewline) {
        let parts = line.split(separator: "=")
        if parts.count == 2 { fields[parts[0].trimmed] = UInt64(parts[1].trimmed) }
      }
      guard let bytes = fields["page_size"].flatMap({ Int(exactly: $0) }), InnoDBPage.isLength(bytes),
        let space = fields["space_id"].flatMap({ UInt32(exactly: $0) }), space < .max
      else { throw SystemFailure("read", path: path + Self.descriptionSuffix, number: EBADMSG) }
      (self.space, pageBytes, pages) = (space, bytes, [])
      file = try File(path + Self.suffix, O_RDONLY)
      size = Int64(try file.status().st_size)
    } catch { throw Self.explained(error) }
    try read(file, size)
  }

  private mutating func read(_ file: File, _ size: Int64) throws(DriverError) {
    let broken = DriverError.corrupt("\(file.path) is not what mariadb-backup writes")
    var offset: Int64 = 0
    while true {
      let head: [UInt8]
      do throws(SystemFailure) { head = try file.read(at: offset, count: pageBytes) } catch { throw DriverError(error) }
      guard head.count == pageBytes else { throw broken }
      let mark = String(decoding: head[..<4], as: UTF8.self)
      guard mark == "xtra" || mark == "XTRA" else { throw broken }
      var count = 1
      while count < pageBytes / 4 {
        let number: UInt32 = head.withUnsafeBytes { InnoDBPage.number($0, at: count * 4) }
        if number == .max { break }
        guard pages.last.map({ $0.number < number }) ?? true else { throw broken }
        pages.append(Page(number: number, offset: offset + Int64(count * pageBytes)))
        count += 1
      }
      offset += Int64(count * pageBytes)
      if mark == "XTRA" {
        guard offset == size else { throw broken }
        return
      }
      // Only the last group has room left.
      guard count == pageBytes / 4, offset < size else { throw broken }
    }
  }

  private static func explained(_ error: SystemFailure) -> DriverError {
    error.number == EBADMSG
      ? .corrupt("\(error.path ?? "a file") is not what mariadb-backup writes") : DriverError(error)
  }
}

/// What of a page of InnoDB's is the same in all formats.
///
/// Source: MariaDB 10.11, storage/innobase/include/fil0fil.h and fsp0fsp.h.
enum InnoDBPage {
  static func isLength(_ bytes: Int) -> Bool { bytes >= 1 << 10 && bytes <= 1 << 16 && bytes & (bytes - 1) == 0 }

  /// FIL_PAGE_LSN: where in the log the page's last change ends.
  static func position(of page: UnsafeRawBufferPointer) -> UInt64 { number(page, at: 16) }

  /// FIL_PAGE_SPACE_ID.
  static let spaceOffset = 34

  /// FSP_SIZE, in the first page of a tablespace: of how many pages it is.
  static let sizeOffset = 46

  static func isZero(_ page: UnsafeRawBufferPointer) -> Bool {
    for at in stride(from: 0, to: page.count, by: 8)
    where page.loadUnaligned(fromByteOffset: at, as: UInt64.self) != 0 { return false }
    return true
  }

  static func number<T: FixedWidthInteger>(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> T {
    T(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
  }
}

extension Substring {
  fileprivate var trimmed: Substring {
    var text = self.drop(while: \.isWhitespace)
    while text.last?.isWhitespace == true { text.removeLast() }
    return text
  }
}
