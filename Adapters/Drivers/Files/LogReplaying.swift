import Core
import DriverKit
import Glibc
import IO

/// Where a restore went beyond its copy's mark.
struct Reached: Sendable, Equatable {
  var position: LogPosition
  var changes: Int64 = 0
  /// When the last change was seen, and the next one that is not in it.
  var time: Timestamp?
  var next: Timestamp?

  var proof: String {
    var text = "\(changes) changes of the log, to \(position.value), each file's SHA-256 as it was when it was read"
    if let time { text += ", seen at \(time)" }
    if let next { text += "; the next was seen at \(next)" }
    return text
  }
}

extension FilesDriver {
  /// Brings a copy of the tree to a later state.
  ///
  /// - Parameters:
  ///   - place: The copy; it is changed.
  ///   - spill: Where the log's bytes are put meanwhile.
  func goForward(
    _ replay: LogReplay, from capture: CaptureResult, place: String, spill: String
  ) async throws(DriverError) -> Reached {
    try requireKnown(replay.target)
    guard let mark = ChangePlace(capture.position) else {
      throw .unsupported("the copy was made while nobody followed the tree, so no log leads on from it")
    }
    let parts = try await SpilledPart.fetch(replay.source, into: spill, on: pool) {
      ChangePlace(LogCursor($0, 0)) != nil
    }
    let target = replay.target
    return try await pool.run { () throws(DriverError) -> Reached in
      let log: File
      do throws(SystemFailure) { log = try File(spill, O_RDONLY) } catch { throw DriverError(error) }
      var history = TreeHistory(log: log, from: mark, target: target)
      for part in parts where !history.isOver { try history.take(part) }
      do throws(SystemFailure) {
        let writer = TreeHistoryWriter(try TreeTarget(place), log)
        try writer.write(history.root)
        try Files.removeTree(spill)
      } catch {
        throw error.number == EBADMSG
          ? ChangeRecord.damaged("it doesn't lead on from the copy (\(error.path ?? ""))") : DriverError(error)
      }
      return history.reached
    }
  }

  func requireKnown(_ target: LogTarget) throws(DriverError) {
    switch target {
    case .newest, .time: break
    case .name, .transaction:
      throw .unsupported("a tree's log has neither names nor transaction ids: say --newest, --to or --position")
    }
  }
}

/// What a log makes of a tree, gathered before anything is written: of a file that changed a thousand times only the last
/// state is.
final class TreeHistoryNode {
  var children: [FileName: TreeHistoryNode] = [:]
  /// What the copy has here goes first.
  var isWiped = false
  var item: Item?

  struct Item {
    var metadata: FileMetadata
    var content: Content
  }

  enum Content {
    /// No file, or what the copy has.
    case kept
    /// Pieces of the log, from that place of the copy's file on.
    case pieces([Piece], from: Int64)
  }

  /// Bytes of the spilled log.
  struct Piece {
    var at: Int64
    var size: Int64
  }
}

/// Reads a log, record by record.
struct TreeHistory {
  let root = TreeHistoryNode()
  private(set) var reached: Reached
  private(set) var isOver = false
  private let log: File
  private let mark: ChangePlace
  private let target: LogTarget
  private var isBegun = false
  /// Where the next record is expected, as far as that is known.
  private var place: ChangePlace
  /// A file whose content comes.
  private var open: (path: TreePath, metadata: FileMetadata, from: Int64, pieces: [TreeHistoryNode.Piece])?
  private var digest = RunningDigest()
  private var size: Int64 = 0

  init(log: File, from mark: ChangePlace, target: LogTarget) {
    (self.log, self.mark, self.target) = (log, mark, target)
    place = mark
    reached = Reached(position: mark.position)
  }

