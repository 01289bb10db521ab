import Core
import DriverKit
import Glibc
import IO

/// The end of a tree's log: what changed is read, and written down.
///
/// Used by one task at a time, on the blocking pool.
final class TreeTail: @unchecked Sendable {
  /// Files up to this size are read whole, again if they changed meanwhile; what a larger one had before it grew stays.
  static let wholeLimitBytes = Int64(ChangeRecord.partBytes)
  private static let tries = 3

  private let tree: Tree
  private let time: any Timekeeper
  private let directory: String
  private let lock: File
  private let watch: TreeWatch
  private let root: SeenEntry
  private var seen = SeenFiles()
  private var notes: SeenNotes?
  private var place: ChangePlace
  private var follows: LogCursor?

  /// What may have changed, the first named first; `true` for those that were written to.
  private var waiting: [TreePath: (wasWritten: Bool, tries: Int)] = [:]
  private var order: [TreePath] = []
  private var next = 0
  private var stream: FileStream?
  /// What was opened last, for what was named together; never kept until more is heard.
  private var last: (path: TreePath, directory: DirectoryReader)?

  /// A file that is too large for one record, while it is read.
  private struct FileStream {
    var path: TreePath
    var file: File
    var metadata: FileMetadata
    var offset: Int64
    var digest = RunningDigest()
    var tries: Int
  }

  var position: LogPosition { place.position }
  /// Readable once something changed.
  var newsDescriptor: Int32 { watch.descriptor }

  /// Lists the tree and watches it from then on.
  ///
  /// - Parameter directory: Where notes are kept.
  init(_ tree: Tree, notes directory: String, _ time: any Timekeeper) throws(DriverError) {
    (self.tree, self.time, self.directory) = (tree, time, directory)
    do throws(SystemFailure) {
      try Files.createDirectory(directory, mode: 0o700)
      lock = try File(directory + "/lock", O_RDWR | O_CREAT, mode: 0o600)
    } catch { throw DriverError(error) }
    guard flock(lock.descriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw .unreachable("the log of \(tree.root): another process follows it")
    }
    watch = try TreeWatch(tree)
    var found = SeenFiles()
    try watch.walk(TreePath()) { found.set($0.path, SeenEntry($0.metadata)) }
    guard let root = found[TreePath()] else { throw .unreachable("\(tree.root): it is gone") }
    (seen, self.root) = (found, root)
    place = ChangePlace(name: "", number: 0, offset: 0)
  }

  /// Another one may follow from now on.
  func close() {
    flock(lock.descriptor, LOCK_UN)
    notes = nil
  }

  // MARK: Where to begin

  /// Goes on where the sink's log ends, with all that became different since; or lets it begin with the tree as it is.
  ///
  /// - Parameter name: For a log that begins.
  func begin(from end: LogEnd?, named name: String, into sink: any LogSink) throws(DriverError) {
    var why: String?
    if let end {
      guard let old = ChangePlace(end.cursor) else {
        throw .corrupt("the log ends at \(end.cursor), which is no place of its own")
      }
      if let known = try SeenNotes.read(directory + "/seen", upTo: old) {
        notes = try SeenNotes.begin(directory + "/seen", name: old.name, known, at: old)
        (place, follows) = (ChangePlace(name: old.name, number: old.number + 1, offset: 0), end.cursor)
        let found = seen
        seen = known
        for (path, entry) in found.entries where known[path] != entry { add(path, wasWritten: false) }
        for path in known.entries.keys where found[path] == nil { add(path, wasWritten: false) }
        order.sort()
        try append([.begin], [.nothing], to: sink)
        return
      }
      why = "what was written down in \(directory) doesn't lead to where the log ends"
    }
    place = ChangePlace(name: name, number: 0, offset: 0)
    notes = try SeenNotes.begin(directory + "/seen", name: name, seen, at: place)
    sink.begin(LogBeginning(stream: "changes", cursor: place.cursor, position: place.position, why: why))
    try append([.begin], [.nothing], to: sink)
  }

  /// - Throws: ``DriverError/unreachable(_:)`` if the directory that is followed isn't the one at the path any more.
  func requireTree() throws(DriverError) {
    let now: FileMetadata
    do throws(SystemFailure) { now = try tree.directory(TreePath()).metadata() } catch {
      throw .unreachable("\(tree.root): it is gone")
    }
    guard SeenEntry(now).isSame(as: root) else { throw .unreachable("\(tree.root): another directory has its place") }
  }

