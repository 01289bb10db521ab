/// A keyed permutation of the numbers of `digits` places in base `radix`: no two give the same, every one is given.
///
/// Ten rounds of an alternating Feistel network over two halves of the number, as FF1 has them, with HMAC-SHA-256 as the
/// round function where FF1 has AES. It is not FF1 and gives none of its values: see decision 27. It is a permutation
/// whatever the round function, because each round adds to one half what depends on the other alone.
/// Source: NIST SP 800-38G, section 5.1, for the structure.
package struct FeistelCipher: Sendable {
  package static let rounds = 10
  /// Half of so many digits still fits 64 bits.
  package static func longest(radix: UInt64) -> Int {
    var (power, count) = (UInt64(1), 0)
    while true {
      let (next, overflow) = power.multipliedReportingOverflow(by: radix)
      if overflow || next > UInt64(Int64.max) { return count * 2 }
      (power, count) = (next, count + 1)
    }
  }

  private let key: PseudonymKey
  private let radix: UInt64
  private let digits: Int
  private let lowSize: UInt64
  private let highSize: UInt64

  /// - Parameter digits: From 1 to ``longest(radix:)``.
  package init(_ key: PseudonymKey, radix: UInt64, digits: Int) {
    precondition(radix > 1 && digits > 0 && digits <= Self.longest(radix: radix), "no such domain")
    self.key = key
    (self.radix, self.digits) = (radix, digits)
    let high = digits / 2
    highSize = Self.power(radix, high)
    lowSize = Self.power(radix, digits - high)
  }

  private static func power(_ radix: UInt64, _ count: Int) -> UInt64 {
    (0..<count).reduce(UInt64(1)) { value, _ in value * radix }
  }

  /// The number as `high * radix^⌈digits/2⌉ + low`.
  package struct Halves: Equatable, Hashable, Sendable {
    package var high: UInt64
    package var low: UInt64
    package init(high: UInt64, low: UInt64) { (self.high, self.low) = (high, low) }
  }

  package var sizes: Halves { Halves(high: highSize, low: lowSize) }

  package func encrypt(_ value: Halves) -> Halves {
    var value = value
    for round in 0..<Self.rounds {
      if round.isMultiple(of: 2) {
        value.high = Self.sum(value.high, word(round, value.low) % highSize, highSize)
      } else {
        value.low = Self.sum(value.low, word(round, value.high) % lowSize, lowSize)
      }
    }
    return value
  }

  package func decrypt(_ value: Halves) -> Halves {
    var value = value
    for round in (0..<Self.rounds).reversed() {
      if round.isMultiple(of: 2) {
        value.high = Self.sum(value.high, highSize - word(round, value.low) % highSize, highSize)
      } else {
        value.low = Self.sum(value.low, lowSize - word(round, value.high) % lowSize, lowSize)
      }
    }
    return value
  }

  /// Sizes are at most `Int64.max`, so that two of them don't overflow.
  private static func sum(_ a: UInt64, _ b: UInt64, _ size: UInt64) -> UInt64 { (a + b) % size }

  private func word(_ round: Int, _ half: UInt64) -> UInt64 {
    var message: [UInt8] = [UInt8(round), UInt8(digits & 0xff), UInt8(digits >> 8)]
    for shift in stride(from: 0, to: 64, by: 8) { message.append(UInt8(truncatingIfNeeded: radix >> UInt64(shift))) }
    for shift in stride(from: 0, to: 64, by: 8) { message.append(UInt8(truncatingIfNeeded: half >> UInt64(shift))) }
    return key.code(message).prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
  }
}
