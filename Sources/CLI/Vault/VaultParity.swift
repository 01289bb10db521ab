import ArgumentParser
import Console
import Core
import IO
import Vault

extension VaultCommand {
  struct Parity: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "parity", abstract: "Protect a repository's files against damage where they lie.",
      discussion: """
        Parity mends files that bits were lost of, without a second copy: of packs as much damage as was chosen, of all \
        else everything. It lies in `salvor/` beside the repository's own directories, where restic passes over it. \
        `repair files` uses it, and so does whatever reads.

        EXAMPLES
          salvor vault parity add --parity 10%
          salvor vault parity check --read-data
        """, subcommands: [Add.self, ParityCheck.self, Drop.self])
  }
}

/// What is wrong with parity, or with asking for it.
enum ParityFailure: Failure {
  case none
  case otherShare(Int)
  case incomplete(missing: Int, damaged: Int)
  case tooLate(Int)
  case lost(Int)

  var report: Report {
    switch self {
    case .none:
      Report("PARITY-102", "the repository has no parity").state("nothing was changed")
        .remedy("add some with `salvor vault parity add`")
    case .otherShare(let percent):
      Report("PARITY-103", "the repository has parity of \(percent)% already").state("nothing was changed")
        .remedy("to change that, run `salvor vault parity drop`, then add it anew")
    case .incomplete(let missing, let damaged):
      Report("PARITY-104", "\(missing.of("file")) without parity, and \(damaged) whose parity is damaged")
        .state("nothing was changed").remedy("run `salvor vault parity add`, with --read-data for the damaged ones")
    case .tooLate(let count):
      Report("PARITY-105", "\(count.of("file")) damaged already: parity of them would keep the damage")
        .state("everything else has parity").remedy(
          "run `salvor vault repair files`, with --from-mirror if there is a copy")
    case .lost(let count):
      Report("PARITY-106", "\(count.of("file")) could not be brought back")
        .state("whatever could be is in its place")
        .remedy("name a copy with --from-mirror; without one, `salvor vault repair packs` saves what is whole in packs")
    }
  }
}

extension ParityStore.CheckReport {
  var json: JSONValue {
    func names(_ names: [ObjectName]) -> JSONValue { .array(names.map { .string($0.path) }) }
    return [
      "covered": .integer(Int64(covered)), "missing": names(missing), "damaged": names(damaged), "stale": names(stale),
    ]
  }

  func lines(_ style: Style) -> [String] {
    var lines = damaged.map { "\(style.paint("damage", .bad)) the parity of \($0) is damaged" }
    lines.append(
      "parity: \(covered.of("file")) covered, \(missing.count) without, \(damaged.count) with damaged parity; "
        + "\(stale.count) of what is no longer there")
    return lines
  }
}

extension VaultCommand.Parity {
  struct Add: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "add", abstract: "Make parity for everything that has none.",
      discussion: """
        The first time it says how much; from then on whatever is written gets parity at once. The share is that of packs: \
        10% mends a pack in which up to a tenth of its pieces are damaged, 100% one that is gone. All else is kept \
        whole. Every file is read and verified before.

        EXAMPLES
          salvor vault parity add
          salvor vault parity add --parity 20%
          salvor vault parity add --read-data --tidy
        """)

    @Option(help: ArgumentHelp("How much, 1% to 100% (default: 10%, or as it was).", valueName: "percent"))
    var parity: String?
    @Flag(help: "Read the parity there is, and make it anew where it is damaged.") var readData = false
    @Flag(help: "Remove parity of what the repository no longer has.") var tidy = false
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      if let parity, ParityShare(parity) == nil { throw ValidationError("'\(parity)' is not a share from 1% to 100%") }
    }

    func run() async throws {
      let (command, line) = (self, options.progress)
      let place = try await options.parityPlace()
      let wanted = parity.flatMap { ParityShare($0) }
      let (made, removed, damaged, share) = try await options.locked(
        needsLock: true, loadingIndex: false, isAlone: true
      ) { repository in
        let known = try await ParityStore.open(place)
        if let known, let wanted, known.share != wanted { throw ParityFailure.otherShare(known.share.percent) }
        let parity: ParityStore
        if let known { parity = known } else { parity = try await ParityStore.create(place, wanted ?? .usual) }
        let result = try await parity.complete(
          repository.store, readsData: command.readData, removesStale: command.tidy
        ) { line.show("parity", "\($0) of \($1) files") }
        return (result.made, result.removed, result.damaged, parity.share)
      }
      line.clear()
      let json: JSONValue = [
        "parity_percent": .integer(Int64(share.percent)), "made": .integer(Int64(made)),
        "removed": .integer(Int64(removed)), "damaged": .array(damaged.map { .string($0.path) }),
      ]
      try options.show(json) { style in
        damaged.map { "\(style.paint("damage", .bad)) \($0) is damaged" }
          + ["parity of \(share.percent)%: \(made.of("file")) made, \(removed) removed"]
      }
      if !damaged.isEmpty { throw CommandFailure(.validationFailed, ParityFailure.tooLate(damaged.count).report) }
    }
  }

  struct ParityCheck: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "check", abstract: "Say what has no parity, or a damaged one.",
      discussion: """
        Exit status 4 if anything has. `salvor vault check` says the same, and looks at the repository.

        EXAMPLES
          salvor vault parity check
          salvor vault parity check --read-data --json
        """)

    @Flag(help: "Read every parity file.") var readData = false
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (readData, line) = (readData, options.progress)
      let place = try await options.parityPlace()
      let report = try await options.locked(loadingIndex: false, isAlone: true) { repository in
        guard let parity = try await ParityStore.open(place) else { throw ParityFailure.none }
        return try await parity.check(repository.store, readsData: readData) {
          line.show("parity", "\($0) of \($1) files")
        }
      }
      line.clear()
      try options.show(report.json) { report.lines($0) }
      if !report.missing.isEmpty || !report.damaged.isEmpty {
        throw CommandFailure(
          .validationFailed,
          ParityFailure.incomplete(missing: report.missing.count, damaged: report.damaged.count).report)
      }
    }
  }

  struct Drop: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "drop", abstract: "Remove all parity.",
      discussion: """
        The repository itself is not touched.

        EXAMPLE
          salvor vault parity drop
        """)

    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let place = try await options.parityPlace()
      try await options.locked(exclusive: true, needsLock: true, loadingIndex: false, isAlone: true) { _ in
        guard let parity = try await ParityStore.open(place) else { throw ParityFailure.none }
        try await parity.drop()
      }
      try options.show(["dropped": true] as JSONValue) { _ in ["the repository has no parity any more"] }
    }
  }
}

