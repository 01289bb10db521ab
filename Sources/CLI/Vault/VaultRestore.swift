import ArgumentParser
import Console
import Core
import Foundation
import IO
import Vault

extension VaultCommand {
  struct Restore: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "restore", abstract: "Bring a snapshot's files back into a directory.",
      discussion: """
        The target must be empty or absent, unless --merge says that it may have other entries; a file that is there is \
        never written over then. With --delta it is: what is there is read and compared part by part, what differs is \
        written, sizes and metadata become the snapshot's, and what the snapshot doesn't have stays. A restore that was \
        interrupted is taken up by the same command with --delta. Stop what uses the files first.

        Until a restore is whole, the target holds a file named \(RestoreMarker.name).

        EXAMPLES
          salvor vault restore latest --target /tmp/out
          salvor vault restore latest --host db1 -t /tmp/out -i /etc --verify
          salvor vault restore 40dc1520 -t /tmp/out --exclude '*.log' --dry-run
          salvor vault restore latest -t /srv/app --delta --first /etc --first '*.conf'
        """)

    @Argument(help: "The first digits of an id, or latest.") var snapshot: String
    @Option(name: .shortAndLong, help: "Directory to restore into.", completion: .directory) var target: String
    @Option(name: .shortAndLong, help: ArgumentHelp("Only what matches; may be repeated.", valueName: "pattern"))
    var include: [String] = []
    @Option(name: .shortAndLong, help: ArgumentHelp("Leave out what matches; may be repeated.", valueName: "pattern"))
    var exclude: [String] = []
    @Flag(help: "Enter directories that are there already; existing files are left alone and reported.")
    var merge = false
    @Flag(help: "Restore in place: keep what is as in the snapshot, write what differs.") var delta = false
    @Option(
      help: ArgumentHelp(
        "Restore in place; of existing files, touch always all, if-changed those whose size or time differs, if-newer "
          + "those older than in the snapshot, never any.", valueName: "when"))
    var overwrite: RestoreOptions.Existing?
    @Option(help: ArgumentHelp("Files to finish before others are begun; may be repeated.", valueName: "pattern"))
    var first: [String] = []
    @Flag(name: [.customShort("n"), .long], help: "Write nothing; show what would be restored.") var dryRun = false
    @Flag(help: "Read everything back from the target and compare it with the snapshot.") var verify = false
    @OptionGroup var filter: SnapshotFilter
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      if merge, delta || overwrite != nil { throw ValidationError("--merge leaves files alone that --delta writes") }
      if delta, overwrite != nil, overwrite != .always {
        throw ValidationError("--delta is --overwrite always: give one of them")
      }
    }

    func run() async throws {
      let machine = options.host
      let (name, filter) = (snapshot, filter)
      let request = RestoreRequest(
        target: cleanPath(target), include: include.map { ExcludePattern($0) },
        exclude: exclude.map { ExcludePattern($0) }, first: first.map { ExcludePattern($0) }, merges: merge,
        existing: overwrite ?? (delta ? .always : nil), isDryRun: dryRun, verifies: verify, pool: machine.pool)
      let line = options.progress
      let (result, elapsed) = try await machine.time.measure {
        try await options.locked(startsEarly: true) { repository in
          let stored = try await filter.find(name, in: repository)
          let outcome = try await request.carryOut(stored, in: repository) { phase, done, total in
            line.show(phase, "\(formatBytes(done)) of \(formatBytes(total))")
          }
          return (stored, outcome)
        }
      }
      line.clear()
      let (stored, outcome) = result
      for problem in outcome.problems { standardError("error: \(problem.harmless)\n") }
      let totals = outcome.totals
      var summary: [String: JSONValue] = [
        "message_type": "summary", "snapshot_id": .string(stored.id.hex), "target": .string(request.target),
        "total_files": .integer(totals.files), "total_dirs": .integer(totals.directories),
        "total_bytes": .integer(totals.bytes), "total_duration": .number(elapsed / .seconds(1)),
        "errors": .integer(Int64(outcome.problems.count)),
      ]
      if dryRun { summary["dry_run"] = true }
      if request.existing != nil {
        summary["bytes_kept"] = .integer(outcome.keptBytes)
        summary["bytes_written"] = .integer(outcome.writtenBytes)
        summary["files_left"] = .integer(outcome.leftFiles)
      }
      if verify, !dryRun { summary["verified"] = .bool(outcome.problems.isEmpty) }
      try options.show(JSONValue.object(summary)) { _ in
        [
          "\(dryRun ? "would restore" : "restored") snapshot \(stored.shortID) of "
            + "\(stored.snapshot.time.format(fractionDigits: 0)) to \(request.target.harmless)",
          "\(totals.files) files, \(totals.directories) directories, \(formatBytes(totals.bytes)) in \(elapsed.brief)",
        ] + request.kept(outcome)
          + (verify && !dryRun && outcome.problems.isEmpty ? ["verified: every file is as in the snapshot"] : [])
      }
      if !outcome.failures.isEmpty { throw CommandFailure(.failed, request.incomplete(outcome.failures)) }
      if !outcome.differences.isEmpty {
        throw CommandFailure(.validationFailed, request.different(outcome.differences))
      }
    }
  }
}

