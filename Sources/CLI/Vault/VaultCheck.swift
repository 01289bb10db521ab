import ArgumentParser
import Console
import Core
import Runtime
import Vault

extension VaultCommand {
  struct Check: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "check", abstract: "Look whether everything every snapshot needs is there and whole.",
      discussion: """
        Without --read-data: snapshots, indexes, trees and every pack's header. With it: every byte. With \
        --read-data-subset: the bytes of one of m parts (n/m), of a share drawn by lot (5%), or of about so much (10G). With \
        --read-data-older-than: of what was not read whole for so long, those that waited longest first; both together \
        bound each run. When each pack was read is kept in the state directory. Exit status 4, and every finding, if anything \
        is damaged.

        EXAMPLES
          salvor vault check
          salvor vault check --read-data --json | jq '.findings'
          salvor vault check --read-data-subset 2/7
          salvor vault check --read-data-older-than 30d --read-data-subset 50G
        """)

    @Flag(help: "Read every byte.") var readData = false
    @Option(help: ArgumentHelp("Read every byte of a part: n/m, x% or a size.", valueName: "part"))
    var readDataSubset: String?
    @Option(
      help: ArgumentHelp("Read every byte of packs not read whole for so long, such as 7d.", valueName: "duration"))
    var readDataOlderThan: String?
    @Option(
      name: .customLong("state"), help: ArgumentHelp("Where state is kept.", valueName: "directory"),
      completion: .directory)
    var stateDirectory: String?
    @OptionGroup var options: RepositoryOptions

    struct Finding: Encodable {
      var kind: String
      var code: String
      var summary: String
      var remedy: String?
      var snapshot: String?

      init(_ finding: CheckFinding) {
        (code, summary, remedy) = (finding.report.code, finding.report.summary, finding.report.remedy)
        switch finding {
        case .damage(_, let snapshot): (kind, self.snapshot) = ("damage", snapshot?.hex)
        case .note: kind = "note"
        }
      }
    }

    struct Result: Encodable {
      var sound: Bool
      var findings: [Finding]
      var snapshots: Int
      var indexes: Int
      var packs: Int
      var blobs: Int
      var trees: Int
      var readData: Bool
      var readPacks: Int
      var readBytes: Int
      var verification: Verification
      var mirrors: [MirrorCheck]?
      var parity: JSONValue?
    }

    /// A copy, looked at by itself.
    struct MirrorCheck: Encodable {
      var location: String
      /// Everything its own snapshots need is there and right.
      var sound: Bool
      var findings: [Finding]
      /// Files of the repository that it lacks.
      var missing: Int?
      /// Why it could not be looked at.
      var failure: String?
    }

    /// How much of the repository this machine has read whole, and when.
    struct Verification: Encodable {
      var packs: Int
      var bytes: Int
      var verifiedPacks: Int
      var verifiedBytes: Int
      /// Verified since the moment `--read-data-older-than` names.
      var freshBytes: Int?
      /// When the pack that waits longest was read, of those that ever were.
      var oldest: String?

      init(_ summary: VerificationSummary, since: Timestamp?) {
        (packs, bytes) = (summary.packs, summary.bytes)
        (verifiedPacks, verifiedBytes) = (summary.verifiedPacks, summary.verifiedBytes)
        if since != nil { freshBytes = summary.freshBytes }
        oldest = summary.oldest?.format(fractionDigits: 0)
      }

      var line: String {
        var text = "\(Self.share(verifiedBytes, bytes)) was ever read whole by this machine"
        if let freshBytes { text += ", \(Self.share(freshBytes, bytes)) as lately as asked for" }
        if verifiedPacks < packs { text += "; \((packs - verifiedPacks).of("pack")) never were" }
        return text + (oldest.map { "; the oldest reading is of \($0)" } ?? "")
      }

      private static func share(_ part: Int, _ whole: Int) -> String {
        whole == 0 ? "100 %" : "\(Int(Double(part) / Double(whole) * 100)) %"
      }
    }

    private func selection(now: Timestamp) throws -> ReadSelection {
      var selection = ReadSelection(readData ? .all : .none)
      if let readDataSubset {
        guard let part = ReadSelection.part(readDataSubset) else {
          throw ValidationError(
            "'\(readDataSubset)' is not n/m with n up to m up to 256, a share above 0% up to 100%, or a size such as 10G"
          )
        }
        selection.part = part
      }
      if let readDataOlderThan {
        guard let age = Duration(text: readDataOlderThan), age >= .zero else {
          throw ValidationError("'\(readDataOlderThan)' is not a duration, such as 7d")
        }
        selection.unverifiedSince = now - age
        if readDataSubset == nil { selection.part = .all }
      }
      return selection
    }

    func validate() throws {
      if readData, readDataSubset != nil || readDataOlderThan != nil {
        throw ValidationError("--read-data reads everything: leave out --read-data-subset and --read-data-older-than")
      }
      _ = try selection(now: Timestamp(seconds: 0))
    }

    private static func check(
      _ repository: Repository, _ selection: ReadSelection, _ host: Machine, _ line: ProgressLine
    ) async throws -> (report: CheckReport, record: VerificationRecord) {
      let record = await VerificationRecord(of: repository, host)
      do {
        let report = try await repository.check(reading: selection, log: await record.log) { progress in
          line.show(
            "check \(progress.phase)",
            progress.total > 0 ? "\(progress.done) of \(progress.total)" : "\(progress.done)")
        } verified: { pack, isSound in
          await record.note(pack, isSound: isSound)
        }
        await record.finish(Set(report.wholePacks.map(\.id)))
        return (report, record)
      } catch {
        // What was read before the interruption counts.
        await record.save()
        throw error
      }
    }

    private static func check(
      _ mirror: any ObjectStore, of repository: Repository, _ selection: ReadSelection, _ host: Machine,
      _ line: ProgressLine
    ) async -> MirrorCheck {
      do {
        let missing = try await MirrorSync(from: repository.store, to: mirror).compare().missing.count
        let copy = repository.copy(at: mirror)
        let report = try await copy.withLock(loadingIndex: false) {
          try await check(copy, selection, host, line).report
        }
        return MirrorCheck(
          location: mirror.location, sound: report.isSound, findings: report.findings.map { Finding($0) },
          missing: missing)
      } catch {
        return MirrorCheck(
          location: mirror.location, sound: false, findings: [], failure: AnyFailure(error).report.summary)
      }
    }

    func run() async throws {
      var machine = options.host
      if let stateDirectory { machine.stateDirectory = absolute(stateDirectory) }
      let (host, line) = (machine, options.progress)
      let selection = try selection(now: host.time.now())
      let mirrors = try options.mirrorStores()
      let parityPlace = try await options.parityPlace()
      let (report, record, copies, parity) = try await options.locked(
        exclusive: true, loadingIndex: false, isAlone: true, startsEarly: true
      ) {
        repository in
        let (report, record) = try await Self.check(repository, selection, host, line)
        var copies: [MirrorCheck] = []
        for mirror in mirrors { copies.append(await Self.check(mirror, of: repository, selection, host, line)) }
        var parity: ParityStore.CheckReport?
        if let place = try await ParityStore.open(parityPlace) {
          parity = try await place.check(repository.store, readsData: selection == .all) {
            line.show("check parity", "\($0) of \($1)")
          }
        }
        return (report, record, copies, parity)
      }
      line.clear()
      if let trouble = await record.trouble { standardError("warning: \(trouble.description.harmless)\n") }
      let verification = Verification(
        VerificationSummary(packs: report.wholePacks, log: await record.log, since: selection.unverifiedSince),
        since: selection.unverifiedSince)
      let result = Result(
        sound: report.isSound, findings: report.findings.map { Finding($0) }, snapshots: report.snapshots,
        indexes: report.indexes, packs: report.packs, blobs: report.blobs, trees: report.trees,
        readData: report.readData, readPacks: report.readPacks, readBytes: report.readBytes,
        verification: verification, mirrors: copies.isEmpty ? nil : copies, parity: parity?.json)
      try options.show(result) { style in
        var lines = result.findings.flatMap { $0.lines(style) }
        lines.append(
          "\(result.snapshots) snapshots, \(result.indexes) indexes, \(result.packs) packs, \(result.blobs) blobs, "
            + "\(result.trees) trees; "
            + (selection == .none
              ? "content was not read"
              : "\(result.readPacks.of("pack")) with \(formatBytes(Int64(result.readBytes))) read whole"))
        lines.append(verification.line)
        lines.append(report.isSound ? style.paint("no errors were found", .good) : style.paint("damaged", .bad))
        for copy in copies { lines += copy.lines(style) }
        if let parity { lines += parity.lines(style) }
        return lines
      }
      if report.isSound, let copy = copies.first(where: { !$0.sound }) {
        throw CommandFailure(
          .validationFailed,
          Report("VAULT-195", "the mirror \(copy.location) is damaged, or can't be looked at")
            .state("the repository itself is whole; nothing was changed")
            .remedy(
              "run `salvor vault repair packs --repo \(copy.location) --from-mirror` with the repository's location"))
      }
      if !report.isSound {
        let damage = report.damage
        throw CommandFailure(
          .validationFailed,
          Report("VAULT-140", "the repository is damaged: \(damage.count) finding\(damage.count == 1 ? "" : "s")")
            .state("nothing was changed; first of them: \(damage[0].report.code): \(damage[0].report.summary)")
            .remedy(damage[0].report.remedy ?? "bring the named files back from a second copy of the repository"))
      }
    }
  }

  struct Unlock: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "unlock", abstract: "Remove locks that nobody holds any more.",
      discussion: """
        A lock is stale if it is older than 30 minutes or its process, on this host, is gone.

        EXAMPLES
          salvor vault unlock
          salvor vault unlock --remove-all      only when nobody else works on it
        """)

    @Flag(help: "Remove every lock, held or not.") var removeAll = false
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let repository = try await options.open()
      let count = try await repository.unlock(all: removeAll)
      let result: JSONValue = ["removed": .integer(Int64(count))]
      try options.show(result) { _ in ["removed \(count) lock\(count == 1 ? "" : "s")"] }
    }
  }

  struct Stats: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "stats", abstract: "How large snapshots are, restored or stored.",
      discussion: """
        restore-size adds up what restoring each snapshot would write; raw-data is what all blobs of the repository take.

        EXAMPLES
          salvor vault stats
          salvor vault stats latest --host db1
          salvor vault stats --mode raw-data
        """)

    enum Mode: String, CaseIterable, ExpressibleByArgument {
      case restoreSize = "restore-size"
      case rawData = "raw-data"
    }

    @Argument(help: "Only these snapshots.") var ids: [String] = []
    @Option(help: "restore-size or raw-data.") var mode: Mode = .restoreSize
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let (ids, filter, mode) = (ids, filter, mode)
      let result: [String: JSONValue] = try await options.locked { repository in
        if mode == .rawData {
          let (count, bytes) = repository.storedBlobs()
          return ["total_blob_count": .integer(Int64(count)), "total_size": .integer(Int64(bytes))]
        }
        var snapshots: [StoredSnapshot] = []
        if ids.isEmpty {
          snapshots = try await repository.readableSnapshots().filter { filter.matches($0.snapshot) }
        } else {
          for id in ids { snapshots.append(try await filter.find(id, in: repository)) }
        }
        var (files, bytes): (Int64, Int64) = (0, 0)
        for stored in snapshots {
          let totals = try await SnapshotTree(reader: repository, root: stored.snapshot.tree)
            .restore(to: "", RestoreOptions(isDryRun: true)).totals
          files += totals.files + totals.directories + totals.others
          bytes += totals.bytes
        }
        return [
          "total_file_count": .integer(files), "total_size": .integer(bytes),
          "snapshots_count": .integer(Int64(snapshots.count)),
        ]
      }
      try options.show(JSONValue.object(result)) { _ in
        var lines: [String] = []
        if let count = result["snapshots_count"]?.integer { lines.append("Snapshots processed:  \(count)") }
        if let count = result["total_file_count"]?.integer { lines.append("Total File Count:     \(count)") }
        if let count = result["total_blob_count"]?.integer { lines.append("Total Blob Count:     \(count)") }
        return lines + ["Total Size:           \(formatBytes(result["total_size"]?.integer ?? 0))"]
      }
    }
  }
}

extension VaultCommand.Check.Finding {
  func lines(_ style: Style) -> [String] {
    let label = style.paint(kind, kind == "damage" ? .bad : .warning)
    let place = snapshot.map { " (snapshot \($0.prefix(8)))" } ?? ""
    return ["\(label) \(code): \(summary.harmless)\(place)"] + (remedy.map { ["  next:  \($0.harmless)"] } ?? [])
  }
}

extension VaultCommand.Check.MirrorCheck {
  func lines(_ style: Style) -> [String] {
    var lines = ["mirror \(location.harmless)"] + findings.flatMap { $0.lines(style) }
    if let failure { lines.append("\(style.paint("damage", .bad)) it can't be looked at: \(failure.harmless)") }
    if let missing, missing > 0 {
      lines.append("\(style.paint("note", .warning)) it is behind by \(missing.of("file"))")
    }
    return lines + [sound ? style.paint("no errors were found", .good) : style.paint("damaged", .bad)]
  }
}
