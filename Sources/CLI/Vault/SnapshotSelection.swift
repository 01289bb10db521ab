import ArgumentParser
import Console
import Core
import Foundation
import Vault

/// Which snapshots are meant: restic's filters.
struct SnapshotFilter: ParsableArguments {
  @Option(name: [.customShort("H"), .long], help: "Only snapshots of this host; may be repeated.")
  var host: [String] = []

  @Option(help: ArgumentHelp("Only snapshots with all of these tags; may be repeated.", valueName: "tag[,tag…]"))
  var tag: [String] = []

  @Option(help: "Only snapshots that contain this path; may be repeated.", completion: .directory)
  var path: [String] = []

  var isEmpty: Bool { host.isEmpty && tag.isEmpty && path.isEmpty }

  func matches(_ snapshot: Snapshot) -> Bool {
    if !host.isEmpty, !host.contains(snapshot.hostname) { return false }
    if !tag.isEmpty {
      let isTagged = tag.contains { list in list.split(separator: ",").allSatisfy { snapshot.tags.contains(String($0)) }
      }
      if !isTagged { return false }
    }
    return path.allSatisfy { snapshot.paths.contains(cleanPath($0)) }
  }

  /// The snapshot that `name` means: the first digits of its id, or `latest` among those that pass.
  func find(_ name: String, in repository: Repository) async throws -> StoredSnapshot {
    guard name == "latest" else { return try await repository.findSnapshot(name) }
    guard let newest = try await repository.readableSnapshots().filter({ matches($0.snapshot) }).last else {
      throw VaultError.snapshotNotFound(isEmpty ? name : "latest with these filters")
    }
    return newest
  }
}

extension Repository {
  /// Every snapshot that can be read, ascending by time; one that can't is told and left out, as in restic.
  func readableSnapshots() async throws -> [StoredSnapshot] {
    var result: [StoredSnapshot] = []
    for info in try await store.list(.snapshot) {
      guard let id = info.name.id else { continue }
      do throws(VaultError) {
        result.append(StoredSnapshot(id: id, snapshot: try await loadSnapshot(id)))
      } catch {
        switch error {
        case .snapshotNotFound: continue  // Forgotten since it was listed.
        case .snapshotDamaged: standardError("warning: \(error.report)\n")
        default: throw error
        }
      }
    }
    return result.sorted { ($0.snapshot.time, $0.id) < ($1.snapshot.time, $1.id) }
  }
}

/// An absolute path without `.`, `..` and doubled slashes, by its text alone.
func cleanPath(_ path: String) -> String {
  var components: [Substring] = []
  for component in absolute(path).split(separator: "/") where component != "." {
    if component == ".." { _ = components.popLast() } else { components.append(component) }
  }
  return "/" + components.joined(separator: "/")
}

extension StoredSnapshot {
  var shortID: String { String(id.hex.prefix(8)) }

  /// The members `restic snapshots --json` has.
  var json: JSONValue {
    var members = snapshot.other
    members["id"] = .string(id.hex)
    members["short_id"] = .string(shortID)
    members["time"] = .string(snapshot.time.description)
    members["tree"] = .string(snapshot.tree.hex)
    members["paths"] = .array(snapshot.paths.map { .string($0) })
    members["hostname"] = .string(snapshot.hostname)
    members["username"] = .string(snapshot.username)
    if snapshot.userID != 0 { members["uid"] = .integer(Int64(snapshot.userID)) }
    if snapshot.groupID != 0 { members["gid"] = .integer(Int64(snapshot.groupID)) }
    if let parent = snapshot.parent { members["parent"] = .string(parent.hex) }
    if let original = snapshot.original { members["original"] = .string(original.hex) }
    if !snapshot.excludes.isEmpty { members["excludes"] = .array(snapshot.excludes.map { .string($0) }) }
    if !snapshot.tags.isEmpty { members["tags"] = .array(snapshot.tags.map { .string($0) }) }
    return .object(members)
  }
}
