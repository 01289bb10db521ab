import Core
import DriverKit
import Glibc
import IO

/// What tells that an entry is as it was.
struct SeenEntry: Hashable, Sendable {
  enum Kind: String, Sendable { case file, directory, other }

  var kind: Kind
  var device: UInt64
  var inode: UInt64
  var links: UInt64
  var size: Int64
  var modified: Timestamp
  var changed: Timestamp

  init(_ metadata: FileMetadata) {
    switch metadata.kind {
    case .regular: kind = .file
    case .directory: kind = .directory
    default: kind = .other
    }
    (device, inode, size) = (metadata.device, metadata.inode, kind == .file ? metadata.size : 0)
    links = kind == .file ? metadata.links : 1
    (modified, changed) = (metadata.modified, metadata.changed)
  }

  /// Whether content that was read before is its content still.
  func hasContent(of other: SeenEntry) -> Bool {
    kind == other.kind && isSame(as: other) && size == other.size && modified == other.modified
  }

  func isSame(as other: SeenEntry) -> Bool { device == other.device && inode == other.inode }

  fileprivate init?(_ words: [Substring]) {
    guard words.count == 7, let kind = Kind(rawValue: String(words[0])), let device = UInt64(words[1]),
      let inode = UInt64(words[2]), let links = UInt64(words[3]), let size = Int64(words[4]),
      let modified = Int64(words[5]), let changed = Int64(words[6])
    else { return nil }
    (self.kind, self.device, self.inode, self.links, self.size) = (kind, device, inode, links, size)
    self.modified = Timestamp(nanoseconds: modified)
    self.changed = Timestamp(nanoseconds: changed)
  }

  fileprivate var text: String {
    "\(kind.rawValue) \(device) \(inode) \(links) \(size) \(modified.nanoseconds) \(changed.nanoseconds)"
  }
}

/// What the log has of every entry, in memory.
struct SeenFiles: Sendable {
  private(set) var entries: [TreePath: SeenEntry] = [:]
  private var names: [TreePath: Set<FileName>] = [:]
  /// Files by what they are: a second name is no event for the first.
  private var known: [Inode: [TreePath]] = [:]

  private struct Inode: Hashable, Sendable {
    var device: UInt64
    var number: UInt64
  }

  subscript(path: TreePath) -> SeenEntry? { entries[path] }

  mutating func set(_ path: TreePath, _ entry: SeenEntry) {
    unlink(path)
    entries[path] = entry
    if let name = path.last { names[path.parent, default: []].insert(name) }
    if entry.kind == .file { known[Inode(device: entry.device, number: entry.inode), default: []].append(path) }
  }

  /// Removes an entry and all below it.
  mutating func remove(_ path: TreePath, each: (TreePath) -> Void = { _ in }) {
    for name in names.removeValue(forKey: path) ?? [] { remove(path.appending(name), each: each) }
    unlink(path)
    if entries.removeValue(forKey: path) != nil { each(path) }
    if let name = path.last { names[path.parent]?.remove(name) }
  }

  /// The other names of a file that had several, or has.
  func otherNames(of path: TreePath, _ found: SeenEntry?) -> [TreePath] {
    var result: Set<TreePath> = []
    for entry in [entries[path], found].compactMap(\.self) where entry.links > 1 {
      result.formUnion(known[Inode(device: entry.device, number: entry.inode)] ?? [])
    }
    return result.filter { $0 != path }.sorted()
  }

  private mutating func unlink(_ path: TreePath) {
    guard let old = entries[path], old.kind == .file else { return }
    let inode = Inode(device: old.device, number: old.inode)
    known[inode]?.removeAll { $0 == path }
    if known[inode]?.isEmpty == true { known[inode] = nil }
  }
}

/// ``SeenFiles`` on disk, so that a follower that comes again knows what the log has.
///
/// A line is written before the record it speaks of goes into the log; those beyond the log's end are left out when it is
/// read. After a power cut lines may be missing: then it doesn't lead to the log's end, and says so.
///
/// A file of lines: the place in the log behind the record, then `+` an entry and its path, `-` a path, `=` for a record that
/// changes nothing, or `?` for content that is longer than one piece and under way.
final class SeenNotes {
  private let path: String
  private var file: File
  private var pending: [UInt8] = []
  private var lines = 0
  /// Shorter ones that take the place of these as soon as the log is durable to where they begin.
  private var successor: (notes: SeenNotes, since: ChangePlace)?

  private static let head = "salvor-seen 1\n"

  private init(_ path: String, _ file: File) { (self.path, self.file) = (path, file) }

  enum Change: Sendable {
    case entry(TreePath, SeenEntry)
    case removed(TreePath)
    case nothing
    case underWay
  }

  func note(_ change: Change, at place: ChangePlace) {
    lines += 1
    let start = "\(place.number) \(place.offset) "
    switch change {
    case .entry(let path, let entry): pending += Array("\(start)+ \(entry.text) \(Self.text(path))\n".utf8)
    case .removed(let path): pending += Array("\(start)- \(Self.text(path))\n".utf8)
    case .nothing: pending += Array("\(start)=\n".utf8)
    case .underWay: pending += Array("\(start)?\n".utf8)
    }
    successor?.notes.note(change, at: place)
  }

