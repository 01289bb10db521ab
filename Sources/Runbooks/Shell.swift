import Core

/// Words as they are typed into a POSIX shell.
package enum Shell {
  /// One word, quoted only where it has to be.
  package static func word(_ text: String) -> String {
    let plain = text.utf8.allSatisfy { byte in
      (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        || "-_./:=@%+,".utf8.contains(byte)
    }
    if plain, !text.isEmpty, !text.hasPrefix("="), !text.hasPrefix("~") { return text }
    return "'" + text.replacing("'", with: #"'\''"#) + "'"
  }

  package static func line(_ words: [String]) -> String { words.map(word).joined(separator: " ") }

  /// A variable's name made of any text.
  package static func variable(_ text: String) -> String {
    let letters = text.uppercased().unicodeScalars.map { scalar -> Character in
      scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil)
        ? Character(scalar) : "_"
    }
    return String(letters)
  }
}
