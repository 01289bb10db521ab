import ArgumentParser
import Console
import Core
import Foundation
import IO
import Vault

extension VaultCommand {
  struct Snapshots: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "snapshots", abstract: "List snapshots, oldest first.",
      discussion: """
        EXAMPLES
          salvor vault snapshots
          salvor vault snapshots --host db1 --tag nightly --latest 1
          salvor vault snapshots --json | jq -r '.[].short_id'
        """)

    @Argument(help: "Only these.") var ids: [String] = []
    @Option(help: ArgumentHelp("Only the newest of each host and paths.", valueName: "number")) var latest: Int?
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      if let latest, latest < 1 { throw ValidationError("--latest wants a number of 1 or more") }
    }

    func run() async throws {
      let (ids, filter) = (ids, filter)
      var found = try await options.locked(loadingIndex: false) { repository in
        if ids.isEmpty { return try await repository.readableSnapshots().filter { filter.matches($0.snapshot) } }
        var named: [StoredSnapshot] = []
        for id in ids { named.append(try await filter.find(id, in: repository)) }
        return named
      }
      if let latest { found = newest(latest, of: found) }
      try options.show(found.map(\.json)) { style in
        var table = Table("ID", "Time", "Host", "Tags", "Paths")
        for stored in found {
          let snapshot = stored.snapshot
          table.add(
            style.paint(stored.shortID, .strong), snapshot.time.format(fractionDigits: 0), snapshot.hostname.harmless,
            snapshot.tags.joined(separator: ",").harmless, snapshot.paths.joined(separator: " ").harmless)
        }
        return table.lines(style) + ["\(found.count) snapshot\(found.count == 1 ? "" : "s")"]
      }
    }

    private func newest(_ count: Int, of snapshots: [StoredSnapshot]) -> [StoredSnapshot] {
      let groups = Dictionary(grouping: snapshots) { [$0.snapshot.hostname] + $0.snapshot.paths.sorted() }
      let kept = Set(groups.values.flatMap { $0.suffix(count).map(\.id) })
      return snapshots.filter { kept.contains($0.id) }
    }
  }

  struct List: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "ls", abstract: "List what is in a snapshot.",
      discussion: """
        EXAMPLES
          salvor vault ls latest
          salvor vault ls -l 40dc1520 /etc
          salvor vault ls latest --json | jq -r 'select(.type == "file") | .path'
        """)

    @Argument(help: "The first digits of an id, or latest.") var snapshot: String
    @Argument(help: "Only these directories, and what is below them.") var directories: [String] = []
    @Flag(name: .shortAndLong, help: "Modes, owners, sizes and times as well.") var long = false
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (name, filter, roots) = (snapshot, filter, directories.map { TreePath($0) })
      let (stored, nodes) = try await options.locked(startsEarly: true) { repository in
        let stored = try await filter.find(name, in: repository)
        let tree = SnapshotTree(reader: repository, root: stored.snapshot.tree)
        for root in roots { _ = try await tree.node(at: root) }  // A path that isn't there is an error.
        let nodes = try await tree.allNodes().filter { path, _ in
          roots.isEmpty || roots.contains { path.components.starts(with: $0.components) }
        }
        return (stored, nodes)
      }
      let isYAML = options.output.output == .yaml && !options.json
      if options.isMachineReadable {
        var head = stored.json.object ?? [:]
        head["struct_type"] = "snapshot"
        var lines = [Array(try CanonicalJSON.encode(JSONValue.object(head)))]
        lines += nodes.map { TreeListing.json($0.path, $0.node) }
        if isYAML {
          return try options.show(lines.map { try CanonicalJSON.decode(JSONValue.self, from: $0) }) { _ in [] }
        }
        return rawOutput(lines.flatMap { $0 + [10] })
      }
      // Names need not be UTF-8; a terminal must not be written to by them.
      let isTerminal = isatty(1) == 1
      var bytes: [UInt8] = []
      for (path, node) in nodes {
        let line = long ? TreeListing.long(path, node) : path.bytes(below: "")
        bytes += (isTerminal ? Array(String(decoding: line, as: UTF8.self).harmless.utf8) : line) + [10]
      }
      rawOutput(bytes)
    }
  }
}

/// Bytes to standard output, as they are.
func rawOutput(_ bytes: [UInt8]) {
  // A reader that went away is not an error of ours.
  try? FileHandle.standardOutput.write(contentsOf: Data(bytes))
}
