/// Splits a command line into words without a shell: no variables, no globs, no substitution.
///
/// Words are split at blanks, tabs and newlines. `'…'` is taken as it is; in `"…"` a backslash makes `"` and `\` plain;
/// outside quotes a backslash makes any character plain. Source: POSIX XCU 2.2, the part without expansions.
package enum CommandWords {
  /// - Returns: `nil` if a quote is left open or the text ends in a backslash.
  package static func split(_ text: some StringProtocol) -> [String]? {
    var words: [String] = []
    var word: String?
    var quote: Character?
    var characters = text.makeIterator()
    while let character = characters.next() {
      switch (quote, character) {
      case (nil, " "), (nil, "\t"), (nil, "\n"), (nil, "\r\n"):
        if let done = word { words.append(done) }
        word = nil
      case (nil, "'"), (nil, "\""):
        quote = character
        word = word ?? ""
      case (nil, "\\"):
        guard let next = characters.next() else { return nil }
        word = (word ?? "") + String(next)
      case ("'", "'"), ("\"", "\""):
        quote = nil
      case ("\"", "\\"):
        guard let next = characters.next() else { return nil }
        word = (word ?? "") + (next == "\"" || next == "\\" ? "" : "\\") + String(next)
      default:
        word = (word ?? "") + String(character)
      }
    }
    guard quote == nil else { return nil }
    if let word { words.append(word) }
    return words
  }
}
