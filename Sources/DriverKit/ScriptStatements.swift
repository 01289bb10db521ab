/// The statements of an SQL script, each with the line it begins in.
///
/// Knows strings, quoted names, comments and PostgreSQL's dollar quotes, so that a semicolon in one of them ends nothing.
/// Pure; O(*n*).
package struct ScriptStatements: Sendable {
  package enum Dialect: Sendable {
    /// Comments nest, `$tag$` quotes, backslashes escape in `E''` only.
    case postgreSQL
    /// Backslashes escape, `#` begins a comment, `DELIMITER` changes what ends a statement.
    case mariaDB
  }

  package struct Statement: Sendable, Equatable {
    package var text: String
    package var line: Int
  }

  private let bytes: [UInt8]
  private let dialect: Dialect
  private var position = 0
  private var line = 1

  /// - Returns: What stands between semicolons, without what is empty or comment alone.
  package static func split(_ script: String, _ dialect: Dialect) -> [Statement] {
    var splitter = ScriptStatements(bytes: Array(script.utf8), dialect: dialect)
    return splitter.split()
  }

  private init(bytes: [UInt8], dialect: Dialect) { (self.bytes, self.dialect) = (bytes, dialect) }

  private var rest: ArraySlice<UInt8> { bytes[position...] }

  private func isNext(_ text: StaticString) -> Bool {
    text.withUTF8Buffer { wanted in rest.starts(with: wanted) }
  }

  private mutating func split() -> [Statement] {
    var result: [Statement] = []
    var delimiter = Array(";".utf8)
    /// Where the statement's first word stands; `nil` while there was none.
    var start: (offset: Int, line: Int)?
    func finish(_ end: Int) {
      if let start {
        result.append(Statement(text: String(decoding: bytes[start.offset..<end], as: UTF8.self), line: start.line))
      }
    }
    while position < bytes.count {
      if skipComment() { continue }
      if rest.starts(with: delimiter) {
        finish(position)
        start = nil
        advance(delimiter.count)
        continue
      }
      let byte = bytes[position]
      if byte <= 32 {
        advance(1)
        continue
      }
      if start == nil {
        if dialect == .mariaDB, let changed = takeDelimiter() {
          delimiter = changed
          continue
        }
        start = (position, line)
      }
      if !skipQuoted(byte) { advance(1) }
    }
    finish(bytes.count)
    return result
  }

  private mutating func advance(_ count: Int) {
    for index in position..<min(bytes.count, position + count) where bytes[index] == 10 { line += 1 }
    position = min(bytes.count, position + count)
  }

  private mutating func skipComment() -> Bool {
    let isHash = dialect == .mariaDB && isNext("#")
    if isNext("--") || isHash {
      advance((rest.firstIndex(of: 10) ?? bytes.count) - position)
      return true
    }
    // What MariaDB is to run is written as a comment too.
    guard isNext("/*"), !(dialect == .mariaDB && (isNext("/*!") || isNext("/*M!"))) else { return false }
    var depth = 0
    repeat {
      if isNext("/*"), depth == 0 || dialect == .postgreSQL {
        depth += 1
        advance(2)
      } else if isNext("*/") {
        depth -= 1
        advance(2)
      } else {
        advance(1)
      }
    } while depth > 0 && position < bytes.count
    return true
  }

  private mutating func skipQuoted(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "'"), UInt8(ascii: "\""):
      let isEscaping =
        dialect == .mariaDB
        || byte == UInt8(ascii: "'") && position > 0 && bytes[position - 1] | 0x20 == UInt8(ascii: "e")
          && (position < 2 || !isWordByte(bytes[position - 2]))
      skip(to: byte, isEscaping: isEscaping)
    case UInt8(ascii: "`") where dialect == .mariaDB: skip(to: byte, isEscaping: false)
    case UInt8(ascii: "$") where dialect == .postgreSQL:
      // `a$1` is a name, `$1` a parameter.
      if position > 0, isWordByte(bytes[position - 1]) { return false }
      guard let end = rest.dropFirst().firstIndex(where: { !isWordByte($0) || $0 == UInt8(ascii: "$") }),
        bytes[end] == UInt8(ascii: "$"), !(48...57).contains(bytes[position + 1])
      else { return false }
      let tag = Array(bytes[position...end])
      advance(tag.count)
      while position < bytes.count, !rest.starts(with: tag) { advance(1) }
      advance(tag.count)
    default: return false
    }
    return true
  }

  /// A doubled quote ends a string and begins the next, which comes to the same.
  private mutating func skip(to quote: UInt8, isEscaping: Bool) {
    advance(1)
    while position < bytes.count {
      if isEscaping, bytes[position] == UInt8(ascii: "\\") {
        advance(2)
      } else if bytes[position] == quote {
        return advance(1)
      } else {
        advance(1)
      }
    }
  }

  private mutating func takeDelimiter() -> [UInt8]? {
    let word = Array("delimiter".utf8)
    guard rest.count > word.count, zip(rest, word).allSatisfy({ $0 | 0x20 == $1 }), bytes[position + word.count] <= 32
    else { return nil }
    let end = rest.firstIndex(of: 10) ?? bytes.count
    let text = bytes[(position + word.count)..<end].filter { $0 > 32 }
    advance(end - position)
    return text.isEmpty ? Array(";".utf8) : text
  }

  private func isWordByte(_ byte: UInt8) -> Bool {
    (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 95 || byte >= 128
      || byte == 36
  }
}
