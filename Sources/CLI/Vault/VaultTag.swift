import ArgumentParser
import Console
import Core
import Vault

extension VaultCommand {
  struct Tag: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "tag", abstract: "Change the tags of snapshots.",
      discussion: """
        A snapshot whose tags change gets a new id; `original` names the first one. What belongs to one of Salvor's recovery \
        points can't be changed: the point knows it by its id.

        EXAMPLES
          salvor vault tag --add release --add v1.4 40dc1520
          salvor vault tag --remove nightly --host db1
          salvor vault tag --set kept latest
        """)

    @Argument(help: "Only these; all that the filters let through otherwise.") var ids: [String] = []
    @Option(help: ArgumentHelp("Add this tag; may be repeated.", valueName: "tag")) var add: [String] = []
    @Option(help: ArgumentHelp("Remove this tag; may be repeated.", valueName: "tag")) var remove: [String] = []
    @Option(help: ArgumentHelp("Have these tags only; '' for none.", valueName: "tag")) var set: [String] = []
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    private static func split(_ lists: [String]) -> [String] {
      lists.flatMap { $0.split(separator: ",").map(String.init) }
    }

    func validate() throws {
      if set.isEmpty, add.isEmpty, remove.isEmpty { throw ValidationError("give --set, --add or --remove") }
      if !set.isEmpty, !(add.isEmpty && remove.isEmpty) {
        throw ValidationError("--set goes with neither --add nor --remove")
      }
      let all = Self.split(add + remove + set)
      if let own = all.first(where: { PointTags.isOwn($0) }) {
        throw ValidationError("'\(own)' is a tag Salvor finds its recovery points by; it can't be changed")
      }
    }

    private func tags(of snapshot: Snapshot) -> [String] {
      let own = snapshot.tags.filter { PointTags.isOwn($0) }
      if !set.isEmpty { return own + Self.split(set).filter { !own.contains($0) } }
      var tags = snapshot.tags
      for tag in Self.split(add) where !tags.contains(tag) { tags.append(tag) }
      let gone = Self.split(remove)
      tags.removeAll { gone.contains($0) }
      return tags
    }

    func run() async throws {
      let command = self
      let changed = try await options.locked(exclusive: true, needsLock: true) { repository in
        var chosen: [StoredSnapshot] = []
        if command.ids.isEmpty {
          chosen = try await repository.snapshots().filter { command.filter.matches($0.snapshot) }
        } else {
          for id in command.ids { chosen.append(try await command.filter.find(id, in: repository)) }
        }
        var changed: [JSONValue] = []
        for stored in chosen {
          let tags = command.tags(of: stored.snapshot)
          guard tags != stored.snapshot.tags else { continue }
          try stored.refuseChange(after: changed.count, exceptPoints: true)
          let new = try await repository.replace(stored) { $0.tags = tags }
          changed.append(["old_snapshot_id": .string(stored.id.hex), "new_snapshot_id": .string(new.hex)])
        }
        return changed
      }
      try options.show(changed) { _ in ["changed tags of \(changed.count.of("snapshot"))"] }
    }
  }
}

/// Tags that Salvor's recovery points and logs are found by.
enum PointTags {
  static func isOwn(_ tag: String) -> Bool {
    ["salvor", "salvor-point", "salvor-barrier", "salvor-log", "salvor-dump"].contains(tag)
      || ["store:", "driver:", "group:", "point:", "log:", "dump:"].contains { tag.hasPrefix($0) }
  }
}
