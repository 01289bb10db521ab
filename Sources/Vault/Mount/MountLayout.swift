import Core
import IO

/// The directories above snapshots, as restic's mount has them: `ids`, `snapshots`, `hosts`, `tags`.
///
/// Source: restic, "Mounting a repository"; internal/fuse, `snapshots_dirstruct.go`.
struct MountLayout: Sendable {
  indirect enum Node: Sendable {
    case directory(modified: Timestamp, [FileName: Node])
    case link(target: [UInt8], modified: Timestamp)
    case snapshot(StoredSnapshot)
  }

  let root: Node

  /// - Parameter snapshots: Ascending by time.
  init(_ snapshots: [StoredSnapshot]) {
    var (ids, hosts, tags) = ([FileName: Node](), [String: [StoredSnapshot]](), [String: [StoredSnapshot]]())
    for stored in snapshots {
      ids[FileName(stored.id.short)] = .snapshot(stored)
      hosts[Self.name(stored.snapshot.hostname), default: []].append(stored)
      for tag in Set(stored.snapshot.tags.map(Self.name)) { tags[tag, default: []].append(stored) }
    }
    let newest = snapshots.last?.snapshot.time ?? Timestamp(nanoseconds: 0)
    func all(_ groups: [String: [StoredSnapshot]]) -> Node {
      var children: [FileName: Node] = [:]
      for (name, group) in groups { children[FileName(name)] = Self.byTime(group) }
      return .directory(modified: newest, children)
    }
    root = .directory(
      modified: newest,
      [
        "ids": .directory(modified: newest, ids), "snapshots": Self.byTime(snapshots), "hosts": all(hosts),
        "tags": all(tags),
      ])
  }

  /// What is there below the root, if anything.
  func node(at path: [FileName]) -> Node? {
    var node = root
    for name in path {
      guard case .directory(_, let children) = node, let child = children[name] else { return nil }
      node = child
    }
    return node
  }

  /// By their times, those of the same second numbered, and `latest`.
  private static func byTime(_ snapshots: [StoredSnapshot]) -> Node {
    var children: [FileName: Node] = [:]
    var last: (name: FileName, time: Timestamp)?
    for stored in snapshots {
      let text = time(stored.snapshot)
      var (name, number) = (FileName(text), 0)
      while children[name] != nil {
        number += 1
        name = FileName("\(text)-\(number)")
      }
      children[name] = .snapshot(stored)
      last = (name, stored.snapshot.time)
    }
    if let last { children["latest"] = .link(target: last.name.bytes, modified: last.time) }
    return .directory(modified: last?.time ?? Timestamp(nanoseconds: 0), children)
  }

  /// RFC 3339 to the second in the zone the snapshot was taken in.
  private static func time(_ snapshot: Snapshot) -> String {
    let whole = Timestamp(seconds: snapshot.time.nanoseconds.dividedDown(by: 1_000_000_000))
    return whole.text(utcOffsetSeconds: snapshot.utcOffsetSeconds)
  }

  /// Hosts and tags come from whoever wrote the snapshot; a name must stay one.
  private static func name(_ text: String) -> String {
    switch text {
    case "", ".": "_"
    case "..": "__"
    default: text.replacing("/", with: "_").replacing("\0", with: "_")
    }
  }
}

extension Int64 {
  fileprivate func dividedDown(by divisor: Int64) -> Int64 {
    self >= 0 ? self / divisor : -((-self + divisor - 1) / divisor)
  }
}
