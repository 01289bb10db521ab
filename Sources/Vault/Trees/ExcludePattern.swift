import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Something that glob patterns name; the rules are restic's.
///
/// A pattern that begins with `/` must match from the root; any other may match at any depth. `*`, `?` and `[…]` stay
/// within one component, `**` stands for any number of them. What lies in an excluded directory is excluded.
package struct ExcludePattern: Sendable, Hashable {
  private let components: [String]
  private let isAnchored: Bool
  private let flags: Int32

  package init(_ text: String, ignoresCase: Bool = false) {
    // FNM_CASEFOLD, which the module of the C library does not show.
    flags = ignoresCase ? 1 << 4 : 0
    isAnchored = text.hasPrefix("/")
    components = text.split(separator: "/").map(String.init)
  }

  /// Whether the entry at `path`, counted from the root, is excluded by itself.
  package func matches(_ path: TreePath) -> Bool {
    guard !components.isEmpty else { return false }
    if isAnchored { return matches(path.components[...], components[...]) }
    return path.components.indices.contains { matches(path.components[$0...], components[...]) }
  }

  private func matches(_ names: ArraySlice<FileName>, _ patterns: ArraySlice<String>) -> Bool {
    guard let pattern = patterns.first else { return names.isEmpty }
    if pattern == "**" {
      if matches(names, patterns.dropFirst()) { return true }
      return !names.isEmpty && matches(names.dropFirst(), patterns)
    }
    guard let name = names.first, name.withCString({ fnmatch(pattern, $0, flags) == 0 }) else { return false }
    return matches(names.dropFirst(), patterns.dropFirst())
  }
}
