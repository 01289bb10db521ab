import Core

/// Looks for values in bytes, in every spelling they are likely to survive in.
///
/// Each value as it is in any case, in UTF-16 of both orders, in hexadecimal, in base64 at its three alignments,
/// percent-encoded and reversed; a number also as engines keep it in binary: eight bytes of both orders, as few big-endian bytes as
/// hold it, and PostgreSQL's numeric. O(*bytes*), whatever the number of values.
package struct SecretScan: Sendable {
  package struct Spelling: Sendable, Equatable {
    package var value: Int
    package var way: String
    var bytes: [UInt8]
  }

  package struct Hit: Sendable, Equatable, Codable {
    /// The value's number in the list, from 0; never the value.
    package var value: Int
    package var way: String
    package var offset: Int64
  }

  package let spellings: [Spelling]
  /// Aho and Corasick's automaton: 256 next states for each.
  private let next: [Int32]
  private let ends: [[Int32]]

  /// - Parameter values: Those shorter than 4 bytes are everywhere, and left out.
  package init(_ values: [String]) {
    var spellings: [Spelling] = []
    for (number, value) in values.enumerated() where value.utf8.count >= 4 {
      var seen: Set<[UInt8]> = []
      for (way, bytes) in Self.ways(of: value) where bytes.count >= 4 && seen.insert(bytes).inserted {
        spellings.append(Spelling(value: number, way: way, bytes: bytes))
      }
    }
    self.spellings = spellings
    (next, ends) = Self.automaton(spellings)
  }

  /// Folded: capitals are small.
  private static func fold(_ byte: UInt8) -> UInt8 { (65...90).contains(byte) ? byte + 32 : byte }

  static func ways(of value: String) -> [(String, [UInt8])] {
    let plain = Array(value.utf8)
    var ways: [(String, [UInt8])] = [("as it is", plain), ("reversed", plain.reversed())]
    let units = Array(value.utf16)
    ways.append(("UTF-16LE", units.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] }))
    ways.append(("UTF-16BE", units.flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }))
    ways.append(("hexadecimal", Array(Hex.encode(plain).utf8)))
    for shift in 0..<3 where plain.count >= 6 { ways.append(("base64", base64(plain, shift))) }
    let percent = plain.flatMap { byte -> [UInt8] in
      let isPlain =
        (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte)
        || [45, 46, 95, 126].contains(byte)
      return isPlain ? [byte] : Array("%\(Hex.encode([byte]))".utf8)
    }
    ways.append(("percent-encoded", percent))
    let json = plain.flatMap { $0 == 34 || $0 == 92 ? [92, $0] : [$0] }
    ways.append(("escaped", json))
    let digits = value.filter { $0.isASCII && $0.isNumber }
    if !digits.isEmpty, value.allSatisfy({ $0.isASCII && $0.isNumber || $0 == " " || $0 == "-" }) {
      ways.append(("digits", Array(digits.utf8)))
      if let number = Int64(digits), number > 0xffff_ffff {
        let big = stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: number >> Int64($0)) }
        let small = Array(big.drop { $0 == 0 })
        ways += [("binary", small), ("binary", small.reversed())]
        ways.append(("numeric", numeric(digits)))
      }
    }
    return ways
  }

  /// Groups of four digits, each a little-endian number of 16 bits.
  private static func numeric(_ digits: String) -> [UInt8] {
    let all = Array(digits.utf8.drop { $0 == 48 })
    var groups: [Int] = []
    var rest = all[...]
    while !rest.isEmpty {
      groups.append(rest.suffix(4).reduce(0) { $0 * 10 + Int($1 - 48) })
      rest = rest.dropLast(4)
    }
    // Trailing groups of zero are not kept.
    var kept = Array(groups.reversed())
    while kept.last == 0 { kept.removeLast() }
    return kept.flatMap { [UInt8($0 & 255), UInt8($0 >> 8)] }
  }

  /// The characters that don't depend on what stands before and after.
  static func base64(_ bytes: [UInt8], _ shift: Int) -> [UInt8] {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    let bits = bytes.count * 8
    let padded = [UInt8](repeating: 0, count: shift) + bytes
    let first = (shift * 8 + 5) / 6
    let last = (shift * 8 + bits) / 6
    return (first..<last).map { place in
      let bit = place * 6
      let high = UInt16(padded[bit / 8]) << 8
      let low = bit / 8 + 1 < padded.count ? UInt16(padded[bit / 8 + 1]) : 0
      return alphabet[Int((high | low) >> UInt16(10 - bit % 8) & 63)]
    }
  }

  private static func automaton(_ spellings: [Spelling]) -> ([Int32], [[Int32]]) {
    var next = [Int32](repeating: 0, count: 256)
    var ends: [[Int32]] = [[]]
    for (number, spelling) in spellings.enumerated() {
      var state = 0
      for byte in spelling.bytes {
        let place = state * 256 + Int(fold(byte))
        if next[place] == 0 {
          next[place] = Int32(ends.count)
          ends.append([])
          next += [Int32](repeating: 0, count: 256)
        }
        state = Int(next[place])
      }
      ends[state].append(Int32(number))
    }
    var fallback = [Int32](repeating: 0, count: ends.count)
    var queue: [Int32] = next[0..<256].filter { $0 != 0 }
    var head = 0
    while head < queue.count {
      let state = Int(queue[head])
      head += 1
      for byte in 0..<256 {
        let other = next[Int(fallback[state]) * 256 + byte]
        let child = next[state * 256 + byte]
        if child == 0 {
          next[state * 256 + byte] = other
        } else {
          fallback[Int(child)] = other
          ends[Int(child)] += ends[Int(other)]
          queue.append(child)
        }
      }
    }
    return (next, ends)
  }

  /// How a scan of one file or stream goes on from piece to piece.
  package struct Run {
    private let scan: SecretScan
    private var state = 0
    private var offset: Int64 = 0
    package private(set) var hits: [Hit] = []

    package init(_ scan: SecretScan) { self.scan = scan }

    /// - Parameter limit: Hits beyond so many are not kept.
    package mutating func take(_ bytes: UnsafeRawBufferPointer, limit: Int = 1000) {
      scan.next.withUnsafeBufferPointer { next in
        for (index, byte) in bytes.enumerated() {
          let folded = byte >= 65 && byte <= 90 ? byte + 32 : byte
          state = Int(next[state * 256 + Int(folded)])
          if state != 0, !scan.ends[state].isEmpty { note(index, limit) }
        }
      }
      offset += Int64(bytes.count)
    }

    package mutating func take(_ bytes: [UInt8]) { bytes.withUnsafeBytes { take($0) } }

    private mutating func note(_ index: Int, _ limit: Int) {
      for end in scan.ends[state] where hits.count < limit {
        let spelling = scan.spellings[Int(end)]
        hits.append(
          Hit(value: spelling.value, way: spelling.way, offset: offset + Int64(index) + 1 - Int64(spelling.bytes.count))
        )
      }
    }
  }

  package func hits(in bytes: [UInt8]) -> [Hit] {
    var run = Run(self)
    run.take(bytes)
    return run.hits
  }
}
