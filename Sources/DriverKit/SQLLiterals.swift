/// Finds what a schema's text says in so many words: quoted text, bodies in dollar quotes, and numbers of five digits and
/// more. A default or a check can hold a value of somebody's as well as a row can.
package enum SQLLiterals {
  /// - Parameter names: What is called so: text in double quotes that is none of them is a literal too, as SQLite has it, and
  ///   so are remarks, which SQLite keeps. `nil` for the other engines.
  /// - Returns: Each with `place`, or the statement's first words.
  package static func find(in sql: String, place: String? = nil, names: Set<String>? = nil) -> [StoreShape.Literal] {
    var scanner = Scanner(bytes: Array(sql.utf8), names: names)
    scanner.run()
    return scanner.found.map { StoreShape.Literal(place: place ?? $0.0, text: $0.1) }
  }

  private struct Scanner {
    let bytes: [UInt8]
    let names: Set<String>?
    var index = 0
    var statement = 0
    var found: [(String, String)] = []

    var place: String {
      let words = String(decoding: bytes[statement..<min(bytes.count, statement + 100)], as: UTF8.self)
        .split(whereSeparator: \.isWhitespace).prefix(5)
      return words.prefix { !$0.contains("'") && !$0.contains("$") }.joined(separator: " ")
    }

    mutating func run() {
      skipBlanks()
      statement = index
      while index < bytes.count {
        let byte = bytes[index]
        switch byte {
        case 39:
          quoted(isEscaped: index > 0 && (bytes[index - 1] == 69 || bytes[index - 1] == 101) && !isWord(at: index - 2))
        case 34: doubleQuoted()
        case 45 where at("--"):
          let start = index
          while index < bytes.count, bytes[index] != 10 { index += 1 }
          if names != nil { note(Array(bytes[start..<index])) }
        case 47 where at("/*"):
          let start = index
          while index < bytes.count, !at("*/") { index += 1 }
          // Carried along by engines that keep a schema's text as it was written.
          note(Array(bytes[start..<min(bytes.count, index + 2)]))
          index += 2
        case 36: dollar()
        case 48...57 where !isWord(at: index - 1): number()
        case 59:
          index += 1
          skipBlanks()
          statement = index
        default: index += 1
        }
      }
    }

    private func at(_ text: String) -> Bool { bytes[index...].starts(with: text.utf8) }

    private func isWord(at place: Int) -> Bool {
      guard place >= 0, place < bytes.count else { return false }
      let byte = bytes[place]
      return (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 95
        || byte >= 128
    }

    private mutating func skipBlanks() {
      while index < bytes.count, bytes[index] == 10 || bytes[index] == 32 || bytes[index] == 13 || bytes[index] == 9 {
        index += 1
      }
    }

    private mutating func doubleQuoted() {
      index += 1
      let start = index
      while index < bytes.count, bytes[index] != 34 { index += 1 }
      let text = Array(bytes[start..<index])
      index += 1
      if let names, !names.contains(String(decoding: text, as: UTF8.self)) { note(text) }
    }

    private mutating func note(_ literal: [UInt8]) {
      if literal.isEmpty { return }
      found.append((place, String(decoding: literal, as: UTF8.self)))
    }

    private mutating func quoted(isEscaped: Bool) {
      // Names of what is there, and settings of a dump's own session.
      let isName = String(decoding: bytes[max(0, index - 8)..<index], as: UTF8.self) == "nextval("
      let first = String(decoding: bytes[statement..<min(bytes.count, statement + 29)], as: UTF8.self)
      let isSetting = first.hasPrefix("SET ") || first.hasPrefix("SELECT pg_catalog.set_config(")
      index += 1
      var literal: [UInt8] = []
      while index < bytes.count {
        if bytes[index] == 92, isEscaped, index + 1 < bytes.count {
          literal.append(bytes[index + 1])
          index += 2
        } else if bytes[index] == 39 {
          if index + 1 < bytes.count, bytes[index + 1] == 39 {
            literal.append(39)
            index += 2
          } else {
            break
          }
        } else {
          literal.append(bytes[index])
          index += 1
        }
      }
      index += 1
      if !isName, !isSetting { note(literal) }
    }

    private mutating func dollar() {
      var end = index + 1
      while end < bytes.count, isWord(at: end) { end += 1 }
      guard !isWord(at: index - 1), end < bytes.count, bytes[end] == 36 else {
        index += 1
        return
      }
      let tag = Array(bytes[index...end])
      index = end + 1
      let start = index
      while index < bytes.count, !bytes[index...].starts(with: tag) { index += 1 }
      note(Array(bytes[start..<min(index, bytes.count)]))
      index += tag.count
    }

    private mutating func number() {
      let start = index
      while index < bytes.count, isWord(at: index) || bytes[index] == 46 { index += 1 }
      let text = Array(bytes[start..<index])
      let bounds = ["2147483647", "9223372036854775807", "2147483648", "9223372036854775808", "32767", "32768"]
      if text.count(where: { (48...57).contains($0) }) >= 5, !bounds.contains(String(decoding: text, as: UTF8.self)) {
        note(text)
      }
    }
  }
}
