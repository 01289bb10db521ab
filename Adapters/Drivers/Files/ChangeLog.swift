import Core
import DriverKit
import Foundation
import IO

/// A place in a tree's log: so many bytes into the file that one life of the follower wrote.
///
/// A log's first follower draws a name for it; every start of a follower begins a file of its own, whose number is the last
/// one's and one. As text `<name>-<number>:<offset>`.
struct ChangePlace: Hashable, Comparable, Sendable {
  var name: String
  var number: Int
  var offset: Int64

  static let kind = "change"

  var file: String {
    let digits = String(number)
    return "\(name)-\(String(repeating: "0", count: max(0, 8 - digits.count)))\(digits)"
  }
  var cursor: LogCursor { LogCursor(file, offset) }
  var position: LogPosition { LogPosition(kind: Self.kind, value: "\(file):\(offset)") }

  init(name: String, number: Int, offset: Int64) { (self.name, self.number, self.offset) = (name, number, offset) }

  init?(_ cursor: LogCursor) {
    guard let (name, number) = Self.parse(cursor.file), cursor.offset >= 0 else { return nil }
    self.init(name: name, number: number, offset: cursor.offset)
  }

  init?(_ position: LogPosition) {
    guard position.kind == Self.kind, let colon = position.value.lastIndex(of: ":"),
      let offset = Int64(position.value[position.value.index(after: colon)...])
    else { return nil }
    self.init(LogCursor(String(position.value[..<colon]), offset))
  }

  private static func parse(_ file: String) -> (String, Int)? {
    let parts = file.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count == 2, parts[0].utf8.count == 16,
      parts[0].utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) }),
      (8...12).contains(parts[1].count),
      parts[1].utf8.allSatisfy({ (48...57).contains($0) }), let number = Int(parts[1])
    else { return nil }
    return (String(parts[0]), number)
  }

  static func < (a: Self, b: Self) -> Bool { (a.number, a.offset) < (b.number, b.offset) }
}

/// One record of a tree's log.
///
/// As bytes: the length of what follows (4), a letter for what it is (1), when it was seen (8, nanoseconds since 1970), and
/// the rest; numbers are big-endian. What an `entry` says of a regular file counts from its `end` on, whose digest is that of
/// the `data` between them; one without is void.
enum ChangeRecord: Sendable, Equatable {
  /// A follower has begun.
  case begin
  case entry(path: TreePath, metadata: FileMetadata, content: Content)
  case data([UInt8])
  /// `nil`: the file changed while it was read, what came of it means nothing.
  case end(Digest?)
  /// What was there, with everything below, is gone.
  case removed(TreePath)

  enum Content: Sendable, Equatable {
    /// It has none, or what it has stays.
    case kept
    case whole
    /// What it has up to there stays.
    case grown(from: Int64)
  }

  static let headBytes = 13
  static let partBytes = 1 << 20
  /// No path, target or set of attributes that Linux takes makes a record longer.
  static let limitBytes = 4 << 20

  func bytes(seen: Timestamp) -> [UInt8] {
    let (letter, body): (Unicode.Scalar, [UInt8])
    switch self {
    case .begin: (letter, body) = ("B", [])
    case .entry(let path, let metadata, let content): (letter, body) = ("P", Self.text(path, metadata, content))
    case .data(let bytes): (letter, body) = ("D", bytes)
    case .end(let digest): (letter, body) = ("E", digest?.bytes ?? [])
    case .removed(let path): (letter, body) = ("R", path.bytes(below: ""))
    }
    var result: [UInt8] = []
    result.reserveCapacity(Self.headBytes + body.count)
    result.append(bigEndian: UInt32(body.count + 9))
    result.append(UInt8(letter.value))
    result.append(bigEndian: UInt64(bitPattern: seen.nanoseconds))
    return result + body
  }

  /// - Parameter bytes: Without the length.
  init(_ bytes: [UInt8]) throws(DriverError) {
    guard bytes.count >= 9 else { throw Self.damaged("a record is too short") }
    let body = Array(bytes[9...])
    switch Unicode.Scalar(bytes[0]) {
    case "B": self = .begin
    case "P": self = try Self.entry(body)
    case "D": self = .data(body)
    case "E":
      guard body.isEmpty || body.count == 32 else { throw Self.damaged("an end has no digest") }
      self = .end(body.isEmpty ? nil : Digest(bytes: body))
    case "R": self = .removed(try Self.path(body))
    default: throw Self.damaged("a record is of no kind that is known")
    }
  }

  static func seen(_ bytes: [UInt8]) -> Timestamp {
    Timestamp(nanoseconds: Int64(bitPattern: bytes[1..<9].reduce(0) { $0 << 8 | UInt64($1) }))
  }

  static func damaged(_ why: String) -> DriverError { .corrupt("the log of changes: \(why)") }

