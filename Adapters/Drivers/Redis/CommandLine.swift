/// Splits a line as redis-cli does: blanks part words, quotes keep them together.
enum CommandLine {
  /// - Returns: `nil` if a quote isn't closed, or is followed by something other than a blank.
  static func words(_ line: String) -> [String]? { split(line)?.map { String(decoding: $0, as: UTF8.self) } }

  /// In double quotes `\n`, `\r`, `\t`, `\\`, `\"` and `\xHH` are understood; in single quotes only `\'`.
  static func split(_ line: String) -> [[UInt8]]? {
    var rest = Array(line.utf8)[...]
    var words: [[UInt8]] = []
    while true {
      rest = rest.drop { blank($0) }
      guard let first = rest.first else { return words }
      if first == quote || first == apostrophe {
        rest.removeFirst()
        guard let word = quoted(&rest, by: first) else { return nil }
        words.append(word)
        guard rest.first.map({ blank($0) }) ?? true else { return nil }
      } else {
        let word = rest.prefix { !blank($0) }
        guard !word.contains(quote) else { return nil }
        words.append(Array(word))
        rest = rest.dropFirst(word.count)
      }
    }
  }

  private static func quoted(_ rest: inout ArraySlice<UInt8>, by mark: UInt8) -> [UInt8]? {
    var word: [UInt8] = []
    while let byte = rest.popFirst() {
      if byte == mark { return word }
      guard byte == backslash, let next = rest.popFirst() else {
        word.append(byte)
        continue
      }
      if mark == apostrophe {
        word += next == apostrophe ? [next] : [byte, next]
        continue
      }
      switch next {
      case UInt8(ascii: "n"): word.append(10)
      case UInt8(ascii: "r"): word.append(13)
      case UInt8(ascii: "t"): word.append(9)
      case UInt8(ascii: "x"):
        guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
          return nil
        }
        rest = rest.dropFirst(2)
        word.append(value)
      default: word.append(next)
      }
    }
    return nil
  }

  private static func blank(_ byte: UInt8) -> Bool { byte == 32 || (9...13).contains(byte) }
  private static let quote = UInt8(ascii: "\"")
  private static let apostrophe = UInt8(ascii: "'")
  private static let backslash = UInt8(ascii: "\\")
}