  mutating func take(_ part: SpilledPart) throws(DriverError) {
    guard var here = ChangePlace(LogCursor(part.extent.file, part.extent.from)), here.name == mark.name else {
      throw .logGap("the log is not the one that the copy belongs to")
    }
    let end = ChangePlace(name: here.name, number: here.number, offset: part.extent.to)
    var at = part.at
    if end <= place, !isBegun { return }
    if here.number == place.number {
      guard here <= place else {
        throw .logGap("the log begins at \(here.position.value), the copy ends at \(place.position.value)")
      }
      at += place.offset - here.offset
      here = place
    } else {
      // A follower that was killed in the middle of a record never came back to it.
      guard place.number < here.number, here.offset == 0 else {
        throw .logGap("the log goes on at \(here.position.value), and it was read to \(place.position.value)")
      }
      open = nil
    }
    isBegun = true
    place = here
    while place.offset < end.offset, !isOver {
      let head = try bytes(at: at, 4)
      guard head.count == 4 else { throw ChangeRecord.damaged("it ends early") }
      let length = Int64(head.reduce(0) { $0 << 8 | UInt32($1) })
      guard length >= 9, length <= Int64(ChangeRecord.limitBytes) else {
        throw ChangeRecord.damaged("a record has an impossible length")
      }
      guard place.offset + 4 + length <= end.offset else {
        // Killed in the middle of it.
        place = end
        return
      }
      let record = try bytes(at: at + 4, Int(length))
      guard record.count == Int(length) else { throw ChangeRecord.damaged("it ends early") }
      let seen = ChangeRecord.seen(record)
      if case .time(let time) = target, seen > time {
        (reached.next, isOver) = (seen, true)
        return
      }
      try take(try ChangeRecord(record), dataAt: at + 13)
      at += 4 + length
      place.offset += 4 + length
      if open == nil { (reached.position, reached.time) = (place.position, seen) }
    }
  }

  private func bytes(at offset: Int64, _ count: Int) throws(DriverError) -> [UInt8] {
    do throws(SystemFailure) { return try log.read(at: offset, count: count) } catch { throw DriverError(error) }
  }

  private mutating func take(_ record: ChangeRecord, dataAt: Int64) throws(DriverError) {
    switch record {
    case .begin: open = nil
    case .removed(let path):
      guard open == nil, !path.components.isEmpty else { throw ChangeRecord.damaged("a removal that can't be") }
      let node = descend(path)
      (node.children, node.item, node.isWiped) = ([:], nil, true)
      reached.changes += 1
    case .entry(let path, let metadata, let content):
      guard open == nil else { throw ChangeRecord.damaged("an entry inside another") }
      switch content {
      case .kept: put(path, metadata)
      case .whole, .grown:
        var from: Int64 = 0
        if case .grown(let offset) = content { from = offset }
        (open, digest, size) = ((path, metadata, from, []), RunningDigest(), 0)
      }
    case .data(let bytes):
      guard open != nil else { throw ChangeRecord.damaged("data of no file") }
      digest.update(bytes)
      size += Int64(bytes.count)
      open?.pieces.append(.init(at: dataAt, size: Int64(bytes.count)))
    case .end(let expected):
      guard let file = open else { throw ChangeRecord.damaged("an end of no file") }
      open = nil
      guard let expected else { return }
      guard digest.finish() == expected,
        file.from + size == file.metadata.size || file.from == 0 && size <= file.metadata.size
      else { throw ChangeRecord.damaged("the content of \(file.path) is not what was read") }
      put(file.path, file.metadata, file.pieces, from: file.from, size: size)
    }
  }

  private func descend(_ path: TreePath) -> TreeHistoryNode {
    path.components.reduce(root) { node, name in
      if let child = node.children[name] { return child }
      let child = TreeHistoryNode()
      node.children[name] = child
      return child
    }
  }

  /// An entry without content, or with the content it has.
  private mutating func put(_ path: TreePath, _ metadata: FileMetadata) {
    reached.changes += 1
    let node = descend(path)
    switch metadata.kind {
    case .directory:
      if let old = node.item, old.metadata.kind != .directory { node.isWiped = true }
      node.item = .init(metadata: metadata, content: .kept)
    case .regular:
      let content = node.item.flatMap { $0.metadata.kind == .regular ? $0.content : nil } ?? .kept
      node.item = .init(metadata: metadata, content: content)
    default:
      (node.children, node.isWiped) = ([:], true)
      node.item = .init(metadata: metadata, content: .kept)
    }
  }