/// One restore of a snapshot, as the command line asked for it.
struct RestoreRequest: Sendable {
  /// Absolute.
  var target: String
  var include: [ExcludePattern]
  var exclude: [ExcludePattern]
  /// Whole before others are begun.
  var first: [ExcludePattern]
  var merges: Bool
  /// `nil` unless it is in place.
  var existing: RestoreOptions.Existing?
  var isDryRun: Bool
  var verifies: Bool
  var pool: BlockingPool

  struct Outcome: Sendable {
    var totals: TreeTotals
    var keptBytes: Int64 = 0
    var writtenBytes: Int64 = 0
    var leftFiles: Int64 = 0
    /// Entries that could not be made.
    var failures: [String] = []
    /// Entries that are not as in the snapshot, once made.
    var differences: [String] = []

    var problems: [String] { failures + differences }

    init(_ report: RestoreReport) {
      (totals, failures, leftFiles) = (report.totals, report.failures, report.leftFiles)
      (keptBytes, writtenBytes) = (report.keptBytes, report.writtenBytes)
    }
  }

  /// What an in-place restore found and did, for people.
  func kept(_ outcome: Outcome) -> [String] {
    guard existing != nil else { return [] }
    let left = outcome.leftFiles > 0 ? ", left \(outcome.leftFiles) files as they were" : ""
    return [
      "kept \(formatBytes(outcome.keptBytes)), \(isDryRun ? "would write" : "wrote") \(formatBytes(outcome.writtenBytes))"
        + left
    ]
  }

  func carryOut(
    _ stored: StoredSnapshot, in repository: Repository,
    progress: @escaping @Sendable (_ phase: String, _ done: Int64, _ total: Int64) -> Void
  ) async throws -> Outcome {
    let tree = SnapshotTree(reader: repository, root: stored.snapshot.tree, pool: pool)
    var wanted = RestoreOptions(include: try await includedPaths(of: tree, stored), exclude: exclude, isDryRun: true)
    if isDryRun, let existing { wanted.overwrite = .inPlace(existing) }
    let report = try await tree.restore(to: target, wanted)
    let planned = report.totals
    if isDryRun { return Outcome(report) }

    let marker = RestoreMarker(target: target)
    try await pool.run { () throws in try marker.place(merges: merges || existing != nil, snapshot: stored) }
    do {
      wanted.isDryRun = false
      wanted.first = first
      // The marker is in the target, which was seen empty before it was put there.
      wanted.overwrite = existing.map { .inPlace($0) } ?? .besides
      wanted.progress = { progress("restore", $0, planned.bytes) }
      let report = try await tree.restore(to: target, wanted)
      var outcome = Outcome(report)
      if verifies, report.failures.isEmpty {
        let comparison = RestoreComparison(
          tree: tree, target: target, selection: RestoreSelection(include: wanted.include, exclude: exclude), pool: pool
        )
        outcome.differences = try await comparison.differences { progress("verify", $0, planned.bytes) }
      }
      if outcome.problems.isEmpty { try await pool.run { () throws in try marker.remove() } }
      return outcome
    } catch {
      let failure = CommandFailure(error)
      throw CommandFailure(failure.status, failure.report.state(marker.state))
    }
  }

  /// The topmost entries that a pattern names; what is below them comes along.
  private func includedPaths(of tree: SnapshotTree, _ stored: StoredSnapshot) async throws -> [TreePath] {
    if include.isEmpty { return [] }
    var result: [TreePath] = []
    for (path, _) in try await tree.allNodes() {
      // Depth first: what is below the last match follows it at once.
      if let last = result.last, path.components.starts(with: last.components) { continue }
      if include.contains(where: { $0.matches(path) }) { result.append(path) }
    }
    guard !result.isEmpty else {
      throw CommandFailure(
        .failed,
        Report("VAULT-152", "nothing in snapshot \(stored.shortID) matches --include").state("nothing was written")
          .remedy("list what there is with `salvor vault ls \(stored.shortID)`"))
    }
    return result
  }

  func incomplete(_ failures: [String]) -> Report {
    TreeError.partlyRestored(failures).report.state(RestoreMarker(target: target).state)
  }

  func different(_ differences: [String]) -> Report {
    Report("VAULT-153", "\(differences.count) entries in the target are not as in the snapshot")
      .state(RestoreMarker(target: target).state)
      .remedy("check the target's disk, and that nothing else writes there; then restore into an empty directory")
  }
}

/// A file in the target that says the restore is not whole; gone only when it is. It outlives a kill.
struct RestoreMarker: Sendable {
  static let name = "SALVOR-RESTORE-INCOMPLETE"

  let target: String
  private var path: String { "\(target)/\(Self.name)" }

  var state: String { "\(target) holds an incomplete result, as \(Self.name) in it says" }

  func place(merges: Bool, snapshot: StoredSnapshot) throws {
    try Files.createDirectory(target)
    if try !merges && !Files.names(in: target).isEmpty { throw TreeError.targetNotEmpty(target) }
    let text = """
      A restore of snapshot \(snapshot.id.hex) into this directory has not ended well.
      Do not use what is here: run the same restore again with --delta, which takes up what is whole.

      """
    try Files.replace(path, with: Array(text.utf8), mode: 0o644)
  }

  func remove() throws {
    try Files.removeTree(path)
    try Files.synchronizeDirectory(target)
  }
}

extension RestoreOptions.Existing: ExpressibleByArgument {}
