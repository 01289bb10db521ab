/// Which part of an object a response holds: `bytes 0-99/1234`.
///
/// Source: RFC 9110, section 14.4.
package struct ContentRange {
  package var range: Range<Int>
  /// `nil` for `*`.
  package var sizeBytes: Int?

  package init?(_ text: String?) {
    guard let text, text.hasPrefix("bytes ") else { return nil }
    let parts = text.dropFirst(6).split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 2 else { return nil }
    let ends = parts[0].split(separator: "-", omittingEmptySubsequences: false).map { Int($0) }
    guard ends.count == 2, let first = ends[0], let last = ends[1], first >= 0, last >= first, last < Int.max else {
      return nil
    }
    range = first..<last + 1
    if parts[1] == "*" { return }
    guard let size = Int(parts[1]), size >= 0 else { return nil }
    sizeBytes = size
  }
}