extension VaultCommand.Repair {
  struct RepairFiles: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "files", abstract: "Bring every damaged or missing file back from parity or a copy.",
      discussion: """
        Reads all files of the repository: keys, indexes, snapshots, packs. What isn't what its name says, and what is \
        missing, comes back byte for byte from parity, the mirrors and --from-mirror. Snapshots and keys that only those \
        have may have been removed on purpose: they come back with --removed. Exit status 4 if anything stays lost.

        EXAMPLES
          salvor vault repair files --dry-run
          salvor vault repair files --from-mirror /mnt/second
        """)

    @Option(help: ArgumentHelp("A copy of this repository, file by file; may be repeated.", valueName: "location"))
    var fromMirror: [String] = []
    @Flag(help: "Bring back snapshots and keys, too, that only parity or a copy has.") var removed = false
    @Flag(name: [.customShort("n"), .long], help: "Say what would be done, and change nothing.") var dryRun = false
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (command, line) = (self, options.progress)
      let mirrors = try fromMirror.map { CopySource(try options.store(at: $0)) }
      let repairs = try await options.locked(
        exclusive: true, needsLock: !dryRun, loadingIndex: false, sources: mirrors, isDryRun: dryRun
      ) { repository in
        var settings = FileRepairOptions()
        (settings.restoresRemoved, settings.isDryRun) = (command.removed, command.dryRun)
        settings.progress = { line.show("read files", "\($0) of \($1)") }
        return try await repository.repairFiles(settings)
      }
      line.clear()
      let json = repairs.map { repair -> JSONValue in
        var value: [String: JSONValue] = [
          "file": .string(repair.name.path), "was_missing": .bool(repair.wasMissing), "dry_run": .bool(dryRun),
        ]
        switch repair.outcome {
        case .restored(let source): (value["outcome"], value["source"]) = ("restored", .string(source))
        case .lost: value["outcome"] = "lost"
        case .onlyThere: value["outcome"] = "only_there"
        }
        return .object(value)
      }
      let lost = repairs.count { $0.outcome == .lost }
      let restored = repairs.count { if case .restored = $0.outcome { true } else { false } }
      try options.show(json) { style in
        let would = dryRun ? "would be " : ""
        var lines = repairs.map { repair in
          let state = repair.wasMissing ? "missing" : "damaged"
          return switch repair.outcome {
          case .restored(let source): "\(repair.name) was \(state): \(would)brought back from \(source.harmless)"
          case .lost: "\(style.paint("lost", .bad)) \(repair.name) is \(state), and nothing has it whole"
          case .onlyThere: "\(repair.name) is only in parity or a copy; --removed brings it back"
          }
        }
        lines.append("\(restored.of("file")) \(would)brought back, \(lost) lost")
        return lines
      }
      if lost > 0 { throw CommandFailure(.validationFailed, ParityFailure.lost(lost).report) }
    }
  }
}
