import Core
import IO

/// An object's name below the store's prefix: any UTF-8 of up to 1024 bytes. Compared byte by byte, as S3 does: to Swift's own
/// comparison `é` written in two ways is one text.
struct ObjectKey: Hashable, Comparable, Sendable, CustomStringConvertible {
  static let limitBytes = 1024

  let bytes: [UInt8]

  init(_ text: String) { bytes = Array(text.utf8) }

  /// - Returns: `nil` for what can't be a key: nothing, too long, not UTF-8.
  init?(untrusted bytes: [UInt8]) {
    guard !bytes.isEmpty, bytes.count <= Self.limitBytes, String(validating: bytes, as: UTF8.self) != nil else {
      return nil
    }
    self.bytes = bytes
  }

  var text: String { String(decoding: bytes, as: UTF8.self) }

  /// For people: what could change a terminal's state is escaped.
  var description: String {
    text.unicodeScalars.map { $0.value < 32 || $0.value == 127 ? "\\u{\(String($0.value, radix: 16))}" : "\($0)" }
      .joined()
  }

  static func < (a: ObjectKey, b: ObjectKey) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }

  func hasPrefix(_ prefix: ObjectKey) -> Bool { bytes.starts(with: prefix.bytes) }

  /// - Returns: `nil` if this doesn't begin so, or is nothing more.
  func dropping(_ prefix: String) -> ObjectKey? {
    let prefix = Array(prefix.utf8)
    guard bytes.count > prefix.count, bytes.starts(with: prefix) else { return nil }
    return ObjectKey(bytes: Array(bytes.dropFirst(prefix.count)))
  }

  private init(bytes: [UInt8]) { self.bytes = bytes }

  /// Whether it can be a path as it is: no name in it that a directory can't have, or that people would not see.
  var isPath: Bool {
    bytes.split(separator: 47, omittingEmptySubsequences: false).allSatisfy { name in
      !name.isEmpty && name.count <= 255 && !(name.count == 1 && name.first == 46) && !name.elementsEqual([46, 46])
        && name.allSatisfy { $0 >= 32 && $0 != 127 }
    }
  }

  /// What lies before each slash.
  var directories: [ObjectKey] {
    bytes.indices.filter { bytes[$0] == 47 }.map { ObjectKey(bytes: Array(bytes[..<$0])) }
  }

  /// Names it where any name must do; no two keys have the same.
  var hash: String { Digest.of(bytes).hex }
}

/// Where in the tree an object's content is.
///
/// `objects/<key>` for every key that can be a path beside all the others; `odd/<two digits>/<SHA-256 of the key>` for the
/// rest: names that no directory can have, and keys that are the directory of others, as `a` is beside `a/b`. No two keys
/// have one path, since keys of the first kind stand there as they are, and the others by their digest.
struct KeyPaths: Sendable {
  private var directories: Set<ObjectKey> = []

  init(_ keys: some Sequence<ObjectKey>) {
    for key in keys where key.isPath { directories.formUnion(key.directories) }
  }

  func path(_ key: ObjectKey) -> String {
    key.isPath && !directories.contains(key) ? "objects/\(key.text)" : Self.oddPath(key)
  }

  static func oddPath(_ key: ObjectKey) -> String { "odd/\(key.hash.prefix(2))/\(key.hash)" }

  /// Of what isn't, or was not, a key's current content.
  static func versionPath(_ key: ObjectKey, _ version: String) -> String {
    let name = Digest.of(key.bytes + [0] + Array(version.utf8)).hex
    return "versions/\(name.prefix(2))/\(name)"
  }

  /// Whether a capture may say that an object's content is there.
  static func isPath(_ path: String, of entry: ObjectEntry) -> Bool {
    let key = entry.objectKey
    let own = Array(path.utf8)
    if entry.kind == .version { return own == Array(versionPath(key, entry.version ?? "").utf8) }
    return key.isPath && own == Array("objects/\(key.text)".utf8) || own == Array(oddPath(key).utf8)
  }
}
