import Core
import IO

/// One entry of a tree: a name, what is known of the file, and where its content is.
package struct TreeNode: Hashable, Sendable {
  package var name: FileName
  package var metadata: FileMetadata
  /// The blobs of a regular file, in order; empty for every other kind.
  package var content: [BlobID]
  /// The tree of a directory.
  package var subtree: BlobID?
  /// What restic could not read when it took the node; empty almost always.
  package var error: String
  /// restic's attributes for other systems (Windows): kept as the JSON they came as.
  package var genericAttributes: [UInt8]

  package init(
    name: FileName, metadata: FileMetadata, content: [BlobID] = [], subtree: BlobID? = nil, error: String = "",
    genericAttributes: [UInt8] = []
  ) {
    self.name = name
    self.metadata = metadata
    self.content = content
    self.subtree = subtree
    self.error = error
    self.genericAttributes = genericAttributes
  }
}

extension FileKind {
  package var isDirectory: Bool { self == .directory }
  package var isRegular: Bool { self == .regular }

  /// The value of a node's `type`.
  package var nodeType: String {
    switch self {
    case .regular: "file"
    case .directory: "dir"
    case .symbolicLink: "symlink"
    case .blockDevice: "dev"
    case .characterDevice: "chardev"
    case .fifo: "fifo"
    case .socket: "socket"
    }
  }
}

/// Go's `os.FileMode`, which is what a node's `mode` is; not st_mode.
///
/// Source: Go, package io/fs, FileMode.
enum GoFileMode {
  static let directory: UInt32 = 1 << 31
  static let symbolicLink: UInt32 = 1 << 27
  static let device: UInt32 = 1 << 26
  static let fifo: UInt32 = 1 << 25
  static let socket: UInt32 = 1 << 24
  static let setuid: UInt32 = 1 << 23
  static let setgid: UInt32 = 1 << 22
  static let characterDevice: UInt32 = 1 << 21
  static let sticky: UInt32 = 1 << 20

  static func encode(_ kind: FileKind, _ permissions: UInt16) -> UInt32 {
    var mode = UInt32(permissions & 0o777)
    if permissions & 0o4000 != 0 { mode |= setuid }
    if permissions & 0o2000 != 0 { mode |= setgid }
    if permissions & 0o1000 != 0 { mode |= sticky }
    switch kind {
    case .regular: break
    case .directory: mode |= directory
    case .symbolicLink: mode |= symbolicLink
    case .blockDevice: mode |= device
    case .characterDevice: mode |= device | characterDevice
    case .fifo: mode |= fifo
    case .socket: mode |= socket
    }
    return mode
  }

  static func permissions(_ mode: UInt32) -> UInt16 {
    var result = UInt16(truncatingIfNeeded: mode & 0o777)
    if mode & setuid != 0 { result |= 0o4000 }
    if mode & setgid != 0 { result |= 0o2000 }
    if mode & sticky != 0 { result |= 0o1000 }
    return result
  }
}
