import Synchronization

/// All chance there is.
package protocol Randomness: Sendable {
  func next() -> UInt64
}

extension Randomness {
  package func bytes(_ count: Int) -> [UInt8] {
    var result = [UInt8]()
    result.reserveCapacity(count)
    while result.count < count {
      var word = next()
      for _ in 0..<min(8, count - result.count) {
        result.append(UInt8(truncatingIfNeeded: word))
        word >>= 8
      }
    }
    return result
  }

  /// A number in `range`, without bias.
  package func below(_ bound: Int) -> Int {
    precondition(bound > 0, "no number is below \(bound)")
    var generator = Generator(source: self)
    return Int.random(in: 0..<bound, using: &generator)
  }

  package func chance(_ probability: Double) -> Bool { Double(next() >> 11) / 9_007_199_254_740_992 < probability }
}

private struct Generator<Source: Randomness>: RandomNumberGenerator {
  let source: Source
  mutating func next() -> UInt64 { source.next() }
}

/// The system's generator; fit for keys.
package struct SystemRandomness: Randomness {
  package init() {}

  package func next() -> UInt64 {
    var generator = SystemRandomNumberGenerator()
    return generator.next()
  }
}

/// The same numbers for the same seed; for simulations and tests, never for keys.
///
/// Source: SplitMix64, Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
package final class SeededRandomness: Randomness {
  private let state: Mutex<UInt64>

  package init(seed: UInt64) { state = Mutex(seed) }

  package func next() -> UInt64 {
    state.withLock { state in
      state &+= 0x9e37_79b9_7f4a_7c15
      var z = state
      z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
      return z ^ (z >> 31)
    }
  }
}