  private mutating func put(
    _ path: TreePath, _ metadata: FileMetadata, _ pieces: [TreeHistoryNode.Piece], from: Int64, size: Int64
  ) {
    reached.changes += 1
    let node = descend(path)
    var metadata = metadata
    metadata.size = from + size
    if from > 0, case .pieces(let old, let start)? = node.item?.content,
      old.reduce(start, { $0 + $1.size }) == from
    {
      node.item = .init(metadata: metadata, content: .pieces(old + pieces, from: start))
      return
    }
    node.children = [:]
    if from == 0 { node.isWiped = true }
    node.item = .init(metadata: metadata, content: .pieces(pieces, from: from))
  }
}

/// Writes what a log made of a tree; blocks.
private final class TreeHistoryWriter {
  private let target: TreeTarget
  private let log: File
  private let rights = RestoreRights()
  /// The first name that was written of each file that has several.
  private var linked: [Linked: TreePath] = [:]

  private struct Linked: Hashable {
    var device: UInt64
    var inode: UInt64
    var size: Int64
    var modified: Timestamp
  }

  init(_ target: TreeTarget, _ log: File) { (self.target, self.log) = (target, log) }

  func write(_ root: TreeHistoryNode) throws(SystemFailure) {
    try write(root, at: TreePath())
    try target.synchronize()
  }

  /// The directory `path` is there.
  private func write(_ node: TreeHistoryNode, at path: TreePath) throws(SystemFailure) {
    let directory = try target.directory(path)
    for (name, child) in node.children.sorted(by: { $0.key < $1.key }) {
      let below = path.appending(name)
      if child.isWiped { try directory.removeAll(name) }
      switch child.item?.metadata.kind {
      case .regular?:
        if let item = child.item { try writeFile(item, name, in: directory, below) }
      case .directory?, nil:
        // A directory that only holds what changed is there, unless its own record didn't come any more.
        if child.item == nil, child.children.isEmpty { continue }
        do throws(SystemFailure) { try directory.makeDirectory(name) } catch {
          guard error.number == EEXIST else { throw error }
        }
        try write(child, at: below)
      case let kind?:
        try directory.make(kind, name)
        if let metadata = child.item?.metadata { try directory.apply(metadata, to: name, rights) }
      }
    }
    // Last: what is written into it changes its times.
    if let metadata = node.item?.metadata {
      let own = try target.open(path, O_RDONLY | O_DIRECTORY)
      try own.removeAttributes(notIn: metadata, rights)
      try own.apply(metadata, rights)
    }
  }

  private func writeFile(
    _ item: TreeHistoryNode.Item, _ name: FileName, in directory: TargetDirectory, _ path: TreePath
  ) throws(SystemFailure) {
    let file: File
    if item.metadata.links > 1 {
      let key = Linked(
        device: item.metadata.device, inode: item.metadata.inode, size: item.metadata.size,
        modified: item.metadata.modified)
      if let first = linked[key], let last = first.last {
        try directory.removeAll(name)
        return try directory.link(last, in: try target.directory(first.parent), as: name)
      }
      linked[key] = path
    }
    switch item.content {
    case .kept:
      file = try opened(name, in: directory, atLeast: nil)
      try file.removeAttributes(notIn: item.metadata, rights)
    case .pieces(let pieces, let from):
      file = from == 0 ? try directory.createFile(name) : try opened(name, in: directory, atLeast: from)
      var at = from
      for piece in pieces {
        let bytes = try log.read(at: piece.at, count: Int(piece.size))
        try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: at) }
        at += Int64(bytes.count)
      }
      if from > 0 { try file.truncate(to: at) }
    }
    try file.apply(item.metadata, rights)
  }

  /// A file of the copy.
  private func opened(_ name: FileName, in directory: TargetDirectory, atLeast size: Int64?) throws(SystemFailure)
    -> File
  {
    let file: File
    do throws(SystemFailure) { file = try directory.openFile(name) } catch {
      guard error.number == ENOENT || error.number == ELOOP || error.number == EISDIR else { throw error }
      throw SystemFailure("replay", path: directory.shown(name), number: EBADMSG)
    }
    if let size, Int64(try file.status().st_size) < size {
      throw SystemFailure("replay", path: directory.shown(name), number: EBADMSG)
    }
    return file
  }
}
