import Core

/// The little of XML that S3 and STS answer with, read strictly: elements and text.
///
/// Written for input nobody vouches for: no document types, no entities but the five of XML itself, bounded in depth and
/// number.
package struct S3XML {
  package var name: String
  package var text = ""
  package var children: [S3XML] = []

  package struct Fault: Error, Equatable {
    package var offset: Int
    package var reason: String
  }

  package static let depthLimit = 16
  package static let elementLimit = 200_000

  /// The first child of that name.
  package subscript(_ name: String) -> S3XML? { children.first { $0.name == name } }

  package static func parse(_ bytes: [UInt8]) throws(Fault) -> S3XML {
    var reader = Reader(bytes: bytes)
    return try reader.document()
  }

  private struct Reader {
    let bytes: [UInt8]
    var offset = 0
    var elements = 0

    func fault(_ reason: String) -> Fault { Fault(offset: offset, reason: reason) }

    mutating func document() throws(Fault) -> S3XML {
      if starts(with: "\u{feff}") { offset += 3 }
      skipBlanks()
      if starts(with: "<?") {
        while offset < bytes.count, !starts(with: "?>") { offset += 1 }
        offset += 2
      }
      skipBlanks()
      let root = try element(depth: 0)
      skipBlanks()
      guard offset == bytes.count else { throw fault("something follows the end") }
      return root
    }

    mutating func element(depth: Int) throws(Fault) -> S3XML {
      guard depth < S3XML.depthLimit else { throw fault("nested deeper than \(S3XML.depthLimit)") }
      elements += 1
      guard elements <= S3XML.elementLimit else { throw fault("more than \(S3XML.elementLimit) elements") }
      try take("<")
      var result = S3XML(name: try word())
      // Attributes say nothing that is needed.
      var quote: UInt8?
      while offset < bytes.count, quote != nil || (bytes[offset] != 62 && !starts(with: "/>")) {
        if let open = quote {
          if bytes[offset] == open { quote = nil }
        } else if bytes[offset] == 34 || bytes[offset] == 39 {
          quote = bytes[offset]
        }
        offset += 1
      }
      if starts(with: "/>") {
        offset += 2
        return result
      }
      try take(">")
      var text: [UInt8] = []
      while true {
        guard offset < bytes.count else { throw fault("an element without end") }
        if starts(with: "</") {
          offset += 2
          guard try word() == result.name else { throw fault("the end of another element") }
          skipBlanks()
          try take(">")
          result.text = String(decoding: text, as: UTF8.self)
          return result
        }
        if bytes[offset] == 60 {
          result.children.append(try element(depth: depth + 1))
        } else if bytes[offset] == 38 {
          text += Array(String(try entity()).utf8)
        } else {
          text.append(bytes[offset])
          offset += 1
        }
      }
    }

    mutating func entity() throws(Fault) -> Character {
      guard let end = bytes[offset...].prefix(12).firstIndex(of: 59) else { throw fault("'&' without ';'") }
      let name = String(decoding: bytes[offset + 1..<end], as: UTF8.self)
      offset = end + 1
      switch name {
      case "amp": return "&"
      case "lt": return "<"
      case "gt": return ">"
      case "quot": return "\""
      case "apos": return "'"
      default:
        let isHex = name.hasPrefix("#x")
        guard name.hasPrefix("#"), let number = UInt32(name.dropFirst(isHex ? 2 : 1), radix: isHex ? 16 : 10),
          let scalar = Unicode.Scalar(number)
        else { throw fault("an unknown entity") }
        return Character(scalar)
      }
    }

    mutating func word() throws(Fault) -> String {
      let start = offset
      while offset < bytes.count, bytes[offset] > 32, bytes[offset] != 62, bytes[offset] != 47, bytes[offset] != 60 {
        offset += 1
      }
      guard offset > start, offset - start <= 100, bytes[start] != 33, bytes[start] != 63 else {
        throw fault("an element's name expected")
      }
      return String(decoding: bytes[start..<offset], as: UTF8.self)
    }

    mutating func take(_ text: String) throws(Fault) {
      guard starts(with: text) else { throw fault("'\(text)' expected") }
      offset += text.utf8.count
    }

    func starts(with text: String) -> Bool { bytes[min(offset, bytes.count)...].starts(with: text.utf8) }

    mutating func skipBlanks() {
      while offset < bytes.count, [32, 9, 10, 13].contains(bytes[offset]) { offset += 1 }
    }
  }
}
