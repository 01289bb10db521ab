import Core
import IO
import Synchronization

/// A sink and a source in memory, stricter than a vault: a driver that passes here owes no vault anything.
///
/// Refuses a path twice, names that can't be a name, content for what isn't a regular file (and a regular file without),
/// an entry below one that isn't a directory, and more than ``limitBytes`` in all.
package final class MemoryTree: TreeSink, EarlierTree {
  package struct Entry: Sendable, Equatable {
    package var metadata: FileMetadata
    package var cutting: Cutting
    package var content: [UInt8]
  }

  package let limitBytes: Int
  private let state: Mutex<[TreePath: Entry]>
  /// The tree whose parts this one may take over.
  private let earlier: MemoryTree?
  /// Parts that were asked for, by their SHA-256.
  private let known = Mutex<[Digest: [UInt8]]>([:])

  package init(limitBytes: Int = 256 << 20, after earlier: MemoryTree? = nil) {
    self.limitBytes = limitBytes
    self.earlier = earlier
    state = Mutex([:])
  }

  private init(_ entries: [TreePath: Entry], limitBytes: Int) {
    self.limitBytes = limitBytes
    earlier = nil
    state = Mutex(entries)
  }

  package var entries: [TreePath: Entry] { state.withLock { $0 } }

  package var totalBytes: Int64 { entries.values.reduce(0) { $0 + Int64($1.content.count) } }

  // MARK: Sink

  package func add(
    _ path: TreePath, _ metadata: FileMetadata, cutting: Cutting, content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    do {
      try check(path, metadata, hasContent: content != nil)
      if case .fixed(let bytes) = cutting, bytes <= 0 { throw ContractBroken("\(path): cut every \(bytes) bytes") }
      let bytes: [UInt8]
      if let content {
        let limit = limitBytes
        bytes = try await BlockingPool.shared.run { try Self.drain(try content(), limitBytes: limit) }
      } else {
        bytes = []
      }
      try state.withLock { entries in
        guard entries[path] == nil else { throw ContractBroken("the sink got \(path) twice") }
        let total = entries.values.reduce(bytes.count) { $0 + $1.content.count }
        guard total <= limitBytes else { throw ContractBroken("the sink got more than \(limitBytes) bytes") }
        var stored = metadata
        if metadata.kind == .regular { stored.size = Int64(bytes.count) }
        entries[path] = Entry(metadata: stored, cutting: cutting, content: bytes)
      }
      return StoredFile(size: Int64(bytes.count), addedBytes: Int64(bytes.count))
    } catch {
      throw AnyFailure(error)
    }
  }

  package func add(
    _ path: TreePath, _ metadata: FileMetadata, partBytes: Int, parts: [Digest?], content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    do {
      let limit = limitBytes
      var new: [UInt8] = []
      if let content { new = try await BlockingPool.shared.run { try Self.drain(try content(), limitBytes: limit) } }
      var (bytes, taken) = ([UInt8](), 0)
      for (index, part) in parts.enumerated() {
        if let part {
          guard let known = earlier?.part(part) else { throw ContractBroken("\(path): part \(index) is not here") }
          guard known.count == partBytes || index == parts.count - 1 else {
            throw ContractBroken("\(path): part \(index) is too short")
          }
          bytes += known
        } else {
          let end = min(taken + partBytes, new.count)
          guard taken < end, end - taken == partBytes || index == parts.count - 1 else {
            throw ContractBroken("\(path): too little was read for part \(index)")
          }
          bytes += new[taken..<end]
          taken = end
        }
      }
      guard taken == new.count else { throw ContractBroken("\(path): more was read than is missing") }
      let whole = bytes
      return try await add(path, metadata, cutting: .fixed(bytes: partBytes)) { MemorySource(whole) }
    } catch { throw AnyFailure(error) }
  }

  /// A part of a file, by its SHA-256.
  private func part(_ digest: Digest) -> [UInt8]? { known.withLock { $0[digest] } }

  package func file(_ path: TreePath, cutEvery bytes: Int) async throws(AnyFailure) -> EarlierFile? {
    guard let entry = entries[path], entry.cutting == .fixed(bytes: bytes) else { return nil }
    var parts: [Digest] = []
    for start in stride(from: 0, to: entry.content.count, by: bytes) {
      let part = Array(entry.content[start..<min(start + bytes, entry.content.count)])
      let digest = Digest.of(part)
      known.withLock { $0[digest] = part }
      parts.append(digest)
    }
    return EarlierFile(size: Int64(entry.content.count), parts: parts)
  }

  package func read(
    _ parts: [Digest], each: @escaping @Sendable (Digest, [UInt8]) async throws(AnyFailure) -> Void
  ) async throws(AnyFailure) {
    for digest in Set(parts).sorted() {
      guard let bytes = part(digest) else { throw AnyFailure(ContractBroken("part \(digest.hex) is not here")) }
      try await each(digest, bytes)
    }
  }

  private func check(_ path: TreePath, _ metadata: FileMetadata, hasContent: Bool) throws {
    for name in path.components where FileName(untrusted: name.bytes) == nil {
      throw ContractBroken("the sink got a path with the component '\(name)'")
    }
    if path.components.isEmpty, metadata.kind != .directory { throw ContractBroken("the root must be a directory") }
    if hasContent != (metadata.kind == .regular) { throw ContractBroken("\(path): content and kind don't agree") }
    try state.withLock { entries in
      guard entries[path] == nil else { throw ContractBroken("the sink got \(path) twice") }
      var parent = path
      while !parent.components.isEmpty {
        parent = parent.parent
        if let entry = entries[parent], entry.metadata.kind != .directory {
          throw ContractBroken("\(path) lies below \(parent), which is no directory")
        }
      }
    }
  }

  private static func drain(_ source: any ByteSource, limitBytes: Int) throws -> [UInt8] {
    var result: [UInt8] = []
    // An odd size, so that nobody relies on reads that end where pages end.
    var buffer = [UInt8](repeating: 0, count: 40_961)
    while true {
      let count = try buffer.withUnsafeMutableBytes { try source.read(into: $0) }
      guard count > 0 else { return result }
      result += buffer[..<count]
      guard result.count <= limitBytes else { throw ContractBroken("a file of more than \(limitBytes) bytes") }
    }
  }

  // MARK: Source

  package func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] {
    var all = entries
    for path in all.keys {
      var parent = path
      while !parent.components.isEmpty {
        parent = parent.parent
        if all[parent] == nil { all[parent] = Entry(metadata: .plainDirectory, cutting: .content, content: []) }
      }
    }
    let depth = root.components.count
    return all.filter { $0.key.components.count > depth && Array($0.key.components.prefix(depth)) == root.components }
      .map { TreeEntry(path: TreePath(Array($0.key.components.dropFirst(depth))), metadata: $0.value.metadata) }
      .sorted { $0.path < $1.path }
  }

  package func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    guard let entry = entries[path], entry.metadata.kind == .regular else {
      throw AnyFailure(SystemFailure("open", path: path.description, number: 2))
    }
    guard entry.content.count <= limitBytes else { throw AnyFailure(ContractBroken("\(path) is too large")) }
    return entry.content
  }

  package func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    let list = try await entries(below: root)
    let all = entries
    do {
      try await BlockingPool.shared.run {
        let writer = try TreeWriter(directory)
        var done: Int64 = 0
        for entry in list {
          let content = all[root.appending(entry.path)]?.content ?? []
          try writer.write(entry, content)
          done += Int64(content.count)
          progress(done)
        }
        try writer.finish(root: all[root]?.metadata)
      }
    } catch {
      throw AnyFailure(error)
    }
  }

  // MARK: Damage

  /// This tree with one bit of one file flipped.
  package func damaged(at path: TreePath, offset: Int) throws -> MemoryTree {
    var copy = entries
    guard var entry = copy[path], entry.content.indices.contains(offset) else {
      throw ContractBroken("there is no byte \(offset) in \(path) to damage")
    }
    entry.content[offset] ^= 1
    copy[path] = entry
    return MemoryTree(copy, limitBytes: limitBytes)
  }

  /// The first file, by path, that contains `pattern`, and where.
  package func firstOccurrence(of pattern: [UInt8]) -> (path: TreePath, offset: Int)? {
    for (path, entry) in entries.sorted(by: { $0.key < $1.key }) {
      if let offset = entry.content.firstOffset(of: pattern) { return (path, offset) }
    }
    return nil
  }

  package var middleOfLargestFile: (path: TreePath, offset: Int)? {
    guard let largest = entries.max(by: { $0.value.content.count < $1.value.content.count }),
      !largest.value.content.isEmpty
    else { return nil }
    return (largest.key, largest.value.content.count / 2)
  }
}

extension FileMetadata {
  /// A parent nobody described.
  static var plainDirectory: FileMetadata {
    FileMetadata(kind: .directory, permissions: 0o755, modified: Timestamp(nanoseconds: 0))
  }
}

extension [UInt8] {
  fileprivate func firstOffset(of pattern: [UInt8]) -> Int? {
    guard let first = pattern.first, count >= pattern.count else { return nil }
    return withUnsafeBufferPointer { bytes in
      for start in 0...(bytes.count - pattern.count) where bytes[start] == first {
        if pattern.indices.allSatisfy({ bytes[start + $0] == pattern[$0] }) { return start }
      }
      return nil
    }
  }
}
