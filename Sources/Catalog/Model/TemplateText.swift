import Core

/// Text with places to fill in: `{{session}}`, `{{data.iban}}`, `{{secret.token}}`, `{{int 1 100}}`.
package struct TemplateText: Sendable, Hashable {
  package enum Piece: Sendable, Hashable {
    case text(String)
    /// What an earlier step's answer held.
    case capture(String)
    case data(String)
    case secret(String)
    /// The number of the run through the workflow, from 0.
    case number
    case integer(ClosedRange<Int>)
    /// So many hexadecimal digits.
    case hexadecimal(Int)
    case uuid
    case pick([String])
  }

  package var pieces: [Piece]

  /// What is wrong, for the one who wrote it.
  package struct Problem: Error, Equatable {
    package var text: String
  }

  package init(_ source: String) throws(Problem) {
    pieces = []
    var rest = Substring(source)
    while let open = rest.firstRange(of: "{{") {
      if open.lowerBound > rest.startIndex { pieces.append(.text(String(rest[..<open.lowerBound]))) }
      let after = rest[open.upperBound...]
      guard let close = after.firstRange(of: "}}") else { throw Problem(text: "'{{' is never closed") }
      pieces.append(try Self.piece(after[..<close.lowerBound].split(whereSeparator: \.isWhitespace).map(String.init)))
      rest = after[close.upperBound...]
    }
    if !rest.isEmpty { pieces.append(.text(String(rest))) }
  }

  private static func piece(_ words: [String]) throws(Problem) -> Piece {
    guard let first = words.first else { throw Problem(text: "'{{}}' names nothing") }
    let arguments = words.dropFirst()
    switch (first, arguments.count) {
    case ("number", 0): return .number
    case ("uuid", 0): return .uuid
    case ("int", 2):
      guard let low = Int(words[1]), let high = Int(words[2]), low <= high,
        high.subtractingReportingOverflow(low).1 == false,
        high - low < Int.max
      else { throw Problem(text: "'int' takes two whole numbers, the smaller first") }
      return .integer(low...high)
    case ("hex", 1):
      guard let count = Int(words[1]), (1...1024).contains(count) else {
        throw Problem(text: "'hex' takes a number of digits from 1 to 1024")
      }
      return .hexadecimal(count)
    case ("pick", 1...): return .pick(Array(arguments))
    case (_, 0):
      if let name = name(first, after: "data.") { return .data(name) }
      if let name = name(first, after: "secret.") { return .secret(name) }
      if isName(first) { return .capture(first) }
      fallthrough
    default: throw Problem(text: "'{{\(excerpt(words.joined(separator: " ")))}}' is nothing that can be filled in")
    }
  }

  private static func name(_ word: String, after prefix: String) -> String? {
    guard word.hasPrefix(prefix) else { return nil }
    let name = String(word.dropFirst(prefix.count))
    return isName(name) ? name : nil
  }

  /// What a capture or a secret may be called: a letter, then letters, digits, `-` and `_`.
  package static func isName(_ text: String) -> Bool {
    guard let first = text.utf8.first, text.utf8.count <= 63, !["number", "uuid", "int", "hex", "pick"].contains(text)
    else { return false }
    func isLetter(_ byte: UInt8) -> Bool { (65...90).contains(byte) || (97...122).contains(byte) }
    return isLetter(first) && text.utf8.allSatisfy { isLetter($0) || (48...57).contains($0) || $0 == 45 || $0 == 95 }
  }
}
