import Core

/// A polynomial over GF(2), its coefficients as bits.
///
/// Source: restic's chunker; M. O. Rabin, "Fingerprinting by Random Polynomials", 1981; M. Ben-Or, "Probabilistic
/// algorithms in finite fields", 1981.
package struct Polynomial: Hashable, Sendable, CustomStringConvertible {
  package let bits: UInt64

  package init(bits: UInt64) { self.bits = bits }

  /// - Returns: `nil` unless `hex` is the spelling in a repository's config: hexadecimal without `0x`.
  package init?(hex: some StringProtocol) {
    guard !hex.isEmpty, hex.utf8.count <= 16, hex.utf8.allSatisfy({ GoText.hexValue($0) != nil }),
      let bits = UInt64(hex, radix: 16)
    else { return nil }
    self.bits = bits
  }

  package var description: String { String(bits, radix: 16) }

  /// -1 for the zero polynomial.
  package var degree: Int { 63 - bits.leadingZeroBitCount }

  /// The degree restic chooses: the largest prime that leaves a byte's room in a word.
  package static let chunkerDegree = 53

  /// A random irreducible polynomial of degree 53, for a new repository. About one in 27 odd candidates is one.
  package static func random(_ randomness: some Randomness) -> Polynomial {
    while true {
      let candidate = Polynomial(bits: randomness.next() & (1 << 54 - 1) | 1 << 53 | 1)
      if candidate.isIrreducible { return candidate }
    }
  }

  /// Checks what a repository's config says.
  ///
  /// - Throws: ``TreeError/polynomialReducible(_:)``, also for a degree other than 53: restic writes no other.
  package static func checked(_ bits: UInt64) throws(TreeError) -> Polynomial {
    let value = Polynomial(bits: bits)
    guard value.degree == chunkerDegree, value.isIrreducible else { throw .polynomialReducible(bits) }
    return value
  }

  /// Ben-Or's test: no common factor with x^(2^i) − x for any i up to half the degree.
  package var isIrreducible: Bool {
    guard degree > 0, degree <= 62 else { return false }
    if degree == 1 { return true }
    var power: UInt64 = 2
    for _ in 1...max(1, degree / 2) {
      power = multiply(power, power)
      if Polynomial.greatestCommonDivisor(bits, power ^ 2) != 1 { return false }
    }
    return true
  }

  /// a · b modulo this polynomial; both of a lower degree.
  private func multiply(_ a: UInt64, _ b: UInt64) -> UInt64 {
    var (a, b, result) = (remainder(a), b, UInt64(0))
    while b != 0 {
      if b & 1 != 0 { result ^= a }
      b >>= 1
      a <<= 1
      if a >> UInt64(degree) & 1 != 0 { a ^= bits }
    }
    return result
  }

  func remainder(_ value: UInt64) -> UInt64 {
    var value = value
    let degree = degree
    while value != 0 {
      let excess = 63 - value.leadingZeroBitCount - degree
      if excess < 0 { break }
      value ^= bits << UInt64(excess)
    }
    return value
  }

  private static func greatestCommonDivisor(_ a: UInt64, _ b: UInt64) -> UInt64 {
    var (a, b) = (a, b)
    while b != 0 { (a, b) = (b, Polynomial(bits: b).remainder(a)) }
    return a
  }
}
