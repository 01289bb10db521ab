import Core
import IO

/// A tree that is opened when it is first read.
///
/// Putting a restored state in place, and taking it back, moves directories and reads nothing: it must work while the
/// repository is out of reach.
struct LazySource: TreeSource {
  let open: @Sendable () async throws(AnyFailure) -> any TreeSource

  func entries(below root: TreePath) async throws(AnyFailure) -> [TreeEntry] {
    try await open().entries(below: root)
  }

  func contents(of path: TreePath, limitBytes: Int) async throws(AnyFailure) -> [UInt8] {
    try await open().contents(of: path, limitBytes: limitBytes)
  }

  func contents(of path: TreePath, range: Range<Int64>) async throws(AnyFailure) -> [UInt8] {
    try await open().contents(of: path, range: range)
  }

  func materialise(
    _ root: TreePath, at directory: String, first: [String],
    progress: @escaping @Sendable (_ doneBytes: Int64) -> Void
  ) async throws(AnyFailure) {
    try await open().materialise(root, at: directory, first: first, progress: progress)
  }
}
