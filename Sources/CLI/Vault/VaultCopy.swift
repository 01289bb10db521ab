import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import Vault

/// A second repository: restic's options by restic's names.
struct SourceOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp("The repository to copy from (default: $RESTIC_FROM_REPOSITORY).", valueName: "location"))
  var fromRepo: String?
  @Option(
    help: ArgumentHelp("File with its password (default: $RESTIC_FROM_PASSWORD_FILE).", valueName: "file"),
    completion: .file())
  var fromPasswordFile: String?
  @Option(
    help: ArgumentHelp(
      "Command that prints its password (default: $RESTIC_FROM_PASSWORD_COMMAND).", valueName: "command"))
  var fromPasswordCommand: String?

  /// Whether one is named at all.
  var isGiven: Bool { value(fromRepo, "RESTIC_FROM_REPOSITORY") != nil }

  private func value(_ option: String?, _ variable: String) -> String? {
    [option, ProcessInfo.processInfo.environment[variable]].compactMap(\.self).first { !$0.isEmpty }
  }

  func open(_ host: Machine) async throws -> Repository {
    guard let named = value(fromRepo, "RESTIC_FROM_REPOSITORY") else { throw RepositoryOptionsFailure.noSource }
    let hasScheme = named.prefix { $0 != "/" }.contains(":")
    let store = try Registry.store(at: hasScheme ? named : absolute(named), host: host)
    guard try await store.contains(.config) else { throw VaultError.notARepository(store.location) }
    return try await Repository.open(
      store: store, password: try await password(host), settings: host.vaultSettings, loadingIndex: false)
  }

  private func password(_ host: Machine) async throws -> Secret {
    let command = value(fromPasswordCommand, "RESTIC_FROM_PASSWORD_COMMAND")
    let file = value(fromPasswordFile, "RESTIC_FROM_PASSWORD_FILE")
    if command != nil, file != nil {
      throw RepositoryOptionsFailure.contradiction("--from-password-file", "--from-password-command")
    }
    if let command { return try await PasswordSource.command(command, host) }
    if let file { return try await PasswordSource.file(file, host) }
    if let text = host.environment["RESTIC_FROM_PASSWORD"], !text.isEmpty { return Secret(text) }
    return try await PasswordSource.prompt("password for the repository to copy from", confirming: false, host)
  }
}

