import Core
import IO

/// Why a tree of files could not be stored or brought back.
package enum TreeError: Failure {
  /// A tree blob isn't what restic or Salvor writes.
  case malformed(why: String, offset: Int)
  case unsupportedKind(String, name: String)
  /// A node leads back to a tree above itself, or the tree is deeper than ``TreeLimits/depth``.
  case tooDeep(TreePath)
  /// The same trees are used over and over in one another: nothing a backup writes.
  case tooManyEntries(limit: Int)
  case noSuchEntry(TreePath)
  case notRegular(TreePath)
  case notDirectory(TreePath)
  case tooLarge(TreePath, bytes: Int64, limitBytes: Int)
  /// The length of a blob is unknown: no index lists it.
  case blobMissing(BlobID, TreePath)
  case badPath(TreePath, why: String)
  case duplicate(TreePath)
  /// Entries failed while the tree was being taken; it can't be finished as complete.
  case incomplete([String])
  case targetNotEmpty(String)
  /// Everything else is in place; these entries, or parts of their metadata, are not.
  case partlyRestored([String])
  case vault(VaultError)
  case system(SystemFailure)
  /// What the content's source threw.
  case source(AnyFailure)
  case cancelled

  /// Wraps whatever was thrown below.
  package init(_ error: any Error) {
    switch error {
    case let error as TreeError: self = error
    case let error as VaultError: self = error == .cancelled ? .cancelled : .vault(error)
    case let error as SystemFailure: self = .system(error)
    case is CancellationError: self = .cancelled
    default: self = .source(AnyFailure(error))
    }
  }

  package var report: Report {
    switch self {
    case .malformed(let why, let offset):
      Report("TREE-101", "a tree is malformed at byte \(offset): \(why)", retry: .never)
        .remedy("run `salvor vault check`; choose another snapshot")
    case .unsupportedKind(let kind, let name):
      Report("TREE-102", "'\(name)' is of the unknown kind '\(kind)'", retry: .never)
        .remedy("bring this snapshot back with the program that wrote it")
    case .tooDeep(let path):
      Report("TREE-103", "the tree is deeper than \(TreeLimits.depth) directories at \(shortened(path))", retry: .never)
    case .tooManyEntries(let limit):
      Report("TREE-104", "the snapshot unfolds to more than \(limit) entries", retry: .never)
        .remedy("it is forged or damaged: choose another snapshot")
    case .noSuchEntry(let path):
      Report("TREE-201", "the snapshot has no '\(path)'").remedy("list it with `salvor vault ls`")
    case .notRegular(let path):
      Report("TREE-202", "'\(path)' is not a regular file").remedy("list it with `salvor vault ls -l`")
    case .notDirectory(let path): Report("TREE-203", "'\(path)' is not a directory")
    case .tooLarge(let path, let bytes, let limit):
      Report("TREE-204", "'\(path)' has \(bytes) bytes, more than the \(limit) allowed here")
    case .blobMissing(let id, let path):
      Report("TREE-205", "blob \(id.short) of '\(path)' is in no index", retry: .never)
        .remedy("run `salvor vault check`; choose another snapshot")
    case .badPath(let path, let why): Report("TREE-206", "'\(shortened(path))' can't be part of a tree: \(why)")
    case .duplicate(let path): Report("TREE-207", "'\(path)' was added twice")
    case .incomplete(let failures):
      Report("TREE-301", "\(failures.count) entries could not be taken: \(listed(failures))", retry: .afterBackoff)
        .state("no snapshot was written")
    case .targetNotEmpty(let path):
      Report("TREE-302", "the target \(path) is not empty").state("nothing was written")
        .remedy("choose an empty or absent directory")
    case .partlyRestored(let failures):
      Report("TREE-303", "\(failures.count) entries are not as in the snapshot: \(listed(failures))")
        .state("everything else is in place").remedy("mend the cause, then restore into an empty directory again")
    case .vault(let error): error.report
    case .system(let error): error.report
    case .source(let error): error.report
    case .cancelled: Report("CORE-001", "cancelled", retry: .afterBackoff)
    }
  }
}

/// Bounds on what is taken from a repository that may be hostile.
package enum TreeLimits {
  /// Directories in one another. Linux itself has no limit; a loop of trees has no end.
  package static let depth = 4096

  /// How many entries so many stored nodes may unfold to. Shared trees are rare and small in what backups write;
  /// without a bound, a few kilobytes could ask for every byte of memory.
  static func entries(fromNodes count: Int) -> Int { 1_000_000 + 64 * min(count, .max / 128) }

  /// Nesting of JSON in a tree blob, unknown fields included.
  static let jsonDepth = 32
}

private func listed(_ failures: [String]) -> String {
  failures.prefix(5).joined(separator: "; ") + (failures.count > 5 ? "; …" : "")
}

private func shortened(_ path: TreePath) -> String {
  path.components.count <= 12 ? "\(path)" : "…/\(TreePath(path.components.suffix(4)))"
}
