import ArgumentParser
import Console
import Core
import Foundation
import IO
import Synchronization
import Vault

extension VaultCommand {
  struct Backup: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "backup", abstract: "Take files and directories into a new snapshot.",
      discussion: """
        What has not changed since the newest snapshot of the same host and paths is not read again. Exit status 3 if \
        something could not be read: the snapshot has everything else.

        EXAMPLES
          salvor vault backup /etc /home
          salvor vault backup ~ --exclude '*.o' --exclude-file ~/.excludes
          salvor vault backup /srv -x --dry-run
        """)

    @Argument(help: "Files and directories.", completion: .file()) var paths: [String]
    @Option(help: ArgumentHelp("Tags for the snapshot; may be repeated.", valueName: "tag[,tag…]")) var tag: [String] =
      []
    @Option(name: .shortAndLong, help: ArgumentHelp("Leave out what matches; may be repeated.", valueName: "pattern"))
    var exclude: [String] = []
    @Option(
      help: ArgumentHelp("Leave out what a line of this file matches; may be repeated.", valueName: "file"),
      completion: .file())
    var excludeFile: [String] = []
    @Option(name: [.customShort("H"), .long], help: "The host's name for the snapshot (default: this one's).")
    var host: String?
    @Option(help: ArgumentHelp("Compare with this snapshot instead of the newest that fits.", valueName: "snapshot"))
    var parent: String?
    @Flag(name: .shortAndLong, help: "Read everything, as if there were no earlier snapshot.") var force = false
    @Flag(name: [.customShort("x"), .long], help: "Stay on the file systems of the paths.") var oneFileSystem = false
    @Flag(name: [.customShort("n"), .long], help: "Store nothing; show what would be added.") var dryRun = false
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      if paths.isEmpty { throw ValidationError("nothing to back up is named") }
    }

    func run() async throws {
      let machine = options.host
      let request = BackupRequest(
        targets: paths.map(cleanPath), excludes: try await ExcludeFiles.patterns(exclude, excludeFile, machine),
        tags: tag.flatMap(Self.split),
        hostname: host ?? machine.environment["RESTIC_HOST"] ?? machine.name, parent: parent, isForced: force,
        staysOnFileSystem: oneFileSystem, isDryRun: dryRun, settings: machine.vaultSettings)
      let line = options.progress
      let survey = try request.survey
      let listing = machine.time.monotonicNanoseconds()
      let (outcome, elapsed) = try await machine.time.measure {
        try await Self.during(survey) {
          // A dry run only reads.
          try await options.locked(
            needsLock: !request.isDryRun, catchesUp: !request.isDryRun, startsEarly: true
          ) { repository in
            // After a wait, for the lock or for a password, what was listed isn't true any more.
            let isOld = machine.time.monotonicNanoseconds() - listing > Self.headStart
            if isOld { survey.stop() }
            return try await request.carryOut(isOld ? try request.survey : survey, in: repository) { progress in
              line.show("backup", "\(progress.files) files, \(formatBytes(progress.bytes))")
            }
          }
        }
      }
      line.clear()
      for problem in outcome.report.problems { standardError("error: \(problem.harmless)\n") }
      for note in outcome.report.notes { standardError("note: \(note.harmless)\n") }
      try show(outcome, elapsed)
      if outcome.report.isPartial { throw CommandFailure(.incomplete, BackupRequest.partial(outcome)) }
    }

    private static let headStart: Int64 = 3_000_000_000

    /// Directories are listed while the repository's key is derived.
    private static func during<T: Sendable>(_ survey: Survey, _ body: @escaping @Sendable () async throws -> T)
      async throws -> T
    {
      try await withThrowingTaskGroup(of: T?.self) { group in
        group.addTask {
          await survey.run()
          return nil
        }
        group.addTask { try await body() }
        defer { group.cancelAll() }
        while let result = try await group.next() { if let result { return result } }
        throw CancellationError()
      }
    }

    private static func split(_ list: String) -> [String] { list.split(separator: ",").map(String.init) }

    private func show(_ outcome: BackupRequest.Outcome, _ elapsed: Duration) throws {
      let (totals, report) = (outcome.tree.totals, outcome.report)
      let newFiles = max(0, totals.files - report.unchangedFiles - report.changedFiles)
      let added = totals.addedBytes + totals.addedTreeBytes
      var summary: [String: JSONValue] = [
        "message_type": "summary", "files_new": .integer(newFiles), "files_changed": .integer(report.changedFiles),
        "files_unmodified": .integer(report.unchangedFiles), "total_dirs_processed": .integer(totals.directories),
        "data_added": .integer(added), "total_files_processed": .integer(totals.files),
        "total_bytes_processed": .integer(totals.bytes), "total_duration": .number(elapsed / .seconds(1)),
        "errors": .integer(Int64(report.problems.count)),
      ]
      if dryRun { summary["dry_run"] = true }
      if let id = outcome.snapshot { summary["snapshot_id"] = .string(id.hex) }
      if let parent = outcome.parent { summary["parent"] = .string(parent.hex) }
      try options.show(JSONValue.object(summary)) { _ in
        [
          outcome.parent.map { "using parent snapshot \($0.short)" } ?? "no parent snapshot: everything was read",
          "",
          "Files:  \(newFiles) new, \(report.changedFiles) changed, \(report.unchangedFiles) unmodified",
          "Dirs:   \(totals.directories)",
          "\(dryRun ? "Would add" : "Added") to the repository: \(formatBytes(added))",
          "",
          "processed \(totals.files) files, \(formatBytes(totals.bytes)) in \(elapsed.brief)",
        ] + (outcome.snapshot.map { ["snapshot \($0.hex.prefix(8)) saved"] } ?? ["nothing was saved"])
      }
    }
  }
}

