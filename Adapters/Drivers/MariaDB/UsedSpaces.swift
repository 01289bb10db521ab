import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Tablespaces that a server uses, and the table that each is of.
///
/// The number of a tablespace stays when it is discarded and another file imported in its place, whose pages then say that
/// they never changed. The table gets another number when that is discarded, and its indexes begin nowhere until the import has
/// ended. Source: MariaDB 10.11, storage/innobase/row/row0mysql.cc (row_discard_tablespace) and row0import.cc.
struct UsedSpaces: Equatable, Sendable {
  /// 0 for one that is of no table.
  var tables: [UInt32: UInt64] = [:]
  /// As InnoDB calls the tables, which is their files' names without a suffix.
  var names: [UInt32: String] = [:]
  /// The length of pages where it is another than the server's.
  var shortPages: [UInt32: Int] = [:]
  /// Those whose table waits for an import.
  var discarded: Set<UInt32> = []

  /// A server can have as many indexes as that.
  private static let rowLimit = 20_000_000
  /// FIL_NULL.
  private static let nowhere: UInt64 = 0xffff_ffff

  static func read(_ control: Connection) async throws(DriverError) -> UsedSpaces {
    do throws(StatementFailure) {
      var (result, lost, shared) = (UsedSpaces(), Set<UInt64>(), Set<UInt32>())
      let indexes = try await control.run(
        "SELECT DISTINCT TABLE_ID FROM information_schema.INNODB_SYS_INDEXES WHERE PAGE_NO IS NULL OR PAGE_NO = \(nowhere)",
        rowLimit: rowLimit)
      for row in indexes.rows { if let table = row.first?.flatMap({ UInt64($0) }) { lost.insert(table) } }
      let tables = try await control.run(
        "SELECT SPACE, TABLE_ID, NAME, ZIP_PAGE_SIZE FROM information_schema.INNODB_SYS_TABLES WHERE SPACE > 0",
        rowLimit: rowLimit)
      for row in tables.rows {
        guard row.count == 4, let space = row[0].flatMap({ UInt32($0) }), let table = row[1].flatMap({ UInt64($0) })
        else { continue }
        if lost.contains(table) {
          result.discarded.insert(space)
          continue
        }
        if let bytes = row[3].flatMap({ Int($0) }), InnoDBPage.isLength(bytes) { result.shortPages[space] = bytes }
        if result.tables.updateValue(table, forKey: space) != nil { shared.insert(space) }
        result.names[space] = row[2]
      }
      for space in shared { result.tables[space] = nil }
      let others = try await control.run(
        "SELECT SPACE FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME LIKE 'innodb\\_undo%'")
      for row in others.rows { if let space = row.first?.flatMap({ UInt32($0) }) { result.tables[space] = 0 } }
      return result
    } catch { throw error.driverError("asking which tablespaces are in use") }
  }

  /// Those that were the same before and after.
  func staying(_ later: UsedSpaces) -> UsedSpaces {
    UsedSpaces(tables: tables.filter { later.tables[$0.key] == $0.value }, names: later.names)
  }

  /// Looks whether a copy has all of those. Blocks.
  ///
  /// mariadb-backup takes a table for dropped whose tablespace was discarded and imported since InnoDB's checkpoint: it leaves the
  /// table out and says nothing.
  func requireAll(in directory: String, found: Set<UInt32>) throws(DriverError) {
    for (space, table) in tables.sorted(by: { $0.key < $1.key }) where table > 0 && !found.contains(space) {
      let name = names[space] ?? ""
      let isThere = ["new", "ibd", "ibd" + PageDelta.suffix].contains { Files.exists("\(directory)/\(name).\($0)") }
      if isThere || name.isEmpty { continue }
      throw .engineFailed(
        "mariadb-backup left out \(name): its tablespace was imported since InnoDB's last checkpoint; take the copy again later",
        log: "")
    }
  }
}

/// Which tablespaces a copy has, for a later one: tables are renamed, and made anew under the same name.
struct SpaceList: Equatable, Sendable {
  struct Entry: Equatable, Sendable {
    var table: UInt64
    var path: TreePath
  }

  var entries: [UInt32: Entry] = [:]

  static let directory = "pages"
  static let file = "tablespaces"
  static let limitBytes = 256 << 20

  /// - Parameters:
  ///   - found: The tablespaces in a copy, and where.
  ///   - used: Those that were in use, and the same, before the copy and after it.
  init(_ found: [(space: UInt32, path: TreePath)], used: UsedSpaces) {
    var seen: Set<UInt32> = []
    for (space, path) in found {
      if !seen.insert(space).inserted {
        // Which of them is meant is not known.
        entries[space] = nil
      } else if let table = used.tables[space], InnoDBFile.isTablespace(path.last?.lossyText ?? ""),
        !path.description.contains("\n")
      {
        entries[space] = Entry(table: table, path: path)
      }
    }
  }

  /// The tablespaces of a whole copy in scratch. Blocks.
  static func found(
    in directory: String, at target: TreePath
  ) throws(DriverError) -> [(space: UInt32, path: TreePath)] {
    var result: [(space: UInt32, path: TreePath)] = []
    let names: [FileName]
    do throws(SystemFailure) { names = try Files.names(in: directory) } catch { throw DriverError(error) }
    for name in names.sorted() {
      let (text, path) = (name.lossyText, "\(directory)/\(name.lossyText)")
      if Files.isDirectory(path) {
        result += try found(in: path, at: target.appending(name))
      } else if InnoDBFile.isTablespace(text) || text.hasSuffix(".new"), !text.hasPrefix("ibdata") {
        do throws(SystemFailure) {
          let head = try File(path, O_RDONLY).read(at: 0, count: InnoDBPage.sizeOffset)
          guard head.count == InnoDBPage.sizeOffset else { continue }
          let space: UInt32 = head.withUnsafeBytes { InnoDBPage.number($0, at: InnoDBPage.spaceOffset) }
          if space > 0 { result.append((space, target.appending(name))) }
        } catch { throw DriverError(error) }
      }
    }
    return result
  }

  var encoded: [UInt8] {
    Array(
      entries.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value.table) \($0.value.path)\n" }.joined().utf8)
  }

  /// What makes no sense is left out: of it everything is read.
  init(_ bytes: [UInt8]) {
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") {
      let fields = line.split(separator: " ", maxSplits: 2)
      guard fields.count == 3, let space = UInt32(fields[0]), let table = UInt64(fields[1]) else { continue }
      entries[space] = Entry(table: table, path: TreePath(String(fields[2])))
    }
  }
}

/// Which files hold InnoDB's pages.
enum InnoDBFile {
  static func isTablespace(_ name: String) -> Bool {
    name.hasSuffix(".ibd") || name.hasPrefix("ibdata") || name.hasPrefix("undo")
  }

  /// Every how many bytes they are cut, in a server of so many: a changed page changes one part, and each part costs some
  /// hundred bytes in the repository. Of a server that has a copy the parts stay as they are.
  static func partBytes(forServerOf bytes: Int64, pageBytes: Int) -> Int {
    switch bytes {
    case ..<(64 << 30): max(32 << 10, pageBytes)
    case ..<(512 << 30): 64 << 10
    default: 128 << 10
    }
  }
}
