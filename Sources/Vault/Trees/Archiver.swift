import Core
import IO

/// How directories of this machine are taken.
package struct ArchiveOptions: Sendable {
  /// The tree of an earlier snapshot of the same paths: what has not changed since is not read again.
  package var parent: SnapshotTree?
  /// Directories, batches of small files and large files handled side by side.
  package var workers: Int
  package var progress: @Sendable (ArchiveProgress) -> Void

  package init(
    parent: SnapshotTree? = nil, workers: Int = 3,
    progress: @escaping @Sendable (ArchiveProgress) -> Void = { _ in }
  ) {
    self.parent = parent
    self.workers = workers
    self.progress = progress
  }
}

package struct ArchiveProgress: Sendable, Equatable {
  package var files: Int64 = 0
  /// Bytes read, or found unchanged.
  package var bytes: Int64 = 0
}

/// What an archive run found.
package struct ArchiveReport: Sendable, Equatable {
  /// Files as in the parent, not read.
  package var unchangedFiles: Int64 = 0
  /// Files that the parent has too, and that were read again.
  package var changedFiles: Int64 = 0
  /// Entries that could not be read and are missing. Not empty: the snapshot is partial (exit status 3).
  package var problems: [String] = []
  /// Files that changed while they were read, and other things worth telling.
  package var notes: [String] = []

  package var isPartial: Bool { !problems.isEmpty }
}

extension SnapshotBuilder {
  /// Takes files and directories of this machine, laid out as restic does: the tree holds the whole path of every
  /// target.
  ///
  /// What can't be read is left out and reported, never skipped in silence. Every directory's tree is saved once it is
  /// complete, some of them together, so memory grows with the depth and not with the number of files.
  ///
  /// - Parameter survey: Lists them; run here, unless it runs already.
  /// - Throws: If the vault fails, or none of the targets can be read.
  package func archive(
    _ survey: Survey, _ options: ArchiveOptions = ArchiveOptions()
  ) async throws(TreeError) -> ArchiveReport {
    let run = ArchiveRun(self, survey, options, store.pool)
    do {
      try await run.begin()
      try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { await survey.run() }
        for _ in 0..<max(1, options.workers) { group.addTask { try await run.work() } }
        try await group.waitForAll()
      }
      try await run.saveTrees()
    } catch { throw TreeError(error) }
    try run.checkEntered()
    return run.report
  }
}
