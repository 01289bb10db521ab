import Core

/// Polynomials over GF(2), a bit per coefficient: what restic's chunker takes its fingerprints modulo.
package enum IrreduciblePolynomial {
  /// restic's chunker needs exactly this degree.
  package static let degree = 53

  /// A random irreducible polynomial of degree 53; one in 53 candidates is, so this ends.
  package static func random(_ randomness: any Randomness) -> UInt64 {
    while true {
      // Without the constant term it would be divisible by x.
      let candidate = randomness.next() & (1 << 53 - 1) | 1 << 53 | 1
      if isIrreducible(candidate) { return candidate }
    }
  }

  /// Source: Ben-Or, "Probabilistic algorithms in finite fields", 1981: no factor of degree *i* up to half the degree,
  /// because x^(2^i) − x holds all of those.
  package static func isIrreducible(_ f: UInt64) -> Bool {
    let degree = self.degree(of: f)
    guard degree > 0 else { return false }
    var power: UInt64 = remainder(2, f)
    for _ in 0..<max(1, degree / 2) {
      power = product(power, power, modulo: f)
      // For a linear f there is nothing left to divide.
      if degree > 1, greatestCommonDivisor(f, power ^ 2) != 1 { return false }
    }
    return true
  }

  private static func degree(of f: UInt64) -> Int { 63 - f.leadingZeroBitCount }

  private static func remainder(_ a: UInt64, _ f: UInt64) -> UInt64 {
    var a = a
    let limit = degree(of: f)
    while a != 0, degree(of: a) >= limit { a ^= f << UInt64(degree(of: a) - limit) }
    return a
  }

  /// Both factors are reduced; shifts one bit at a time, so nothing overflows for any degree up to 63.
  private static func product(_ a: UInt64, _ b: UInt64, modulo f: UInt64) -> UInt64 {
    let top: UInt64 = 1 << UInt64(degree(of: f) - 1)
    var (result, shifted, rest): (UInt64, UInt64, UInt64) = (0, a, b)
    while rest != 0 {
      if rest & 1 != 0 { result ^= shifted }
      rest >>= 1
      let carries = shifted & top != 0
      shifted <<= 1
      if carries { shifted ^= f }
    }
    return result
  }

  private static func greatestCommonDivisor(_ a: UInt64, _ b: UInt64) -> UInt64 {
    var (a, b) = (a, b)
    while b != 0 { (a, b) = (b, remainder(a, b)) }
    return a
  }
}
