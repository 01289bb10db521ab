import Core
import IO

/// How directories of this machine are taken.
package struct ArchiveOptions: Sendable {
  package var excludes: [ExcludePattern]
  /// The tree of an earlier snapshot of the same paths: what has not changed since is not read again.
  package var parent: SnapshotTree?
  /// Directories on other file systems than their target's are taken as empty.
  package var staysOnFileSystem: Bool
  /// Directories, batches of small files and large files handled side by side.
  package var workers: Int
  package var progress: @Sendable (ArchiveProgress) -> Void

  package init(
    excludes: [ExcludePattern] = [], parent: SnapshotTree? = nil, staysOnFileSystem: Bool = false, workers: Int = 3,
    progress: @escaping @Sendable (ArchiveProgress) -> Void = { _ in }
  ) {
    self.excludes = excludes
    self.parent = parent
    self.staysOnFileSystem = staysOnFileSystem
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
  /// What can't be read is left out and reported, never skipped in silence. Every directory's tree is saved as soon as
  /// it is complete, so memory grows with the depth and not with the number of files.
  ///
  /// - Parameter paths: Absolute; what lies in another of them is taken once.
  /// - Throws: If the vault fails, or none of `paths` can be read.
  package func archive(
    _ paths: [String], _ options: ArchiveOptions = ArchiveOptions()
  ) async throws(TreeError) -> ArchiveReport {
    var targets: [TreePath] = []
    for text in paths {
      let path = TreePath(text)
      guard text.hasPrefix("/"), !path.components.contains(where: { FileName(untrusted: $0.bytes) == nil }) else {
        throw .badPath(path, why: "a target is an absolute path without '.' and '..'")
      }
      targets.append(path)
    }
    targets = Set(targets).sorted()
    var kept: [TreePath] = []
    for target in targets where !kept.contains(where: { target.components.starts(with: $0.components) }) {
      kept.append(target)
    }
    let run = ArchiveRun(self, options, store.pool)
    do {
      try await run.begin(kept)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<max(1, options.workers) { group.addTask { try await run.work() } }
        try await group.waitForAll()
      }
    } catch { throw TreeError(error) }
    try run.checkEntered()
    return run.report
  }
}
