/// What keys and paths look like, and which parts of their names are somebody's.
///
/// `*` fits anything but a separator, `**` anything, `{customer-id}` anything but a separator and says which domain it is
/// of: that part becomes its pseudonym, and all the others stay. Separators are `/` and `:`.
package struct NamePattern: Sendable, Equatable {
  enum Part: Sendable, Equatable {
    case exactly([UInt8])
    case some
    case all
    case domain(String)
  }

  package let text: String
  let parts: [Part]

  /// - Returns: `nil` for a brace that isn't closed, or closes nothing.
  package init?(_ text: String) {
    self.text = text
    var parts: [Part] = []
    var literal: [UInt8] = []
    var rest = Array(text.utf8)[...]
    func flush() {
      if !literal.isEmpty { parts.append(.exactly(literal)) }
      literal = []
    }
    while let byte = rest.popFirst() {
      switch byte {
      case 42:
        flush()
        if rest.first == 42 {
          rest = rest.dropFirst()
          parts.append(.all)
        } else {
          parts.append(.some)
        }
      case 123:
        flush()
        guard let end = rest.firstIndex(of: 125), end > rest.startIndex else { return nil }
        parts.append(.domain(String(decoding: rest[..<end], as: UTF8.self)))
        rest = rest[(end + 1)...]
      case 125: return nil
      default: literal.append(byte)
      }
    }
    flush()
    guard !parts.isEmpty else { return nil }
    self.parts = parts
  }

  package var domains: [String] {
    parts.compactMap { if case .domain(let name) = $0 { name } else { nil } }
  }

  /// The name's pieces, one for each part; `nil` if it does not fit. Longer pieces for later parts are tried first to last.
  func pieces(of name: [UInt8]) -> [ArraySlice<UInt8>]? {
    var dead: Set<Int> = []
    func match(_ part: Int, _ from: Int) -> [ArraySlice<UInt8>]? {
      if part == parts.count { return from == name.count ? [] : nil }
      let mark = part * (name.count + 1) + from
      if dead.contains(mark) { return nil }
      switch parts[part] {
      case .exactly(let bytes):
        if name.count - from >= bytes.count, name[from..<from + bytes.count].elementsEqual(bytes),
          let rest = match(part + 1, from + bytes.count)
        {
          return [name[from..<from + bytes.count]] + rest
        }
      case .some, .domain, .all:
        var end = from
        while true {
          // A domain's part is somebody: there is always something of him.
          let isEmpty = end == from
          var mayEnd = true
          if case .domain = parts[part], isEmpty { mayEnd = false }
          if mayEnd, let rest = match(part + 1, end) { return [name[from..<end]] + rest }
          guard end < name.count else { break }
          if parts[part] != .all, name[end] == 47 || name[end] == 58 { break }
          end += 1
        }
      }
      dead.insert(mark)
      return nil
    }
    return match(0, 0)
  }

  package func fits(_ name: [UInt8]) -> Bool { pieces(of: name) != nil }

  /// - Returns: The name with every domain's part replaced; `nil` if it does not fit.
  func renamed<E: Error>(
    _ name: [UInt8], _ pseudonym: (_ domain: String, _ value: [UInt8]) throws(E) -> [UInt8]
  ) throws(E) -> [UInt8]? {
    guard let pieces = pieces(of: name) else { return nil }
    var result: [UInt8] = []
    for (part, piece) in zip(parts, pieces) {
      if case .domain(let domain) = part {
        result += try pseudonym(domain, Array(piece))
      } else {
        result += piece
      }
    }
    return result
  }
}
