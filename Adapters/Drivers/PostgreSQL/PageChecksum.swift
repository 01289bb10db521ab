/// The 16-bit checksum on PostgreSQL's data pages, and what else tells a sound page from a damaged one.
///
/// 32 interleaved hashes, each like FNV-1a over 32-bit words with an extra shift, folded with XOR.
/// Source: PostgreSQL 15, src/include/storage/checksum_impl.h and bufpage.h.
enum DataPage {
  static let bytes = 8192

  enum Verdict: Equatable {
    case sound
    /// Never written: all zero.
    case new
    case damaged
  }

  /// - Parameters:
  ///   - page: 8,192 bytes, aligned to four.
  ///   - block: Number of the block in its fork, over all segments.
  static func verdict(of page: UnsafeRawBufferPointer, block: UInt32) -> Verdict {
    let upper = page.loadUnaligned(fromByteOffset: 14, as: UInt16.self)
    if upper == 0 { return page.allSatisfy { $0 == 0 } ? .new : .damaged }
    return checksum(of: page, block: block) == page.loadUnaligned(fromByteOffset: 8, as: UInt16.self)
      ? .sound : .damaged
  }

  /// The position in the log of the last change to this page: `pd_lsn`, two 32-bit halves.
  static func position(of page: UnsafeRawBufferPointer) -> LogSequenceNumber {
    let high = page.loadUnaligned(fromByteOffset: 0, as: UInt32.self)
    let low = page.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
    return LogSequenceNumber(UInt64(high) << 32 | UInt64(low))
  }

  static func checksum(of page: UnsafeRawBufferPointer, block: UInt32) -> UInt16 {
    precondition(page.count == bytes, "a page has 8,192 bytes")
    let words = page.bindMemory(to: UInt32.self)
    return withUnsafeTemporaryAllocation(of: UInt32.self, capacity: columns) { sums in
      for column in 0..<columns { sums[column] = offsets[column] }
      // The checksum's own field, the lower half of word 2, counts as zero. It is in the first row.
      for column in 0..<columns {
        let word = column == 2 ? words[2] & 0xffff_0000 : words[column]
        sums[column] = round(sums[column], word)
      }
      var index = columns
      while index < words.count {
        for column in 0..<columns { sums[column] = round(sums[column], words[index &+ column]) }
        index &+= columns
      }
      var result: UInt32 = 0
      for column in 0..<columns { result ^= round(round(sums[column], 0), 0) }
      return UInt16((result ^ block) % 65_535 + 1)
    }
  }

  @inline(__always)
  private static func round(_ sum: UInt32, _ word: UInt32) -> UInt32 {
    let mixed = sum ^ word
    return (mixed &* 16_777_619) ^ (mixed >> 17)
  }

  private static let columns = 32

  private static let offsets: [UInt32] = [
    0x5b1f_36e9, 0xb852_5960, 0x02ab_50aa, 0x1de6_6d2a, 0x79ff_467a, 0x9bb9_f8a3, 0x217e_7cd2, 0x83e1_3d2c,
    0xf8d4_474f, 0xe39e_b970, 0x42c6_ae16, 0x9932_16fa, 0x7b09_3b5d, 0x98da_ff3c, 0xf718_902a, 0x0b1c_9cdb,
    0xe58f_764b, 0x1876_36bc, 0x5d7b_3bb1, 0xe73d_e7de, 0x92be_c979, 0xcca6_c0b2, 0x304a_0979, 0x85aa_43d4,
    0x7831_25bb, 0x6ca8_eaa2, 0xe407_eac6, 0x4b5c_fc3e, 0x9fbf_8c76, 0x15ca_20be, 0xf2ca_9fd3, 0x959b_d756,
  ]
}