  /// What was noted survives a power cut.
  ///
  /// - Parameter long: How many lines of notes are begun anew.
  func synchronize(durable: LogPosition?, long: Int) throws(DriverError) {
    try notes?.synchronize()
    try notes?.renew(seen, at: place, durable: durable.flatMap { ChangePlace($0) }, long: long)
  }

  // MARK: Shipping

  /// Reads what changed until nothing is left, the sink is full, or some time has passed.
  ///
  /// - Returns: Whether all that was done before this call is in the log.
  func ship(into sink: any LogSink) throws(DriverError) -> Bool {
    let until = time.monotonicNanoseconds() + 200_000_000
    while sink.hasRoom {
      if stream != nil {
        try goOn(into: sink)
      } else if next < order.count {
        try look(at: order[next], into: sink)
      } else {
        (order, next) = ([], 0)
        try hear()
        if order.isEmpty {
          let mark = LogMark(position: place.position, completeUntil: time.now())
          sink.note(mark)
          return true
        }
      }
      if time.monotonicNanoseconds() >= until { return false }
    }
    return false
  }

  /// Takes over what the watch has named.
  private func hear() throws(DriverError) {
    last = nil
    let news = try watch.news()
    if news.isOverflown {
      var found = SeenFiles()
      try watch.walk(TreePath()) { found.set($0.path, SeenEntry($0.metadata)) }
      for (path, entry) in found.entries where seen[path] != entry { add(path, wasWritten: true) }
      for path in seen.entries.keys where found[path] == nil { add(path, wasWritten: false) }
    }
    for (path, wasWritten) in news.touched.sorted(by: { $0.key < $1.key }) { add(path, wasWritten: wasWritten) }
  }

  private func add(_ path: TreePath, wasWritten: Bool, tries: Int = 0) {
    if let known = waiting[path] {
      waiting[path] = (known.wasWritten || wasWritten, max(known.tries, tries))
    } else {
      waiting[path] = (wasWritten, tries)
      order.append(path)
    }
  }

  private func look(at path: TreePath, into sink: any LogSink) throws(DriverError) {
    let (wasWritten, tries) = waiting.removeValue(forKey: path) ?? (false, 0)
    next += 1
    let known = seen[path]
    guard let metadata = try metadata(of: path) else {
      guard known != nil else { return }
      let others = seen.otherNames(of: path, nil)
      try remove(path, into: sink)
      for other in others { add(other, wasWritten: false) }
      return
    }
    let found = SeenEntry(metadata)
    if known == found, !wasWritten { return }
    for other in seen.otherNames(of: path, found) where seen[other]?.changed != found.changed {
      add(other, wasWritten: wasWritten)
    }
    // One that was replaced takes with it what it had below.
    if let known, known.kind == .directory || found.kind == .directory,
      known.kind != found.kind || !known.isSame(as: found)
    {
      try remove(path, into: sink)
    }
    switch found.kind {
    case .directory:
      var metadata = metadata
      if seen[path] == nil {
        do throws(DriverError) {
          // As it is now that it is watched: what was done in it before has no event.
          try watch.walk(path) { entry in
            if entry.path == path { metadata = entry.metadata } else { self.add(entry.path, wasWritten: false) }
          }
        } catch {
          // It is gone again, which has an event of its own.
          guard case .unreachable = error else { throw error }
          return
        }
      }
      try append(
        [.entry(path: path, metadata: metadata, content: .kept)], [.entry(path, SeenEntry(metadata))], to: sink)
    case .other:
      try append([.entry(path: path, metadata: metadata, content: .kept)], [.entry(path, found)], to: sink)
    case .file:
      if let known, !wasWritten, found.hasContent(of: known) {
        return try append([.entry(path: path, metadata: metadata, content: .kept)], [.entry(path, found)], to: sink)
      }
      try read(path, metadata, known, tries, into: sink)
    }
  }

  private func remove(_ path: TreePath, into sink: any LogSink) throws(DriverError) {
    last = nil
    try append([.removed(path)], [.removed(path)], to: sink)
    seen.remove(path) { self.watch.forget($0) }
  }

  private func directory(_ path: TreePath) throws(SystemFailure) -> DirectoryReader {
    if let last, last.path == path { return last.directory }
    let directory = try tree.directory(path)
    last = (path, directory)
    return directory
  }

  private func metadata(of path: TreePath) throws(DriverError) -> FileMetadata? {
    do throws(SystemFailure) {
      guard let name = path.last else { return try tree.directory(path).metadata() }
      return try directory(path.parent).metadata(of: name)
    } catch {
      if [ENOENT, ENOTDIR, ELOOP].contains(error.number) { return nil }
      throw Tree.error(error)
    }
  }

