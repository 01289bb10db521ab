import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// What a server wants archived, and where it is told what was. Calls block.
///
/// A file `NAME.ready` in `pg_wal/archive_status` stands for one that waits, `NAME.done` for one that doesn't any more.
struct ArchiveQueue: Sendable {
  let data: String
  /// Where the `archive_command` looks.
  let directory: String
  let store: StoreName

  /// Says whose the directory is: an answer meant for another server would cost this one its log.
  private static let ownFile = "salvor-archive"

  private var log: String { data + "/pg_wal" }

  struct Listing: Sendable {
    /// `nil` as long as no segment is whole.
    var geometry: LogGeometry?
    /// Segments that are complete, and still there.
    var whole: Set<String> = []
    /// Everything that waits, by its name.
    var ready: [String] = []
    var histories: Set<String> = []
    fileprivate var marked: Set<String> = []

    func isWhole(_ name: String) -> Bool { whole.contains(name) }
    var readySegments: [String] { ready.filter { whole.contains($0) } }
  }

  /// Makes the directory, or looks whether it is ours, and forgets what an earlier process said.
  ///
  /// - Returns: The cluster's system identifier.
  func open() throws(DriverError) -> String {
    let control = try calling { () throws(SystemFailure) in
      try Files.read(data + "/global/pg_control", limitBytes: 1 << 16)
    }
    guard control.count >= 8 else { throw .corrupt("\(data)/global/pg_control has no identifier") }
    let identifier = String(control.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
    try calling { () throws(SystemFailure) in try Files.createDirectory(directory, mode: 0o755) }
    guard let found = readMetadata(directory), found.kind == .directory, found.userID == geteuid(),
      found.permissions & 0o022 == 0
    else { throw refusal("\(directory) must be a directory of ours that nobody else writes to: it answers for us") }
    let (own, words) = ("\(directory)/\(Self.ownFile)", "\(store) \(identifier)\n")
    let said = try calling { () throws(SystemFailure) -> String? in
      guard Files.exists(own) else { return nil }
      return String(decoding: try Files.read(own, limitBytes: 4096), as: UTF8.self)
    }
    if let said, said != words {
      throw refusal("\(directory) is another store's: its file \(Self.ownFile) begins with '\(said.prefix(60))'")
    }
    try calling { () throws(SystemFailure) in
      if said == nil { try Files.replace(own, with: Array(words.utf8), mode: 0o644) }
      for name in try Files.names(in: directory) where name.lossyText != Self.ownFile { try forget(name.lossyText) }
    }
    return identifier
  }

  private func refusal(_ why: String) -> DriverError { .badOption(store: store, option: "archiveDirectory", why: why) }

  private func calling<T>(_ body: () throws(SystemFailure) -> T) throws(DriverError) -> T {
    do throws(SystemFailure) { return try body() } catch { throw DriverError(error) }
  }

  private func forget(_ name: String) throws(SystemFailure) {
    let path = "\(directory)/\(name)"
    if unlink(path) != 0, errno != ENOENT { throw SystemFailure("unlink", path: path) }
  }

  func list() throws(DriverError) -> Listing {
    do throws(SystemFailure) {
      var listing = Listing()
      var told: Set<String> = []
      for name in try Files.names(in: log + "/archive_status").map(\.lossyText) {
        if name.hasSuffix(".ready") {
          listing.ready.append(String(name.dropLast(6)))
          told.insert(String(name.dropLast(6)))
        } else if name.hasSuffix(".done") {
          told.insert(String(name.dropLast(5)))
        }
      }
      listing.ready.sort()
      let names = try Files.names(in: log).map(\.lossyText)
      // The last that was told of, by timeline: all before it are complete, whether the server came to say so or not.
      var last: [Substring: String] = [:]
      for name in told where Self.isSegment(name) { last[name.prefix(8)] = max(last[name.prefix(8)] ?? name, name) }
      for name in names {
        if Self.isSegment(name), let end = last[name.prefix(8)], name <= end { listing.whole.insert(name) }
        if name.hasSuffix(".history") { listing.histories.insert(name) }
      }
      if let any = listing.whole.max() { listing.geometry = try geometry(of: any) }
      listing.marked = Set(try Files.names(in: directory).map(\.lossyText)).subtracting([Self.ownFile])
      return listing
    } catch { throw DriverError(error) }
  }

  static func isSegment(_ name: String) -> Bool {
    name.utf8.count == 24 && name.utf8.allSatisfy { (48...57).contains($0) || (65...70).contains($0) }
  }

  private func geometry(of name: String) throws(SystemFailure) -> LogGeometry? {
    let header = try File("\(log)/\(name)", O_RDONLY).read(at: 0, count: Int(LogGeometry.longHeaderBytes))
    guard header.count == Int(LogGeometry.longHeaderBytes) else { return nil }
    return LogGeometry(
      segmentBytes: UInt64(header.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 32, as: UInt32.self) }))
  }

  func hasSegment(_ name: String) throws(DriverError) -> Bool {
    do throws(SystemFailure) { return try Files.isThere("\(log)/\(name)") } catch { throw DriverError(error) }
  }

  /// - Returns: `nil` if the file is gone.
  func bytes(of name: String, endingAt end: Int64, count: Int) throws(DriverError) -> [UInt8]? {
    do throws(SystemFailure) {
      return try File("\(log)/\(name)", O_RDONLY).read(at: end - Int64(count), count: count)
    } catch {
      if error.number == ENOENT { return nil }
      throw DriverError(error)
    }
  }

  /// A part of a whole segment, as it was written for this cluster and this place.
  ///
  /// Source: PostgreSQL 15, src/include/access/xlog_internal.h, XLogLongPageHeaderData.
  func part(
    of name: String, at offset: Int64, count: Int, _ identifier: String, _ geometry: LogGeometry
  ) throws(DriverError) -> [UInt8] {
    let path = "\(log)/\(name)"
    let bytes: [UInt8]
    let size: Int64
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY)
      size = Int64(try file.status().st_size)
      bytes = try file.read(at: offset, count: count)
    } catch {
      if error.number == ENOENT { throw .logGap("the server threw \(name) away while it was about to be read") }
      throw DriverError(error)
    }
    guard let place = geometry.place(of: LogCursor(name, 0)), size == Int64(geometry.segmentBytes), bytes.count == count
    else { throw .corrupt("\(path) is \(size) bytes long, not \(geometry.segmentBytes)") }
    let problem = bytes.withUnsafeBytes { raw -> String? in
      func word(_ offset: Int) -> UInt64 { raw.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
      if offset == 0, String(word(24)) != identifier { return "belongs to cluster \(word(24))" }
      let page = Int64(LogGeometry.pageBytes)
      let first = Int((offset + page - 1) / page * page - offset)
      for at in stride(from: first, to: raw.count - 15, by: Int(page)) {
        let (found, expected) = (word(at + 8), place.position.value + UInt64(offset) + UInt64(at))
        // After a switch of segments the rest is empty.
        if found == expected || offset + Int64(at) > 0 && word(at) == 0 && found == 0 { continue }
        return "has a page of \(LogSequenceNumber(found)) at \(LogSequenceNumber(expected))"
      }
      return nil
    }
    if let problem { throw .corrupt("\(path) \(problem)") }
    return bytes
  }

  func histories() throws(DriverError) -> [(name: String, bytes: [UInt8])] {
    do throws(SystemFailure) {
      return try Files.names(in: log).map(\.lossyText).filter { $0.hasSuffix(".history") }.sorted()
        .map { name throws(SystemFailure) in (name, try Files.read("\(log)/\(name)", limitBytes: 1 << 20)) }
    } catch { throw DriverError(error) }
  }

  /// The timelines that one comes from, and where each was left.
  func branches(of timeline: UInt32) throws(DriverError) -> [(timeline: UInt32, end: LogSequenceNumber)] {
    let digits = String(timeline, radix: 16, uppercase: true)
    let name = String(repeating: "0", count: max(0, 8 - digits.count)) + digits + ".history"
    let bytes: [UInt8]
    do throws(SystemFailure) { bytes = try Files.read("\(log)/\(name)", limitBytes: 1 << 20) } catch {
      throw DriverError(error)
    }
    guard let branches = PostgreSQLFollower.branches(bytes) else {
      throw .corrupt("the history of timeline \(timeline) makes no sense")
    }
    return branches
  }

  /// Says of these that they are durable, and takes back what nobody waits for any more.
  func mark(_ names: [String], of listing: Listing) throws(DriverError) {
    do throws(SystemFailure) {
      for name in names where !listing.marked.contains(name) {
        // A name of the server's own making, in a directory of ours.
        guard !name.isEmpty, !name.contains("/"), name != Self.ownFile else { continue }
        // An answer that a crash takes is given again.
        _ = try File("\(directory)/\(name)", O_WRONLY | O_CREAT | O_NOFOLLOW, mode: 0o644)
      }
      // The server has renamed its own note before: it will not ask again.
      for name in listing.marked.subtracting(listing.ready) { try forget(name) }
    } catch { throw DriverError(error) }
  }
}