/// One backup of directories, as the command line asked for it.
struct BackupRequest: Sendable {
  var targets: [String]
  var excludes: [String]
  var tags: [String]
  var hostname: String
  var parent: String?
  var isForced: Bool
  var staysOnFileSystem: Bool
  var isDryRun: Bool
  var settings: VaultSettings

  struct Outcome: Sendable {
    var tree: BuiltTree
    var report: ArchiveReport
    var parent: Digest?
    /// `nil` for a dry run.
    var snapshot: Digest?
  }

  var survey: Survey {
    get throws(TreeError) {
      try Survey(
        targets, excludes: excludes.map { ExcludePattern($0) }, staysOnFileSystem: staysOnFileSystem,
        pool: settings.pool)
    }
  }

  func carryOut(
    _ survey: Survey, in repository: Repository, progress: @escaping @Sendable (ArchiveProgress) -> Void
  ) async throws -> Outcome {
    let parent = try await findParent(in: repository)
    let writer: any BlobWriter = isDryRun ? CountingWriter(repository) : repository
    let builder = SnapshotBuilder(
      writer: writer, polynomial: repository.config.chunkerPolynomial, pool: settings.pool)
    let began = settings.time.now()
    let report = try await builder.archive(
      survey,
      ArchiveOptions(
        parent: parent.map { SnapshotTree(reader: repository, root: $0.snapshot.tree, pool: settings.pool) },
        progress: progress))
    var outcome = Outcome(tree: try await builder.finish(), report: report, parent: parent?.id)
    if !isDryRun {
      let owner = settings.owner
      outcome.snapshot = try await repository.save(
        Snapshot(
          time: began, tree: outcome.tree.root, paths: Set(targets).sorted(), hostname: hostname,
          username: owner.username, userID: Int(owner.userID), groupID: Int(owner.groupID), parent: parent?.id,
          excludes: excludes, tags: tags))
    }
    return outcome
  }

  /// The named one, or the newest of this host that has every path, as restic chooses.
  private func findParent(in repository: Repository) async throws -> StoredSnapshot? {
    if isForced { return nil }
    if let parent { return try await repository.findSnapshot(parent) }
    let now = settings.time.now()
    return try await repository.readableSnapshots().last { stored in
      stored.snapshot.hostname == hostname && stored.snapshot.time <= now
        && Set(targets).isSubset(of: stored.snapshot.paths)
    }
  }

  static func partial(_ outcome: Outcome) -> Report {
    let count = outcome.report.problems.count
    let state = outcome.snapshot.map { "everything else is in snapshot \($0.hex.prefix(8))" } ?? "nothing was saved"
    return Report("VAULT-151", "\(count) \(count == 1 ? "entry" : "entries") could not be read").state(state)
      .remedy("mend what the lines above name, or exclude it; then run the backup again")
  }
}

/// Counts what would be added, and keeps nothing.
private final class CountingWriter: BlobWriter {
  private let repository: Repository
  private let seen = Mutex<Set<BlobID>>([])

  init(_ repository: Repository) { self.repository = repository }

  func save(_ kind: BlobKind, _ bytes: [UInt8]) async throws(VaultError) -> (id: BlobID, added: Int) {
    let id = await BlockingPool.shared.run { bytes.withUnsafeBytes { Digest.of($0) } }
    let isNew = seen.withLock { $0.insert(id).inserted } && !repository.contains(kind, id)
    return (id, isNew ? bytes.count : 0)
  }
}