  private static func path(_ bytes: [UInt8]) throws(DriverError) -> TreePath {
    if bytes.isEmpty { return TreePath() }
    guard bytes[0] == 47, bytes.count < 1 << 20 else { throw damaged("a path is none") }
    var names: [FileName] = []
    for part in bytes.dropFirst().split(separator: 47, omittingEmptySubsequences: false) {
      guard let name = FileName(untrusted: Array(part)), part.count < 4096 else { throw damaged("a path is none") }
      names.append(name)
    }
    return TreePath(names)
  }

  // MARK: Entries as JSON

  private static func text(_ path: TreePath, _ metadata: FileMetadata, _ content: Content) -> [UInt8] {
    var value: [String: JSONValue] = [
      "path": .string(Base64.encode(path.bytes(below: ""))), "mode": .integer(Int64(metadata.permissions)),
      "uid": .integer(Int64(metadata.userID)), "gid": .integer(Int64(metadata.groupID)),
      "user": .string(metadata.userName), "group": .string(metadata.groupName),
      "modified": .integer(metadata.modified.nanoseconds),
      // Two names of one file are told by this; numbers of that size are no JSON numbers.
      "inode": .string("\(metadata.device):\(metadata.inode)"),
      "links": .integer(Int64(clamping: metadata.links)),
    ]
    switch metadata.kind {
    case .regular:
      value["kind"] = "file"
      value["size"] = .integer(metadata.size)
    case .directory: value["kind"] = "directory"
    case .symbolicLink(let target): (value["kind"], value["target"]) = ("link", .string(Base64.encode(target)))
    case .fifo: value["kind"] = "fifo"
    case .socket: value["kind"] = "socket"
    case .characterDevice(let number): (value["kind"], value["number"]) = ("character", .string("\(number)"))
    case .blockDevice(let number): (value["kind"], value["number"]) = ("block", .string("\(number)"))
    }
    switch content {
    case .kept: break
    case .whole: value["from"] = 0
    case .grown(let from): value["from"] = .integer(from)
    }
    if !metadata.extendedAttributes.isEmpty {
      value["attributes"] = .array(
        metadata.extendedAttributes.map { [.string($0.name), .string(Base64.encode($0.value))] })
    }
    return (try? CanonicalJSON.encode(JSONValue.object(value))) ?? []
  }

  private static func entry(_ bytes: [UInt8]) throws(DriverError) -> ChangeRecord {
    guard bytes.count <= limitBytes, let value = try? CanonicalJSON.decode(JSONValue.self, from: bytes),
      let pathBytes = value["path"]?.string.flatMap({ Base64.decode($0) }),
      let mode = value["mode"]?.integer, (0...0o7777).contains(mode),
      let user = value["uid"]?.integer.flatMap({ UInt32(exactly: $0) }),
      let group = value["gid"]?.integer.flatMap({ UInt32(exactly: $0) }),
      let modified = value["modified"]?.integer, let links = value["links"]?.integer, links >= 0
    else { throw damaged("an entry is not readable") }
    let number = value["number"]?.string.flatMap { UInt64($0) }
    let kind: FileKind
    switch (value["kind"]?.string, number, value["target"]?.string.flatMap({ Base64.decode($0) })) {
    case ("file", _, _): kind = .regular
    case ("directory", _, _): kind = .directory
    case ("link", _, let target?): kind = .symbolicLink(target: target)
    case ("fifo", _, _): kind = .fifo
    case ("socket", _, _): kind = .socket
    case ("character", let number?, _): kind = .characterDevice(number: number)
    case ("block", let number?, _): kind = .blockDevice(number: number)
    default: throw damaged("an entry is of no kind that is known")
    }
    let size = value["size"]?.integer ?? 0
    let inode = (value["inode"]?.string ?? "").split(separator: ":").compactMap { UInt64($0) }
    guard size >= 0, inode.count == 2 else { throw damaged("an entry is not readable") }
    var attributes: [ExtendedAttribute] = []
    for one in value["attributes"]?.array ?? [] {
      guard let pair = one.array, pair.count == 2, let name = pair[0].string, !name.isEmpty, !name.utf8.contains(0),
        let bytes = pair[1].string.flatMap({ Base64.decode($0) })
      else { throw damaged("an attribute is not readable") }
      attributes.append(ExtendedAttribute(name: name, value: bytes))
    }
    let metadata = FileMetadata(
      kind: kind, permissions: UInt16(mode), userID: user, groupID: group, userName: value["user"]?.string ?? "",
      groupName: value["group"]?.string ?? "", size: size, modified: Timestamp(nanoseconds: modified),
      device: inode[0], inode: inode[1], links: UInt64(links), extendedAttributes: attributes)
    let content: Content
    switch value["from"]?.integer {
    case nil: content = .kept
    case 0?: content = .whole
    case let from? where from > 0: content = .grown(from: from)
    default: throw damaged("an entry is not readable")
    }
    guard kind == .regular || content == .kept else { throw damaged("an entry with content is no file") }
    return .entry(path: try path(pathBytes), metadata: metadata, content: content)
  }
}

extension [UInt8] {
  mutating func append<T: FixedWidthInteger>(bigEndian value: T) {
    Swift.withUnsafeBytes(of: value.bigEndian) { append(contentsOf: $0) }
  }
}
