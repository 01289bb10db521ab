import ArgumentParser
import Console
import Core
import Foundation
import IO
import Vault

extension VaultCommand {
  struct Diff: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "diff", abstract: "Show what changed from one snapshot to another.",
      discussion: """
        + added, - removed, M content modified, T another kind of thing, U metadata changed (with --metadata). With --json, \
        a line per change and one with totals, as restic prints them.

        EXAMPLES
          salvor vault diff 40dc1520 latest
          salvor vault diff 40dc1520 latest --json | jq -r 'select(.modifier == "M") | .path'
        """)

    @Argument(help: "The first digits of an id, or latest.") var before: String
    @Argument(help: "The one to compare it with.") var after: String
    @Flag(help: "Tell of changed modes, owners and times as well.") var metadata = false
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let command = self
      let isTerminal = isatty(1) == 1
      let (old, new, difference, changes) = try await options.locked(startsEarly: true) { repository in
        let old = try await command.filter.find(command.before, in: repository)
        let new = try await command.filter.find(command.after, in: repository)
        func tree(_ stored: StoredSnapshot) -> SnapshotTree {
          SnapshotTree(reader: repository, root: stored.snapshot.tree)
        }
        var difference = TreeDifference(tree(old), tree(new), showsMetadata: command.metadata)
        var changes: [TreeChange] = []
        let streams = !command.options.isMachineReadable
        try await difference.compare { change in
          if streams { rawOutput(change.line(isTerminal: isTerminal)) } else { changes.append(change) }
        }
        return (old, new, difference, changes)
      }
      let totals: JSONValue = [
        "message_type": "statistics", "source_snapshot": .string(old.id.hex), "target_snapshot": .string(new.id.hex),
        "changed_files": .integer(Int64(difference.changedFiles)), "added": difference.added.json,
        "removed": difference.removed.json,
      ]
      let lines = changes.map(\.json) + [totals]
      if options.json { return rawOutput(Array(try lines.map { try CanonicalJSON.text($0) + "\n" }.joined().utf8)) }
      try options.show(lines) { _ in
        [
          "",
          "Files:  \(difference.added.files) new, \(difference.removed.files) removed, \(difference.changedFiles) changed",
          "Dirs:   \(difference.added.directories) new, \(difference.removed.directories) removed",
          "Others: \(difference.added.others) new, \(difference.removed.others) removed",
          "Blobs:  \(difference.added.dataBlobs + difference.added.treeBlobs) new, "
            + "\(difference.removed.dataBlobs + difference.removed.treeBlobs) removed",
          "Added:   \(formatBytes(Int64(difference.added.bytes)))",
          "Removed: \(formatBytes(Int64(difference.removed.bytes)))",
        ]
      }
    }
  }

  struct Find: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "find", abstract: "Find files in snapshots, by name.",
      discussion: """
        A pattern with a slash at its front is matched from the root, any other at any depth; `*`, `?` and `[…]` stay within \
        a name, `**` stands for any number of directories. Exit status 1 if nothing is found.

        EXAMPLES
          salvor vault find '*.conf'
          salvor vault find --newest 2026-11-01 /etc/passwd
          salvor vault find --snapshot latest -i 'readme*' --json
        """)

    @Argument(help: "Patterns; any of them.") var patterns: [String]
    @Flag(name: [.customShort("i"), .long], help: "Take small and capital letters for the same.") var ignoreCase = false
    @Option(name: [.customShort("s"), .long], help: "Only in this snapshot; may be repeated.") var snapshot: [String] =
      []
    @Option(name: [.customShort("O"), .long], help: "Only what was modified at or after this time.") var oldest: String?
    @Option(name: [.customShort("N"), .long], help: "Only what was modified at or before this time.") var newest:
      String?
    @Flag(name: .shortAndLong, help: "Modes, owners, sizes and times as well.") var long = false
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    private static func time(_ text: String?) throws -> Timestamp? {
      guard let text else { return nil }
      guard let time = Timestamp(text) else {
        throw ValidationError("'\(text)' is not a time, such as 2026-11-01 or 2026-11-01T08:00:00Z")
      }
      return time
    }

    func validate() throws {
      if patterns.isEmpty { throw ValidationError("give a pattern") }
      _ = (try Self.time(oldest), try Self.time(newest))
    }

    private struct Found: Sendable {
      var stored: StoredSnapshot
      var matches: [(path: TreePath, node: TreeNode)]
    }

    func run() async throws {
      let command = self
      let (oldest, newest) = (try Self.time(oldest), try Self.time(newest))
      let patterns = patterns.map { ExcludePattern($0, ignoresCase: ignoreCase) }
      let line = options.progress
      let found = try await options.locked(startsEarly: true) { repository in
        var chosen: [StoredSnapshot] = []
        if command.snapshot.isEmpty {
          chosen = try await repository.readableSnapshots().filter { command.filter.matches($0.snapshot) }
        } else {
          for id in command.snapshot { chosen.append(try await command.filter.find(id, in: repository)) }
        }
        var result: [Found] = []
        for (number, stored) in chosen.enumerated() {
          line.show("search", "snapshot \(number + 1) of \(chosen.count)")
          let matches = try await SnapshotTree(reader: repository, root: stored.snapshot.tree).allNodes().filter {
            path, node in
            if let oldest, node.metadata.modified < oldest { return false }
            if let newest, node.metadata.modified > newest { return false }
            return patterns.contains { $0.matches(path) }
          }
          if !matches.isEmpty { result.append(Found(stored: stored, matches: matches)) }
        }
        return result
      }
      line.clear()
      try show(found)
      if found.isEmpty { throw ExitStatus.failed }
    }

    private func show(_ found: [Found]) throws {
      if options.isMachineReadable {
        let json = try found.map { found -> JSONValue in
          [
            "snapshot": .string(found.stored.id.hex), "hits": .integer(Int64(found.matches.count)),
            "matches": .array(
              try found.matches.map {
                try CanonicalJSON.decode(JSONValue.self, from: TreeListing.json($0.path, $0.node))
              }),
          ]
        }
        return try options.show(json) { _ in [] }
      }
      let isTerminal = isatty(1) == 1
      for found in found {
        let head = "in snapshot \(found.stored.shortID) of \(found.stored.snapshot.time.format(fractionDigits: 0))\n"
        var bytes = Array(head.utf8)
        for (path, node) in found.matches {
          let line = long ? TreeListing.long(path, node) : path.bytes(below: "")
          bytes += (isTerminal ? Array(String(decoding: line, as: UTF8.self).harmless.utf8) : line) + [10]
        }
        rawOutput(bytes)
      }
    }
  }
}

extension TreeChange {
  private var text: [UInt8] { path.bytes(below: "") + (isDirectory ? [UInt8(ascii: "/")] : []) }

  fileprivate func line(isTerminal: Bool) -> [UInt8] {
    let mark = letters + String(repeating: " ", count: max(0, 5 - letters.count))
    let name = isTerminal ? Array(String(decoding: text, as: UTF8.self).harmless.utf8) : text
    return Array(mark.utf8) + name + [10]
  }

  fileprivate var json: JSONValue {
    [
      "message_type": "change", "path": .string(String(decoding: text, as: UTF8.self)), "modifier": .string(letters),
    ]
  }
}

extension TreeChangeTotals {
  fileprivate var json: JSONValue {
    [
      "files": .integer(Int64(files)), "dirs": .integer(Int64(directories)), "others": .integer(Int64(others)),
      "data_blobs": .integer(Int64(dataBlobs)), "tree_blobs": .integer(Int64(treeBlobs)),
      "bytes": .integer(Int64(bytes)),
    ]
  }
}
