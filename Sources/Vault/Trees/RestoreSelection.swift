import IO

/// Which entries of a tree are wanted.
package struct RestoreSelection: Sendable {
  private let include: Set<TreePath>
  /// Directories on the way to what is included.
  private let above: Set<TreePath>
  private let exclude: [ExcludePattern]

  /// - Parameters:
  ///   - include: These entries, and what is below them, with the directories on the way; empty for everything.
  ///   - exclude: Wins over `include`; what lies in an excluded directory must not be asked for.
  package init(include: [TreePath], exclude: [ExcludePattern]) {
    self.include = Set(include)
    self.exclude = exclude
    var above: Set<TreePath> = []
    for path in include {
      for count in 0..<path.components.count { above.insert(TreePath(Array(path.components.prefix(count)))) }
    }
    self.above = above
  }

  var isEverything: Bool { include.isEmpty && exclude.isEmpty }

  /// O(depth), however many paths are included.
  package func isWanted(_ path: TreePath, isDirectory: Bool) -> Bool {
    if exclude.contains(where: { $0.matches(path) }) { return false }
    if include.isEmpty || isDirectory && above.contains(path) { return true }
    return (0...path.components.count).contains { include.contains(TreePath(Array(path.components.prefix($0)))) }
  }
}
