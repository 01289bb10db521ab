import Core
import IO

/// A file system that can only be read, by numbers of its files: what a mount serves.
///
/// Called from many tasks at once. Numbers are never 0; the root's is 1.
package protocol ReadOnlyFileSystem: Sendable {
  /// The entry `name` of a directory. What is found stays known until ``forget(_:count:)`` has been told of it as often.
  func lookUp(_ name: FileName, in directory: UInt64) async throws(MountFault) -> FileAttributes

  func forget(_ number: UInt64, count: UInt64) async

  func attributes(of number: UInt64) async throws(MountFault) -> FileAttributes

  /// Everything in a directory, ascending by name, without `.` and `..`.
  func entries(of directory: UInt64) async throws(MountFault) -> [DirectoryEntry]

  /// The target of a symbolic link, as readlink(2) gives it.
  func target(of link: UInt64) async throws(MountFault) -> [UInt8]

  /// What a regular file consists of, for ``read(_:offset:count:)``.
  func open(_ number: UInt64) async throws(MountFault) -> OpenContent

  /// Up to `count` bytes; fewer only at the end.
  func read(_ content: OpenContent, offset: Int64, count: Int) async throws(MountFault) -> [UInt8]

  func extendedAttributes(of number: UInt64) async throws(MountFault) -> [ExtendedAttribute]
}

/// What a mount can answer instead of what was asked for.
package enum MountFault: Error, Hashable, Sendable {
  case noEntry, notDirectory, isDirectory, invalid
  /// Damage, or a store that doesn't answer; told in words elsewhere.
  case inputOutput
}

/// What stat(2) says of a file.
package struct FileAttributes: Hashable, Sendable {
  package var number: UInt64
  package var metadata: FileMetadata
  /// Whether it may be another tomorrow: snapshots don't change, lists of them do.
  package var isFixed: Bool

  package init(number: UInt64, metadata: FileMetadata, isFixed: Bool) {
    (self.number, self.metadata, self.isFixed) = (number, metadata, isFixed)
  }
}

package struct DirectoryEntry: Hashable, Sendable {
  package var name: FileName
  package var number: UInt64
  package var kind: FileKind

  package init(name: FileName, number: UInt64, kind: FileKind) {
    (self.name, self.number, self.kind) = (name, number, kind)
  }
}

/// A file's pieces, and where each begins.
package struct OpenContent: Hashable, Sendable {
  let blobs: [BlobID]
  /// One more than blobs; the last is the file's size.
  let starts: [Int64]
}
