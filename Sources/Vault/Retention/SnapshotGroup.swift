import Core

/// Snapshots a retention policy looks at together.
package struct SnapshotGroup: Hashable, Sendable {
  package enum Criterion: String, Sendable, CaseIterable {
    case host, paths, tags
  }

  /// Empty unless grouped by it.
  package var hostname = ""
  package var paths: [String] = []
  package var tags: [String] = []
  package var snapshots: [StoredSnapshot] = []

  /// In order of host, paths and tags.
  package static func groups(of snapshots: [StoredSnapshot], by criteria: Set<Criterion>) -> [SnapshotGroup] {
    var groups: [SnapshotGroup: [StoredSnapshot]] = [:]
    for stored in snapshots {
      var key = SnapshotGroup()
      if criteria.contains(.host) { key.hostname = stored.snapshot.hostname }
      if criteria.contains(.paths) { key.paths = stored.snapshot.paths.sorted() }
      if criteria.contains(.tags) { key.tags = stored.snapshot.tags.sorted() }
      groups[key, default: []].append(stored)
    }
    return groups.map { key, members in
      var group = key
      group.snapshots = members
      return group
    }
    .sorted {
      ($0.hostname, $0.paths.joined(separator: "\0"), $0.tags.joined(separator: "\0"))
        < ($1.hostname, $1.paths.joined(separator: "\0"), $1.tags.joined(separator: "\0"))
    }
  }
}
