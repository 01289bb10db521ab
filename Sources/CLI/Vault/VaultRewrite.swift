import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import Vault

extension VaultCommand {
  struct Rewrite: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "rewrite", abstract: "Take files out of snapshots, or mend their host and time.",
      discussion: """
        Each snapshot that changes is written anew, with the first one's id as `original`. The first one stays, unless \
        --forget is given; then what was left out goes with the next prune. The new one has the tag `rewrite` as long as both \
        are there. What belongs to one of Salvor's recovery points can't be rewritten.

        EXAMPLES
          salvor vault rewrite --exclude '*.key' --forget
          salvor vault rewrite -n --exclude /home/secret latest
          salvor vault rewrite --new-host db1 --new-time 2026-11-01T08:00:00Z 40dc1520
        """)

    @Argument(help: "Only these; all that the filters let through otherwise.") var ids: [String] = []
    @Option(name: .shortAndLong, help: ArgumentHelp("Leave out what matches; may be repeated.", valueName: "pattern"))
    var exclude: [String] = []
    @Option(help: ArgumentHelp("The same, small and capital letters alike.", valueName: "pattern"))
    var iexclude: [String] = []
    @Option(
      help: ArgumentHelp("Leave out what a line of this file matches; may be repeated.", valueName: "file"),
      completion: .file())
    var excludeFile: [String] = []
    @Flag(help: "Remove the snapshots that were rewritten.") var forget = false
    @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and change nothing.") var dryRun = false
    @Option(help: "Another host's name.") var newHost: String?
    @Option(help: ArgumentHelp("Another time, in RFC 3339.", valueName: "time")) var newTime: String?
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    private func time() throws -> Timestamp? {
      guard let newTime else { return nil }
      guard let time = Timestamp(newTime) else {
        throw ValidationError("'\(newTime)' is not a time, such as 2026-11-01 or 2026-11-01T08:00:00Z")
      }
      return time
    }

    func validate() throws {
      if exclude.isEmpty, iexclude.isEmpty, excludeFile.isEmpty, newHost == nil, newTime == nil {
        throw ValidationError("nothing is to change: give --exclude, --exclude-file, --new-host or --new-time")
      }
      if newHost == "" { throw ValidationError("--new-host wants a name") }
      _ = try time()
    }

    private struct Change: Sendable {
      var stored: StoredSnapshot
      var tree: RewrittenTree
      /// `nil` for a dry run.
      var new: Digest?
    }

    func run() async throws {
      let (command, line, newTime) = (self, options.progress, try time())
      let lines = try await ExcludeFiles.patterns(exclude, excludeFile, options.host)
      let patterns = lines.map { ExcludePattern($0) } + iexclude.map { ExcludePattern($0, ignoresCase: true) }
      let (changes, count) = try await options.locked(exclusive: forget && !dryRun, needsLock: !dryRun) { repository in
        var chosen: [StoredSnapshot] = []
        if command.ids.isEmpty {
          chosen = try await repository.readableSnapshots().filter { command.filter.matches($0.snapshot) }
        } else {
          for id in command.ids { chosen.append(try await command.filter.find(id, in: repository)) }
        }
        var changes: [Change] = []
        for (number, stored) in chosen.enumerated() {
          line.show("rewrite", "snapshot \(number + 1) of \(chosen.count)")
          // Known by itself before anything is written.
          let planned = try await repository.rewrite(tree: stored.snapshot.tree, excluding: patterns, isDryRun: true)
          var snapshot = stored.snapshot
          snapshot.tree = planned.root
          if let host = command.newHost { snapshot.hostname = host }
          if let newTime { snapshot.time = newTime }
          guard snapshot != stored.snapshot else { continue }
          try stored.refuseChange(after: changes.count, exceptPoints: false)
          if command.dryRun {
            changes.append(Change(stored: stored, tree: planned))
            continue
          }
          _ = try await repository.rewrite(tree: stored.snapshot.tree, excluding: patterns)
          snapshot.original = stored.id
          // Totals of the backup that no longer hold.
          if planned.root != stored.snapshot.tree { snapshot.other["summary"] = nil }
          if !command.forget, !snapshot.tags.contains("rewrite") { snapshot.tags.append("rewrite") }
          let new = try await repository.save(snapshot)
          if command.forget { try await repository.forget(stored.id) }
          changes.append(Change(stored: stored, tree: planned, new: new))
        }
        return (changes, chosen.count)
      }
      line.clear()
      try show(changes, of: count)
    }

    private func show(_ changes: [Change], of count: Int) throws {
      let json = changes.map { change -> JSONValue in
        var members: [String: JSONValue] = [
          "old_snapshot_id": .string(change.stored.id.hex), "tree": .string(change.tree.root.hex),
          "removed_files": .integer(Int64(change.tree.removedFiles)),
          "removed_dirs": .integer(Int64(change.tree.removedDirectories)),
          "removed_others": .integer(Int64(change.tree.removedOthers)),
          "removed_bytes": .integer(change.tree.removedBytes), "forgotten": .bool(forget && change.new != nil),
        ]
        if let new = change.new { members["new_snapshot_id"] = .string(new.hex) }
        return .object(members)
      }
      try options.show(json) { style in
        var table = Table("Snapshot", "Time", "Host", "Now", "Left out")
        for change in changes {
          let tree = change.tree
          table.add(
            change.stored.shortID, change.stored.snapshot.time.format(fractionDigits: 0),
            change.stored.snapshot.hostname.harmless, change.new.map { String($0.hex.prefix(8)) } ?? "-",
            "\(tree.removedFiles.of("file")), \(formatBytes(tree.removedBytes))")
        }
        let would = dryRun ? "would be " : ""
        return (changes.isEmpty ? [] : table.lines(style)) + [
          "\(changes.count) of \(count.of("snapshot")) \(would)rewritten"
            + (forget && !dryRun && !changes.isEmpty
              ? "; `salvor vault prune` removes what nothing needs any more" : "")
        ]
      }
    }
  }
}

extension StoredSnapshot {
  /// - Throws: If a recovery point knows it by its id.
  func refuseChange(after changed: Int, exceptPoints: Bool) throws {
    guard let point = snapshot.point, !(exceptPoints && snapshot.isPoint) else { return }
    throw CommandFailure(
      .refused,
      Report("VAULT-163", "snapshot \(shortID) belongs to recovery point \(point), which knows it by its id")
        .state("\(changed.of("snapshot")) changed before")
        .remedy("leave it out, such as with --path or --host; the point's own snapshot can be tagged"))
  }
}

/// Patterns of what to leave out, from options and files.
enum ExcludeFiles {
  static func patterns(_ given: [String], _ files: [String], _ host: Machine) async throws -> [String] {
    var lines = given
    for file in files {
      let bytes = try await host.pool.run { () throws(SystemFailure) in try Files.read(file, limitBytes: 16 << 20) }
      lines += String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline)
        .map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty && !$0.hasPrefix("#") }
    }
    if let negated = lines.first(where: { $0.hasPrefix("!") }) {
      throw ValidationError("'\(negated)': a pattern that takes back another is not supported")
    }
    return lines
  }
}
