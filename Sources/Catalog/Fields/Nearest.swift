/// The candidate that `word` was most likely meant to be; `nil` if none is near.
///
/// Nearest by edit distance (insertions, deletions, replacements and swaps of neighbours), ignoring case, within a
/// third of the word's length; the first in order among equals. Looks at 2,000 candidates at most.
func nearest(_ word: some StringProtocol, in candidates: some Sequence<String>) -> String? {
  let wanted = Array(word.lowercased().unicodeScalars.prefix(64))
  guard !wanted.isEmpty else { return nil }
  var best: (text: String, distance: Int)?
  let reach = max(1, wanted.count / 3)
  for candidate in candidates.prefix(2000) {
    let other = Array(candidate.lowercased().unicodeScalars.prefix(64))
    guard abs(other.count - wanted.count) <= reach else { continue }
    let distance = editDistance(wanted, other)
    if distance <= reach, distance < best?.distance ?? .max { best = (candidate, distance) }
  }
  return best?.text
}

/// Source: the "optimal string alignment" form of Damerau, "A technique for computer detection and correction of
/// spelling errors", 1964. O(*n·m*).
func editDistance(_ a: [Unicode.Scalar], _ b: [Unicode.Scalar]) -> Int {
  if a.isEmpty || b.isEmpty { return max(a.count, b.count) }
  var twoBack = [Int](repeating: 0, count: b.count + 1)
  var previous = Array(0...b.count)
  for i in 1...a.count {
    var current = [i] + [Int](repeating: 0, count: b.count)
    for j in 1...b.count {
      let cost = a[i - 1] == b[j - 1] ? 0 : 1
      current[j] = min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + cost)
      if i > 1, j > 1, a[i - 1] == b[j - 2], a[i - 2] == b[j - 1] { current[j] = min(current[j], twoBack[j - 2] + 1) }
    }
    (twoBack, previous) = (previous, current)
  }
  return previous[b.count]
}
