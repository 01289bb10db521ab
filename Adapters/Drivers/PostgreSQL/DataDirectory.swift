import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A file in a cluster that belongs in a copy.
struct ClusterFile: Sendable {
  /// Where it is on this machine.
  var path: String
  /// Where it goes in the tree: below `data` or `tablespaces/<oid>`.
  var target: TreePath
  var kind: Kind
  var metadata: FileMetadata

  enum Kind: Equatable, Sendable {
    case directory
    case ordinary
    /// Pages with checksums; `firstBlock` is the number of the file's first page in its fork.
    case relation(firstBlock: UInt32)
  }
}

/// What a file's name says in a directory of relations.
///
/// Source: PostgreSQL 15, "Database File Layout", and src/common/relpath.c.
struct RelationFileName: Equatable {
  var number: UInt32
  /// Empty for the main fork.
  var fork: String
  var segment: UInt32

  init?(_ name: String) {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    guard (1...2).contains(parts.count) else { return nil }
    let stem = parts[0].split(separator: "_", omittingEmptySubsequences: false)
    guard (1...2).contains(stem.count), let number = Self.decimal(stem[0]) else { return nil }
    fork = stem.count == 2 ? String(stem[1]) : ""
    guard stem.count == 1 || ["fsm", "vm", "init"].contains(fork) else { return nil }
    if parts.count == 2 {
      guard let segment = Self.decimal(parts[1]) else { return nil }
      self.segment = segment
    } else {
      segment = 0
    }
    self.number = number
  }

  private static func decimal(_ text: Substring) -> UInt32? {
    text.utf8.allSatisfy { (48...57).contains($0) } ? UInt32(text) : nil
  }
}

/// Walks a data directory and names what pg_basebackup would take. Every call blocks.
///
/// Source: PostgreSQL 15, "Streaming Replication Protocol", BASE_BACKUP, on what is left out; the same list as
/// src/backend/backup/basebackup.c.
struct DataDirectory: Sendable {
  var path: String
  /// Version directory inside every tablespace, such as `PG_15_202209061`.
  var tablespaceVersion: String
  /// Segments of relations have so many blocks; 131,072 unless the server was built otherwise.
  var segmentBlocks: UInt32

  /// Where the contents are made anew at every start; the directories themselves must be there.
  static let emptied: Set<String> = [
    "pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans",
    "pg_tblspc",
  ]

  static let leftOut: Set<String> = [
    "postmaster.pid", "postmaster.opts", "backup_label", "tablespace_map", "backup_manifest",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp", "recovery.signal", "standby.signal", "backup_label.old", "tablespace_map.old",
  ]

  struct Tablespace: Equatable, Sendable {
    var oid: UInt32
    var location: String
  }

  /// The tablespaces the links in `pg_tblspc` lead to.
  func tablespaces() throws(DriverError) -> [Tablespace] {
    var result: [Tablespace] = []
    for name in try names(in: path + "/pg_tblspc") {
      guard let oid = UInt32(name) else { continue }
      guard let target = readLink("\(path)/pg_tblspc/\(name)") else {
        throw .unsupported("tablespace \(oid) is a directory inside pg_tblspc, which only PostgreSQL's own tests use")
      }
      result.append(Tablespace(oid: oid, location: target))
    }
    return result
  }

  /// Everything to copy but `global/pg_control`, which comes last, and the write-ahead log.
  func files(_ tablespaces: [Tablespace]) throws(DriverError) -> [ClusterFile] {
    var result: [ClusterFile] = []
    try walk(path, "data", depth: 0, inTablespace: false, into: &result)
    for space in tablespaces {
      let root = TreePath("tablespaces/\(space.oid)/\(tablespaceVersion)")
      try walk("\(space.location)/\(tablespaceVersion)", root, depth: 1, inTablespace: true, into: &result)
    }
    return result
  }

  private func walk(
    _ directory: String, _ target: TreePath, depth: Int, inTablespace: Bool, into result: inout [ClusterFile]
  ) throws(DriverError) {
    guard var own = readMetadata(directory) else { return }
    own.kind = .directory
    result.append(ClusterFile(path: directory, target: target, kind: .directory, metadata: own))
    let names = try names(in: directory)
    let holdsRelations = inTablespace || directory.hasPrefix(path + "/base") || directory == path + "/global"
    let parsed = holdsRelations ? names.compactMap { RelationFileName($0) } : []
    let unlogged = Set(parsed.filter { $0.fork == "init" }.map(\.number))
    for name in names {
      let path = directory + "/" + name
      if name.hasPrefix("pgsql_tmp") || name.hasPrefix("pg_internal.init") || Self.leftOut.contains(name) { continue }
      guard var metadata = readMetadata(path) else { continue }
      let place = target.appending(FileName(name))
      if depth == 0, Self.emptied.contains(name) {
        // `pg_wal` may be a link to another disk; in the copy it is a directory.
        metadata.kind = .directory
        if metadata.permissions & 0o1000 != 0 || metadata.permissions == 0o777 {
          metadata.permissions = own.permissions
        }
        result.append(ClusterFile(path: path, target: place, kind: .directory, metadata: metadata))
        continue
      }
      switch metadata.kind {
      case .directory:
        try walk(path, place, depth: depth + 1, inTablespace: inTablespace, into: &result)
      case .regular:
        if directory == self.path + "/global", name == "pg_control" { continue }
        guard holdsRelations else {
          result.append(ClusterFile(path: path, target: place, kind: .ordinary, metadata: metadata))
          continue
        }
        if name.hasPrefix("t"), name.dropFirst().first?.isNumber == true { continue }
        guard let relation = RelationFileName(name) else {
          result.append(ClusterFile(path: path, target: place, kind: .ordinary, metadata: metadata))
          continue
        }
        if unlogged.contains(relation.number), relation.fork != "init" { continue }
        let (first, overflow) = relation.segment.multipliedReportingOverflow(by: segmentBlocks)
        if overflow { throw .corrupt("\(path): no relation has so many segments") }
        result.append(ClusterFile(path: path, target: place, kind: .relation(firstBlock: first), metadata: metadata))
      default:
        // Links to configuration outside, sockets: not data.
        continue
      }
    }
  }

  private func names(in directory: String) throws(DriverError) -> [String] {
    do {
      return try Files.names(in: directory).map(\.lossyText)
    } catch {
      if error.number == ENOENT { return [] }
      throw DriverError(error)
    }
  }
}
