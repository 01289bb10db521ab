/// HighwayHash-64, which a NATS server signs its small files with.
///
/// Source: J. Alakuijala, B. Cox, J. Wassenberg, "Fast keyed hash/pseudo-random function using SIMD multiply and permute",
/// 2016. For small inputs: it is written to be read.
struct HighwayHash {
  private var v0: [UInt64]
  private var v1: [UInt64]
  private var mul0: [UInt64] = [
    0xdbe6_d5d5_fe4c_ce2f, 0xa409_3822_299f_31d0, 0x1319_8a2e_0370_7344, 0x243f_6a88_85a3_08d3,
  ]
  private var mul1: [UInt64] = [
    0x3bd3_9e10_cb0e_f593, 0xc0ac_f169_b5f1_8a8c, 0xbe54_66cf_34e9_0c6c, 0x4528_21e6_38d0_1377,
  ]

  /// - Parameter key: 32 bytes.
  static func hash64(_ bytes: [UInt8], key: [UInt8]) -> [UInt8] {
    var state = HighwayHash(key)
    var offset = 0
    while bytes.count - offset >= 32 {
      state.update(words(bytes[offset..<offset + 32]))
      offset += 32
    }
    if offset < bytes.count { state.updateRemainder(Array(bytes[offset...])) }
    for _ in 0..<4 { state.permuteAndUpdate() }
    let value = state.v0[0] &+ state.v1[0] &+ state.mul0[0] &+ state.mul1[0]
    return (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
  }

  private init(_ key: [UInt8]) {
    let words = Self.words(key[...])
    v0 = zip(mul0, words).map { $0 ^ $1 }
    v1 = zip(mul1, words).map { $0 ^ ($1 >> 32 | $1 << 32) }
  }

  private static func words(_ bytes: ArraySlice<UInt8>) -> [UInt64] {
    (0..<4).map { word in
      (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[bytes.startIndex + word * 8 + $1]) << UInt64(8 * $1) }
    }
  }

  private mutating func update(_ lanes: [UInt64]) {
    for i in 0..<4 {
      v1[i] = v1[i] &+ mul0[i] &+ lanes[i]
      mul0[i] ^= (v1[i] & 0xffff_ffff) &* (v0[i] >> 32)
      v0[i] = v0[i] &+ mul1[i]
      mul1[i] ^= (v0[i] & 0xffff_ffff) &* (v1[i] >> 32)
    }
    Self.zipperMergeAndAdd(v1[1], v1[0], &v0, 1, 0)
    Self.zipperMergeAndAdd(v1[3], v1[2], &v0, 3, 2)
    Self.zipperMergeAndAdd(v0[1], v0[0], &v1, 1, 0)
    Self.zipperMergeAndAdd(v0[3], v0[2], &v1, 3, 2)
  }

  private static func zipperMergeAndAdd(
    _ high: UInt64, _ low: UInt64, _ target: inout [UInt64], _ highIndex: Int, _ lowIndex: Int
  ) {
    let a = ((low & 0xff00_0000) | (high & 0xff_0000_0000)) >> 24
    let b = ((low & 0xff00_0000_0000) | (high & 0xff_0000_0000_0000)) >> 16
    let c = (low & 0xff_0000) | ((low & 0xff00) << 32) | ((high & 0xff00_0000_0000_0000) >> 8) | (low << 56)
    target[lowIndex] = target[lowIndex] &+ (a | b | c)
    let d = ((high & 0xff00_0000) | (low & 0xff_0000_0000)) >> 24
    let e = (high & 0xff_0000) | ((high & 0xff00_0000_0000) >> 16) | ((high & 0xff00) << 24)
    let f = ((low & 0xff_0000_0000_0000) >> 8) | ((high & 0xff) << 48) | (low & 0xff00_0000_0000_0000)
    target[highIndex] = target[highIndex] &+ (d | e | f)
  }

  private mutating func updateRemainder(_ rest: [UInt8]) {
    let size = rest.count
    for i in 0..<4 { v0[i] = v0[i] &+ (UInt64(size) << 32 &+ UInt64(size)) }
    for i in 0..<4 {
      let (low, high) = (UInt32(truncatingIfNeeded: v1[i]), UInt32(truncatingIfNeeded: v1[i] >> 32))
      func rotate(_ value: UInt32) -> UInt32 {
        let by = UInt32(size & 31)
        return by == 0 ? value : (value << by) | (value >> (32 - by))
      }
      v1[i] = UInt64(rotate(high)) << 32 | UInt64(rotate(low))
    }
    var packet = [UInt8](repeating: 0, count: 32)
    let whole = size & ~3
    for i in 0..<whole { packet[i] = rest[i] }
    if size & 16 != 0 {
      for i in 0..<4 { packet[28 + i] = rest[whole + i + (size & 3) - 4] }
    } else if size & 3 != 0 {
      let odd = size & 3
      packet[16] = rest[whole]
      packet[17] = rest[whole + odd >> 1]
      packet[18] = rest[whole + odd - 1]
    }
    update(Self.words(packet[...]))
  }

  private mutating func permuteAndUpdate() {
    func swapped(_ value: UInt64) -> UInt64 { value >> 32 | value << 32 }
    update([swapped(v0[2]), swapped(v0[3]), swapped(v0[0]), swapped(v0[1])])
  }
}
