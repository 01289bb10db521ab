import Core

#if canImport(Glibc)
  import Glibc
#endif

/// A name in a directory: any bytes but `/` and NUL, not always UTF-8. Ordered by its bytes.
package struct FileName: Hashable, Comparable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
  package let bytes: [UInt8]

  /// Unchecked: for names that a directory listing gave.
  package init(bytes: [UInt8]) { self.bytes = bytes }

  /// For names from outside, such as a snapshot.
  ///
  /// - Returns: `nil` for what can't be one name in a directory: empty, `.`, `..`, or with `/` or NUL.
  package init?(untrusted bytes: [UInt8]) {
    guard !bytes.isEmpty, bytes != [46], bytes != [46, 46], !bytes.contains(47), !bytes.contains(0) else { return nil }
    self.bytes = bytes
  }

  package init(stringLiteral value: String) { bytes = Array(value.utf8) }

  package init(_ text: String) { bytes = Array(text.utf8) }

  package static func < (a: FileName, b: FileName) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }

  /// For people; bytes that aren't UTF-8 show as U+FFFD.
  package var lossyText: String { String(decoding: bytes, as: UTF8.self) }

  package var description: String { lossyText }
}

/// A path below the root of a tree; empty for the root itself.
package struct TreePath: Hashable, Comparable, Sendable, ExpressibleByStringLiteral, CustomStringConvertible {
  package var components: [FileName]

  package init(_ components: [FileName] = []) { self.components = components }

  /// Splits at `/`; empty components are dropped.
  package init(_ text: String) {
    components = text.utf8.split(separator: 47).map { FileName(bytes: Array($0)) }
  }

  package init(stringLiteral value: String) { self.init(value) }

  package func appending(_ name: FileName) -> TreePath { TreePath(components + [name]) }

  package func appending(_ path: TreePath) -> TreePath { TreePath(components + path.components) }

  package var parent: TreePath { TreePath(Array(components.dropLast())) }

  package var last: FileName? { components.last }

  package static func < (a: TreePath, b: TreePath) -> Bool { a.components.lexicographicallyPrecedes(b.components) }

  package var description: String { components.map(\.lossyText).joined(separator: "/") }

  /// The bytes of this path below `root`, for system calls.
  package func bytes(below root: String) -> [UInt8] {
    components.reduce(into: Array(root.utf8)) { $0 += [47] + $1.bytes }
  }
}

/// What a file is, its content aside.
package enum FileKind: Hashable, Sendable {
  case regular
  case directory
  /// The target's bytes, as readlink(2) gives them.
  case symbolicLink(target: [UInt8])
  case fifo
  case socket
  case characterDevice(number: UInt64)
  case blockDevice(number: UInt64)
}

package struct ExtendedAttribute: Hashable, Sendable {
  /// Such as `user.comment`, `security.capability` or `system.posix_acl_access`.
  package var name: String
  package var value: [UInt8]

  package init(name: String, value: [UInt8]) { (self.name, self.value) = (name, value) }
}

/// Everything about a file but its name and its content.
package struct FileMetadata: Hashable, Sendable {
  package var kind: FileKind
  /// The lower twelve bits of st_mode: setuid, setgid, sticky, and rwx three times.
  package var permissions: UInt16
  package var userID: UInt32
  package var groupID: UInt32
  /// Names as this machine knows them; empty if it doesn't.
  package var userName: String
  package var groupName: String
  /// Bytes, for regular files.
  package var size: Int64
  package var modified: Timestamp
  package var accessed: Timestamp
  package var changed: Timestamp
  package var device: UInt64
  package var inode: UInt64
  package var links: UInt64
  /// Ascending by name; ACLs are among them.
  package var extendedAttributes: [ExtendedAttribute]

  package init(
    kind: FileKind, permissions: UInt16, userID: UInt32 = 0, groupID: UInt32 = 0, userName: String = "",
    groupName: String = "", size: Int64 = 0, modified: Timestamp, accessed: Timestamp? = nil, changed: Timestamp? = nil,
    device: UInt64 = 0, inode: UInt64 = 0, links: UInt64 = 1, extendedAttributes: [ExtendedAttribute] = []
  ) {
    self.kind = kind
    self.permissions = permissions
    self.userID = userID
    self.groupID = groupID
    self.userName = userName
    self.groupName = groupName
    self.size = size
    self.modified = modified
    self.accessed = accessed ?? modified
    self.changed = changed ?? modified
    self.device = device
    self.inode = inode
    self.links = links
    self.extendedAttributes = extendedAttributes
  }
}

/// Bytes that arrive in order. Calls block; one reader at a time.
package protocol ByteSource {
  /// Fills the front of `buffer`.
  ///
  /// - Returns: How many bytes; 0 only at the end.
  func read(into buffer: UnsafeMutableRawBufferPointer) throws -> Int
}

/// Opens a source, on a thread that may block; called once, or again after a failure.
package typealias OpenSource = @Sendable () throws -> any ByteSource

/// How a file's content is cut into blobs.
package enum Cutting: Hashable, Sendable {
  /// By content: insertions move no later boundary.
  case content
  /// Every `bytes` bytes, for files whose pages change in place.
  case fixed(bytes: Int)
}

