import Core

/// What people wrote by hand between `<!-- notes:NAME -->` and `<!-- /notes -->`: it survives being made anew.
package struct Notes: Sendable, Equatable {
  /// By the section's name; without the marks.
  package private(set) var texts: [String: [String]] = [:]
  /// How long a file's notes may be, in lines; what is longer is no note.
  private static let limitLines = 10_000

  package init() {}

  /// Reads the notes of a page.
  package init(in markdown: String) {
    var (name, lines): (String?, [String]) = (nil, [])
    for line in markdown.split(separator: "\n", omittingEmptySubsequences: false).prefix(1_000_000) {
      let bare = line.drop { $0 == " " }
      if let open = name {
        if bare.hasPrefix("<!-- /notes -->") {
          let isBlank = lines.allSatisfy { $0.allSatisfy(\.isWhitespace) }
          if !isBlank { texts[open, default: []] += lines }
          (name, lines) = (nil, [])
        } else if lines.count < Self.limitLines {
          lines.append(String(line))
        }
      } else if bare.hasPrefix("<!-- notes:"), let end = bare.range(of: " -->") {
        name = String(bare[bare.index(bare.startIndex, offsetBy: 11)..<end.lowerBound])
      }
    }
  }

  package var isEmpty: Bool { texts.isEmpty }

  func lines(of name: String) -> [String] { ["<!-- notes:\(name) -->"] + (texts[name] ?? []) + ["<!-- /notes -->"] }

  /// Notes whose section is gone: they stay, at the end.
  func lost(among names: [String]) -> [String] {
    let lost = texts.keys.filter { !names.contains($0) }.sorted()
    guard !lost.isEmpty else { return [] }
    return ["## Notes of sections that are gone", ""] + lost.flatMap { lines(of: $0) + [""] }
  }
}
