import Core

/// One backup: a moment, and the root of its tree.
///
/// Source: restic, design document, "Snapshots", and internal/restic/snapshot.go.
package struct Snapshot: Hashable, Sendable {
  package var time: Timestamp
  /// The writer's time zone, in seconds east of Greenwich: what a day is to a retention policy.
  package var utcOffsetSeconds: Int64 = 0
  package var parent: Digest?
  package var tree: BlobID
  package var paths: [String]
  package var hostname: String
  package var username: String
  package var userID: Int
  package var groupID: Int
  package var excludes: [String]
  package var tags: [String]
  /// The snapshot this one was rewritten from.
  package var original: Digest?
  /// Members this version has no name for, such as `program_version` and `summary`; kept as they were.
  package var other: [String: JSONValue]

  package init(
    time: Timestamp, tree: BlobID, paths: [String], hostname: String, username: String = "", userID: Int = 0,
    groupID: Int = 0, parent: Digest? = nil, excludes: [String] = [], tags: [String] = [], original: Digest? = nil,
    other: [String: JSONValue] = [:]
  ) {
    (self.time, self.parent, self.tree, self.paths) = (time, parent, tree, paths)
    (self.hostname, self.username, self.userID, self.groupID) = (hostname, username, userID, groupID)
    (self.excludes, self.tags, self.original, self.other) = (excludes, tags, original, other)
  }

  func json() -> [UInt8] {
    var json = JSONOutput()
    json.raw(#"{"time":"#)
    json.string(time.text(utcOffsetSeconds: utcOffsetSeconds))
    if let parent {
      json.raw(#","parent":"#)
      json.hex(parent)
    }
    json.raw(#","tree":"#)
    json.hex(tree)
    json.raw(#","paths":"#)
    json.value(.array(paths.map { .string($0) }))
    if !hostname.isEmpty {
      json.raw(#","hostname":"#)
      json.string(hostname)
    }
    if !username.isEmpty {
      json.raw(#","username":"#)
      json.string(username)
    }
    if userID != 0 {
      json.raw(#","uid":"#)
      json.number(userID)
    }
    if groupID != 0 {
      json.raw(#","gid":"#)
      json.number(groupID)
    }
    if !excludes.isEmpty {
      json.raw(#","excludes":"#)
      json.value(.array(excludes.map { .string($0) }))
    }
    if !tags.isEmpty {
      json.raw(#","tags":"#)
      json.value(.array(tags.map { .string($0) }))
    }
    if let original {
      json.raw(#","original":"#)
      json.hex(original)
    }
    for (key, value) in other.sorted(by: { $0.key < $1.key }) where !Self.fields.contains(key) {
      json.byte(",")
      json.string(key)
      json.byte(":")
      json.value(value)
    }
    json.byte("}")
    return json.bytes
  }

  private static let fields: Set<String> = [
    "time", "parent", "tree", "paths", "hostname", "username", "uid", "gid", "excludes", "tags", "original",
  ]
}

extension Snapshot {
  init(json bytes: [UInt8], id: Digest) throws(VaultError) {
    let value: JSONValue
    do throws(JSONFault) {
      value = try JSONScanner.scan(bytes) { (scanner) throws(JSONFault) in try scanner.value() }
    } catch { throw .snapshotDamaged(id, error.reason) }
    func strings(_ key: String) -> [String] { value[key]?.array?.compactMap(\.string) ?? [] }
    func digest(_ key: String) throws(VaultError) -> Digest? {
      guard let text = value[key]?.string else { return nil }
      guard let digest = Digest(hex: text) else { throw .snapshotDamaged(id, "its \(key) is not an id") }
      return digest
    }
    guard let members = value.object else { throw .snapshotDamaged(id, "it is not an object") }
    guard let tree = try digest("tree") else { throw .snapshotDamaged(id, "it has no tree") }
    guard let text = value["time"]?.string, let time = Timestamp(text) else {
      throw .snapshotDamaged(id, "it has no time")
    }
    self.init(
      time: time, tree: tree, paths: strings("paths"), hostname: value["hostname"]?.string ?? "",
      username: value["username"]?.string ?? "", userID: Int(value["uid"]?.integer ?? 0),
      groupID: Int(value["gid"]?.integer ?? 0), parent: try digest("parent"), excludes: strings("excludes"),
      tags: strings("tags"), original: try digest("original"), other: members.filter { !Self.fields.contains($0.key) })
    utcOffsetSeconds = Timestamp.utcOffsetSeconds(of: text)
  }
}

/// A snapshot and its name.
package struct StoredSnapshot: Hashable, Sendable {
  package let id: Digest
  package let snapshot: Snapshot

  package init(id: Digest, snapshot: Snapshot) { (self.id, self.snapshot) = (id, snapshot) }
}