  /// - Parameter before: What the file was when it was looked at.
  private func read(
    _ path: TreePath, _ before: FileMetadata, _ known: SeenEntry?, _ tries: Int, into sink: any LogSink
  ) throws(DriverError) {
    let file: File
    do throws(SystemFailure) {
      guard let name = path.last else { return }
      let opened: stat
      (file, opened) = try directory(path.parent).open(name)
      guard UInt64(opened.st_ino) == before.inode, UInt64(opened.st_dev) == before.device else {
        return add(path, wasWritten: true, tries: tries)
      }
    } catch {
      // What took its place has an event of its own.
      if [ENOENT, ENOTDIR, ELOOP, EINVAL].contains(error.number) { return }
      throw Tree.error(error)
    }
    let found = SeenEntry(before)
    let grewFrom = known.flatMap { known in
      known.isSame(as: found) && known.kind == .file && known.size >= Self.wholeLimitBytes && found.size > known.size
        ? known.size : nil
    }
    let content = grewFrom.map { ChangeRecord.Content.grown(from: $0) } ?? .whole
    let entry = ChangeRecord.entry(path: path, metadata: before, content: content)
    let start = grewFrom ?? 0
    guard found.size - start <= Self.wholeLimitBytes else {
      stream = FileStream(path: path, file: file, metadata: before, offset: start, tries: tries)
      return try append([entry], [.underWay], to: sink)
    }
    let bytes: [UInt8]
    let after: stat
    do throws(SystemFailure) {
      bytes = try file.read(at: start, count: Int(found.size - start))
      after = try file.status()
    } catch { throw Tree.error(error) }
    guard Int64(bytes.count) == found.size - start, isAsRead(after, before) || tries >= Self.tries else {
      return add(path, wasWritten: true, tries: tries + 1)
    }
    try append(
      [entry, .data(bytes), .end(Digest.of(bytes))], [.underWay, .underWay, .entry(path, found)], to: sink)
  }

  /// Whether a file is as it was, or only longer.
  private func isAsRead(_ after: stat, _ before: FileMetadata) -> Bool {
    let size = Int64(after.st_size)
    return size > before.size
      || size == before.size && Timestamp(after.st_mtim) == before.modified
        && Timestamp(after.st_ctim) == before.changed
  }

  /// One more part of a large file.
  private func goOn(into sink: any LogSink) throws(DriverError) {
    guard var reading = stream else { return }
    let left = reading.metadata.size - reading.offset
    if left > 0 {
      let bytes: [UInt8]
      do throws(SystemFailure) {
        bytes = try reading.file.read(at: reading.offset, count: Int(min(left, Int64(ChangeRecord.partBytes))))
      } catch { throw Tree.error(error) }
      guard !bytes.isEmpty else {
        stream = nil
        add(reading.path, wasWritten: true, tries: reading.tries + 1)
        return try append([.end(nil)], [.nothing], to: sink)
      }
      reading.digest.update(bytes)
      reading.offset += Int64(bytes.count)
      stream = reading
      return try append([.data(bytes)], [.underWay], to: sink)
    }
    let after: stat
    do throws(SystemFailure) { after = try reading.file.status() } catch { throw Tree.error(error) }
    stream = nil
    guard isAsRead(after, reading.metadata) || reading.tries >= Self.tries else {
      add(reading.path, wasWritten: true, tries: reading.tries + 1)
      return try append([.end(nil)], [.nothing], to: sink)
    }
    try append([.end(reading.digest.finish())], [.entry(reading.path, SeenEntry(reading.metadata))], to: sink)
  }

  /// Notes first: they may know of more than the log has, never of less.
  private func append(
    _ records: [ChangeRecord], _ changes: [SeenNotes.Change], to sink: any LogSink
  ) throws(DriverError) {
    let now = time.now()
    var bytes: [UInt8] = []
    var end = place
    for (record, change) in zip(records, changes) {
      bytes += record.bytes(seen: now)
      end.offset = place.offset + Int64(bytes.count)
      notes?.note(change, at: end)
    }
    try notes?.write()
    try sink.append(
      LogChunk(
        file: place.file, offset: place.offset, bytes: bytes, follows: follows,
        mark: LogMark(position: end.position, firstCommit: now, lastCommit: now)))
    follows = nil
    place = end
    for case .entry(let path, let entry) in changes { seen.set(path, entry) }
  }
}
