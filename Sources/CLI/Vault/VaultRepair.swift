import ArgumentParser
import Console
import Core
import Foundation
import IO
import Vault

extension VaultCommand.Repair {
  struct RepairPacks: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "packs", abstract: "Bring damaged and missing packs back.",
      discussion: """
        A pack is brought back as it was from a second copy of the repository (--from-mirror). What no copy has is put \
        together from what is whole in the damaged file, in other packs, and in a repository that holds the same \
        content (--from-repo). A damaged file that could not be brought back whole is kept as pack-ID. Exit status 4 if \
        anything stays lost: then `repair snapshots` saves the rest.

        EXAMPLES
          salvor vault repair packs --dry-run
          salvor vault repair packs --from-mirror /mnt/second
          salvor vault repair packs 40dc1520 --from-repo rest:https://backup:8000/db1/
        """)

    @Argument(help: "Only these packs; all are read otherwise.") var ids: [String] = []
    @Option(
      help: ArgumentHelp("A copy of this repository, file by file; may be repeated.", valueName: "location"))
    var fromMirror: [String] = []
    @Option(
      help: ArgumentHelp("Where damaged files are kept (default: the current directory).", valueName: "directory"),
      completion: .directory)
    var keepDamaged: String?
    @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and change nothing.") var dryRun = false
    @OptionGroup var source: SourceOptions
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (command, line) = (self, options.progress)
      let mirrors = try fromMirror.map { CopySource(try options.store(at: $0)) }
      let other = source.isGiven ? try await source.open(options.host) : nil
      let report = try await options.locked(
        exclusive: true, needsLock: !dryRun, sources: mirrors, isDryRun: dryRun
      ) { repository in
        var settings = PackRepairOptions()
        settings.packs = try await command.packs(in: repository)
        settings.isDryRun = command.dryRun
        settings.keep = { try await command.keep($0, $1) }
        settings.progress = { line.show("read packs", "\($0) of \($1)") }
        guard let other else { return try await repository.repairPacks(settings) }
        settings.others = [other]
        let chosen = settings
        return try await other.withLock { try await repository.repairPacks(chosen) }
      }
      line.clear()
      try options.show(json(report)) { lines(report, $0) }
      if report.lost > 0 { throw CommandFailure(.validationFailed, lossReport(report)) }
    }

    /// The packs meant, present or only listed.
    private func packs(in repository: Repository) async throws -> [Digest] {
      if ids.isEmpty { return [] }
      let listed = try await repository.store.list(.data).compactMap(\.name.id)
      let known = Set(listed).union(repository.packIDs).sorted()
      return try ids.map { id in
        try Repository.only(id.isEmpty ? [] : known.filter { $0.hex.hasPrefix(id.lowercased()) }, of: "packs", id)
      }
    }

    private func keep(_ pack: Digest, _ bytes: [UInt8]) async throws {
      let directory = absolute(keepDamaged ?? ".")
      try await options.host.pool.run { () throws(SystemFailure) in
        try Files.createDirectory(directory, mode: 0o700)
        try Files.replace("\(directory)/pack-\(pack.hex)", with: bytes)
      }
    }

    private func json(_ report: PackRepairReport) -> JSONValue {
      let repairs = report.repairs.map { repair -> JSONValue in
        var value: [String: JSONValue] = [
          "pack": .string(repair.pack.hex), "code": .string(repair.damage.code),
          "damage": .string(repair.damage.summary), "blobs_kept": .integer(Int64(repair.kept)),
          "blobs_fetched": .integer(Int64(repair.fetched)), "blobs_elsewhere": .integer(Int64(repair.elsewhere)),
          "blobs_lost": .array(repair.lost.map { .string("\($0.kind) \($0.id.hex)") }),
        ]
        switch repair.outcome {
        case .restored(let source): (value["outcome"], value["source"]) = ("restored", .string(source))
        case .salvaged: value["outcome"] = "salvaged"
        case .left: value["outcome"] = "left"
        }
        return .object(value)
      }
      return [
        "packs": .integer(Int64(report.packs)), "repairs": .array(repairs), "dry_run": .bool(dryRun),
        "blobs_lost": .integer(Int64(report.lost)),
      ]
    }

    private func lines(_ report: PackRepairReport, _ style: Style) -> [String] {
      let would = dryRun ? "would be " : ""
      var lines: [String] = []
      for repair in report.repairs {
        lines.append("\(style.paint("damage", .bad)) \(repair.damage.code): \(repair.damage.summary.harmless)")
        switch repair.outcome {
        case .restored(let source): lines.append("  \(would)brought back whole from \(source.harmless)")
        case .left: lines.append("  no index needs it: left as it is; `salvor vault prune` removes it")
        case .salvaged:
          let found = repair.kept + repair.fetched + repair.elsewhere
          lines.append(
            "  \(found.of("blob")) \(would)saved: \(repair.kept) from the file, \(repair.elsewhere) in other packs, "
              + "\(repair.fetched) from the other repository; \(repair.lost.count) lost")
        }
      }
      lines.append(
        "\(report.packs.of("pack")) read, \(report.repairs.count) damaged or missing, \(report.lost.of("blob")) lost")
      return lines
    }

    private func lossReport(_ report: PackRepairReport) -> Report {
      Report("VAULT-190", "\(report.lost.of("blob")) could not be brought back")
        .state(
          dryRun ? "nothing was changed" : "everything else is whole again; the damaged files are kept as pack-ID"
        )
        .remedy(
          "try a second copy with --from-mirror or --from-repo; without one, `salvor vault repair snapshots` saves what is left"
        )
    }
  }

  struct RepairSnapshots: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "snapshots", abstract: "Save what is left of snapshots that have lost something.",
      discussion: """
        A damaged snapshot gets a copy, tagged `repaired`, without what is lost: a directory that can't be read is empty, \
        a file has the pieces that are there. Run `repair packs` and `repair index` first. Snapshots of Salvor's recovery \
        points are only reported: a point is whole or it isn't one.

        EXAMPLES
          salvor vault repair snapshots --dry-run
          salvor vault repair snapshots --forget latest
        """)

    @Argument(help: "Only these; all that the filters let through otherwise.") var ids: [String] = []
    @Flag(help: "Remove damaged snapshots once their copies are durable.") var forget = false
    @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and change nothing.") var dryRun = false
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (command, line) = (self, options.progress)
      let repairs = try await options.locked(exclusive: true, needsLock: !dryRun, isDryRun: dryRun) { repository in
        var chosen: [StoredSnapshot] = []
        if command.ids.isEmpty {
          chosen = try await repository.readableSnapshots().filter { command.filter.matches($0.snapshot) }
        } else {
          for id in command.ids { chosen.append(try await command.filter.find(id, in: repository)) }
        }
        var settings = SnapshotRepairOptions()
        (settings.forgets, settings.isDryRun) = (command.forget, command.dryRun)
        settings.mayChange = { $0.snapshot.point == nil }
        settings.progress = { line.show("read snapshots", "\($0) of \($1)") }
        return try await repository.repairSnapshots(chosen, settings)
      }
      line.clear()
      try options.show(repairs.map(json)) { style in
        repairs.flatMap { lines($0, style) } + ["\(repairs.count.of("snapshot")) damaged"]
      }
      let left = repairs.count { $0.outcome == .left }
      if left > 0 {
        throw CommandFailure(
          .validationFailed,
          Report("VAULT-191", "\(left.of("snapshot")) of recovery points can't be repaired")
            .state("they were not touched")
            .remedy(
              "choose an earlier point for restores; files that are whole come out with `salvor vault restore --include`"
            ))
      }
    }

    private func json(_ repair: SnapshotRepair) -> JSONValue {
      var value: [String: JSONValue] = [
        "snapshot": .string(repair.stored.id.hex), "forgotten": .bool(repair.isForgotten), "dry_run": .bool(dryRun),
        "losses": .array(repair.losses.map { ["path": .string("/\($0.path)"), "what": .string($0.what)] }),
      ]
      switch repair.outcome {
      case .repaired(let id):
        value["outcome"] = "repaired"
        if let id { value["repaired"] = .string(id.hex) }
      case .hopeless: value["outcome"] = "hopeless"
      case .left: value["outcome"] = "left"
      }
      return .object(value)
    }

    private func lines(_ repair: SnapshotRepair, _ style: Style) -> [String] {
      let would = dryRun ? "would be " : ""
      var lines = ["\(style.paint("damaged", .bad)) snapshot \(repair.stored.shortID)"]
      lines += repair.losses.map { "  /\($0.path.description.harmless): \($0.what)" }
      switch repair.outcome {
      case .repaired(let id): lines.append("  " + (id.map { "saved as \($0.short)" } ?? "the rest would be saved"))
      case .hopeless: lines.append("  its root is lost: nothing of it can be saved")
      case .left: lines.append("  it belongs to a recovery point, and is left as it is")
      }
      if repair.isForgotten { lines.append("  \(would)removed") }
      return lines
    }
  }
}