/// What a sink learned about a file as it streamed by.
package struct StoredFile: Hashable, Sendable {
  package var size: Int64
  /// Bytes nobody had stored before.
  package var addedBytes: Int64

  package init(size: Int64, addedBytes: Int64) { (self.size, self.addedBytes) = (size, addedBytes) }
}

/// A place that takes a tree of files; a vault's snapshot under construction is one.
///
/// Entries may come in any order and several at a time; parents that never come are made up as plain directories.
package protocol TreeSink: Sendable {
  /// - Parameters:
  ///   - metadata: `size` is a hint; what is stored is what `content` yields.
  ///   - content: For regular files only.
  /// - Throws: Whatever `content` throws, wrapped; the entry is not part of the tree then, and the snapshot
  ///   cannot be finished as complete.
  func add(
    _ path: TreePath, _ metadata: FileMetadata, cutting: Cutting, content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile

  /// Adds a regular file of which some parts are here already, and are not read again.
  ///
  /// - Parameters:
  ///   - partBytes: The length of every part but the last.
  ///   - parts: All parts of the file, in order: the SHA-256 of each that is here, as an ``EarlierTree`` named it; `nil` for
  ///     those that `content` yields, one after the other.
  ///   - content: `nil` if nothing is to be read.
  func add(
    _ path: TreePath, _ metadata: FileMetadata, partBytes: Int, parts: [Digest?], content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile
}

extension TreeSink {
  /// Nothing is here already.
  package func add(
    _ path: TreePath, _ metadata: FileMetadata, partBytes: Int, parts: [Digest?], content: OpenSource?
  ) async throws(AnyFailure) -> StoredFile {
    throw AnyFailure(SystemFailure("add", path: path.description, number: ENOTSUP))
  }
}

/// A tree in the place a sink writes to: what its files consist of can be taken over.
package protocol EarlierTree: TreeSource {
  /// - Returns: `nil` if there is no such file, if it isn't cut every so many bytes, or if a part of it is missing.
  func file(_ path: TreePath, cutEvery bytes: Int) async throws(AnyFailure) -> EarlierFile?

  /// Reads parts that ``file(_:cutEvery:)`` named, in whatever order is best for the place.
  ///
  /// - Parameter each: Gets every part once, however often it is named; several may come at a time.
  func read(
    _ parts: [Digest], each: @escaping @Sendable (Digest, [UInt8]) async throws(AnyFailure) -> Void
  ) async throws(AnyFailure)
}

/// A file in parts of one length, but for the last, which may be shorter.
package struct EarlierFile: Hashable, Sendable {
  package var size: Int64
  /// SHA-256 of each.
  package var parts: [Digest]

  package init(size: Int64, parts: [Digest]) { (self.size, self.parts) = (size, parts) }
}

/// A tree of files that can be brought back, or read; a vault's snapshot is one.
package protocol TreeSource: Sendable {
  /// Every entry below `root`, parents before children.
  func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry]
  /// A whole file, if it is no larger than `limitBytes`.
  func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8]
  /// A part of a file; shorter where the file ends before it.
  func contents(of path: TreePath, range: Range<Int64>) async throws(AnyFailure) -> [UInt8]
  /// Writes the tree below `root` into `directory`, which must be empty or absent; metadata included.
  ///
  /// Returns when everything is on stable storage.
  ///
  /// - Parameter first: Patterns of files that are whole before others are begun; those of an earlier pattern before those
  ///   of a later one.
  func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure)
}

extension TreeSource {
  /// For sources whose files are small: reads all of it.
  package func contents(of path: TreePath, range: Range<Int64>) async throws(AnyFailure) -> [UInt8] {
    let whole = try await contents(of: path, limitBytes: .max)
    let (from, to) = (min(range.lowerBound, Int64(whole.count)), min(range.upperBound, Int64(whole.count)))
    return Array(whole[Int(from)..<Int(to)])
  }

  /// Writes the tree below `root` in whatever order is best.
  package func materialise(
    _ root: TreePath, at directory: String, progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    try await materialise(root, at: directory, first: [], progress: progress)
  }
}

package struct TreeEntry: Hashable, Sendable {
  package var path: TreePath
  package var metadata: FileMetadata

  package init(path: TreePath, metadata: FileMetadata) { (self.path, self.metadata) = (path, metadata) }
}

/// A byte source over memory.
package final class MemorySource: ByteSource {
  private let bytes: [UInt8]
  private var offset = 0

  package init(_ bytes: [UInt8]) { self.bytes = bytes }

  package func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    let count = min(buffer.count, bytes.count - offset)
    guard count > 0 else { return 0 }
    bytes.withUnsafeBytes { buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[offset..<offset + count])) }
    offset += count
    return count
  }
}

/// Bytes that came in parts, one after the other.
package final class PartsSource: ByteSource {
  private let parts: [[UInt8]]
  private var part = 0
  private var offset = 0

  package init(_ parts: [[UInt8]]) { self.parts = parts }

  package func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    var done = 0
    while done < buffer.count, part < parts.count {
      let count = min(buffer.count - done, parts[part].count - offset)
      if count > 0 {
        parts[part].withUnsafeBytes {
          UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[offset..<offset + count]))
        }
      }
      done += count
      offset += count
      if offset == parts[part].count { (part, offset) = (part + 1, 0) }
    }
    return done
  }
}

extension File: ByteSource {
  // `read(into:)` is already there: a file is a source from where its offset stands.
}