  /// Everything noted is where another process finds it.
  func write() throws(DriverError) {
    guard !pending.isEmpty else { return }
    do throws(SystemFailure) {
      try pending.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw) }
    } catch { throw DriverError(error) }
    pending.removeAll(keepingCapacity: true)
    try successor?.notes.write()
  }

  func synchronize() throws(DriverError) {
    do throws(SystemFailure) { try file.synchronize() } catch { throw DriverError(error) }
  }

  /// Begins notes anew when they have become long, so that they don't grow for as long as somebody follows.
  ///
  /// What was known at `place` says nothing of a log that ends before it, so the old ones stay until it is durable.
  ///
  /// - Parameters:
  ///   - seen: What the log has at `place`, where it ends now.
  ///   - long: How many lines beyond four for every entry are long.
  func renew(_ seen: SeenFiles, at place: ChangePlace, durable: ChangePlace?, long: Int) throws(DriverError) {
    if let (notes, since) = successor {
      guard let durable, durable.name == since.name, durable >= since else { return }
      try notes.adopt()
      (file, lines, successor) = (notes.file, notes.lines, nil)
    } else if lines > long + 4 * seen.entries.count {
      successor = (try Self.draft(path, name: place.name, seen, at: place), place)
    }
  }

  /// Puts down all that is known, in the place of what was there.
  static func begin(_ path: String, name: String, _ seen: SeenFiles, at place: ChangePlace) throws(DriverError)
    -> SeenNotes
  {
    let notes = try draft(path, name: name, seen, at: place)
    try notes.adopt()
    return notes
  }

  private func adopt() throws(DriverError) {
    do throws(SystemFailure) {
      try file.synchronize()
      try Files.rename(path + ".new", to: path)
      try Files.synchronizeDirectory(Files.parent(of: path))
    } catch { throw DriverError(error) }
  }

  private static func draft(_ path: String, name: String, _ seen: SeenFiles, at place: ChangePlace) throws(DriverError)
    -> SeenNotes
  {
    do throws(SystemFailure) {
      let next = path + ".new"
      let file = try File(next, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
      let notes = SeenNotes(path, file)
      notes.pending = Array("\(head)\(name)\n".utf8)
      for (path, entry) in seen.entries {
        notes.note(.entry(path, entry), at: place)
        if notes.pending.count > 1 << 20 {
          do throws(DriverError) { try notes.write() } catch { throw failure(error, next) }
        }
      }
      do throws(DriverError) { try notes.write() } catch { throw failure(error, next) }
      notes.lines = 0
      return notes
    } catch { throw DriverError(error) }
  }

  private static func failure(_ error: DriverError, _ path: String) -> SystemFailure {
    SystemFailure("write \(path): \(error.report.summary)", number: EIO)
  }

  /// What the log had at `end`.
  ///
  /// - Returns: `nil` if there are no notes of that log, or they don't lead there.
  static func read(_ path: String, upTo end: ChangePlace) throws(DriverError) -> SeenFiles? {
    let bytes: [UInt8]
    do throws(SystemFailure) { bytes = try Files.read(path, limitBytes: 4 << 30) } catch {
      if error.number == ENOENT { return nil }
      throw DriverError(error)
    }
    let start = Array("\(head)\(end.name)\n".utf8)
    guard bytes.starts(with: start) else { return nil }
    var seen = SeenFiles()
    var last: ChangePlace?
    var isUnderWay = false
    for line in bytes[start.count...].split(separator: 10) {
      let words = String(decoding: line, as: UTF8.self).split(separator: " ", omittingEmptySubsequences: false)
      guard words.count >= 3, let number = Int(words[0]), let offset = Int64(words[1]) else { return nil }
      let place = ChangePlace(name: end.name, number: number, offset: offset)
      // They begin with what was known at a later place: nothing can be said of this one.
      if last == nil, end < place { return nil }
      last = place
      if end < place { continue }
      isUnderWay = words[2] == "?"
      switch (words[2], words.count) {
      case ("?", 3), ("=", 3): break
      case ("-", 4):
        guard let path = Self.path(words[3]) else { return nil }
        seen.remove(path)
      case ("+", 11):
        guard let entry = SeenEntry(Array(words[3..<10])), let path = Self.path(words[10]) else { return nil }
        if seen[path].map({ !$0.isSame(as: entry) || $0.kind != entry.kind }) == true { seen.remove(path) }
        seen.set(path, entry)
      default: return nil
      }
    }
    guard let last, last >= end || isUnderWay else { return nil }
    return seen
  }

  private static func text(_ path: TreePath) -> String { "/" + Base64.encode(path.bytes(below: "")) }

  private static func path(_ text: Substring) -> TreePath? {
    guard text.first == "/", let bytes = Base64.decode(String(text.dropFirst())) else { return nil }
    if bytes.isEmpty { return TreePath() }
    var names: [FileName] = []
    for part in bytes.dropFirst().split(separator: 47, omittingEmptySubsequences: false) {
      guard let name = FileName(untrusted: Array(part)) else { return nil }
      names.append(name)
    }
    return TreePath(names)
  }
}