extension VaultCommand {
  struct Copy: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "copy", abstract: "Copy snapshots from another repository into this one.",
      discussion: """
        Every blob is verified on the way; what is here already is not read again. A copy keeps the first snapshot's id \
        as `original`, and is not made twice. For copies to share data with backups made here, create this repository \
        with the other's chunker parameters (restic init --copy-chunker-params).

        EXAMPLES
          salvor vault copy --repo /mnt/second --from-repo /srv/backup --from-password-file /run/secrets/backup
          salvor vault copy --from-repo /srv/backup latest --host db1
        """)

    @Argument(help: "Only these snapshots; all that the filters let through otherwise.") var ids: [String] = []
    @OptionGroup var source: SourceOptions
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (command, line) = (self, options.progress)
      let source = try await source.open(options.host)
      let copied = try await options.locked(needsLock: true, catchesUp: true) { target in
        try await source.withLock {
          guard target.config.id != source.config.id else { throw RepositoryOptionsFailure.sameRepository }
          return try await command.copy(from: source, to: target, line)
        }
      }
      line.clear()
      let json = copied.map { stored, report -> JSONValue in
        [
          "source": .string(stored.id.hex), "snapshot": .string(report.snapshot.hex),
          "copied": .bool(!report.wasKnown), "blobs": .integer(Int64(report.blobs)),
          "added": .integer(Int64(report.addedBytes)),
        ]
      }
      try options.show(json) { style in
        var table = Table("Snapshot", "Time", "Host", "Here", "Added")
        for (stored, report) in copied {
          table.add(
            stored.shortID, stored.snapshot.time.format(fractionDigits: 0), stored.snapshot.hostname.harmless,
            String(report.snapshot.hex.prefix(8)),
            report.wasKnown ? "was here" : formatBytes(Int64(report.addedBytes)))
        }
        return table.lines(style) + ["\(copied.count { !$0.1.wasKnown }.of("snapshot")) copied"]
      }
    }

    private func copy(
      from source: Repository, to target: Repository, _ line: ProgressLine
    ) async throws -> [(StoredSnapshot, CopyReport)] {
      var chosen: [StoredSnapshot] = []
      if ids.isEmpty {
        chosen = try await source.readableSnapshots().filter { filter.matches($0.snapshot) }
      } else {
        for id in ids { chosen.append(try await filter.find(id, in: source)) }
      }
      var known = try await target.snapshots()
      var result: [(StoredSnapshot, CopyReport)] = []
      let total = chosen.count
      for (number, stored) in chosen.enumerated() {
        let report = try await target.copy(stored, from: source, known: known) { blobs in
          line.show("copy \(number + 1) of \(total)", blobs.of("blob"))
        }
        if !report.wasKnown {
          known.append(StoredSnapshot(id: report.snapshot, snapshot: try await target.loadSnapshot(report.snapshot)))
        }
        result.append((stored, report))
      }
      return result
    }
  }

  struct Repair: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "repair", abstract: "Mend what can be mended.",
      discussion: """
        After damage: `repair files` brings every file back that parity or a copy has. Without those, `repair packs` brings back what can be had, `repair index` makes the indexes right, `repair snapshots` \
        saves the rest of snapshots that have lost something. `salvor vault check` says what there is to do.

        EXAMPLES
          salvor vault repair files --from-mirror /mnt/second
          salvor vault repair packs
          salvor vault repair index
          salvor vault repair snapshots --forget
        """, subcommands: [RepairIndex.self, RepairPacks.self, RepairSnapshots.self, RepairFiles.self])

    struct RepairIndex: AsyncParsableCommand {
      static let configuration = CommandConfiguration(
        commandName: "index", abstract: "Make the indexes say what the packs hold.",
        discussion: """
          Packs carry all that an index says; whatever happened to the indexes, they can be made anew. Nothing but \
          indexes is written or removed.

          EXAMPLES
            salvor vault repair index --dry-run
            salvor vault repair index --read-all-packs
          """)

      @Flag(help: "Believe no index; read every pack's header.") var readAllPacks = false
      @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and change nothing.") var dryRun = false
      @OptionGroup var options: RepositoryOptions

      func run() async throws {
        let (command, line) = (self, options.progress)
        let report = try await options.locked(exclusive: true, needsLock: !dryRun, loadingIndex: false) { repository in
          try await repository.repairIndex(readsAllPacks: command.readAllPacks, isDryRun: command.dryRun) {
            line.show("read packs", "\($0) of \($1)")
          }
        }
        line.clear()
        let json: JSONValue = [
          "packs": .integer(Int64(report.packs)), "packs_read": .integer(Int64(report.packsRead)),
          "packs_missing": .integer(Int64(report.packsMissing)),
          "packs_unreadable": .array(report.unreadable.map { .string("\($0.code): \($0.summary)") }),
          "indexes_damaged": .integer(Int64(report.indexesDamaged)),
          "indexes_written": .integer(Int64(report.indexesWritten)),
          "indexes_removed": .integer(Int64(report.indexesRemoved)), "dry_run": .bool(dryRun),
        ]
        try options.show(json) { style in
          var lines = report.unreadable.map { "\(style.paint("damage", .bad)) \($0.code): \($0.summary.harmless)" }
          lines.append(
            "\(report.packs.of("pack")), \(report.packsRead) read, \(report.packsMissing) listed and missing")
          let would = dryRun ? "would be " : ""
          lines.append(
            "\(report.indexesWritten.of("index file")) \(would)written, \(report.indexesRemoved) \(would)removed, "
              + "\(report.indexesDamaged) of them damaged")
          return lines
        }
        if !report.unreadable.isEmpty {
          throw CommandFailure(
            .validationFailed,
            Report("VAULT-164", "\(report.unreadable.count.of("pack")) can't be read")
              .state(dryRun ? "nothing was changed" : "everything else is in the indexes again")
              .remedy(
                "bring the files back from a second copy, then run this again; `salvor vault check` says what they held"
              ))
        }
      }
    }
  }
}
